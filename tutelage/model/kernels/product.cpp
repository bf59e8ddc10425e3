// x · Wᵀ for a few rows x, as decoding has them, over a weight laid out for it. Twin in PyTorch: F.linear.
//
// The weights of a step are read from memory once and each is used for a few rows only, so a step waits for memory as
// long as it computes. Panels of 48 words lie one after another as they are read, and the next one is fetched while the
// one at hand is multiplied by all rows. Needs AVX-512 with bf16 products; processors with AMX are served better by
// oneDNN, and are left to it.
//
// Legend: M rows, N words out, K in; a panel is K/2 × 48 pairs of bf16.

#include "numbers.h"

static constexpr int64_t WIDE = 48, TALL = 8;

#if defined(__AVX512BF16__) && defined(__AVX512VL__) && !defined(__AMX_BF16__)
#include <immintrin.h>

static constexpr bool here = true;

// `rows` ≤ TALL rows of x by one panel. `ahead` is fetched meanwhile, a line a step, from `line` on.
template <int rows>
static void tile(const uint16_t* x, int64_t stride, const uint32_t* panel, const char* ahead, int64_t lines, uint16_t* out,
                 int64_t N, int64_t words, int64_t pairs) {
  __m512 sum[rows][3];
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < 3; ++c) sum[r][c] = _mm512_setzero_ps();
  for (int64_t k = 0; k < pairs; ++k) {
    const uint32_t* at = panel + k * WIDE;
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(at), b1 = (__m512bh)_mm512_loadu_si512(at + 16),
                   b2 = (__m512bh)_mm512_loadu_si512(at + 32);
    if (k < lines) _mm_prefetch(ahead + k * 64, _MM_HINT_T1);
    for (int r = 0; r < rows; ++r) {
      int32_t pair;
      std::memcpy(&pair, x + r * stride + 2 * k, 4);
      const __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], a, b0);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], a, b1);
      sum[r][2] = _mm512_dpbf16_ps(sum[r][2], a, b2);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < 3; ++c) {
      const int64_t left = words - c * 16;
      if (left <= 0) break;
      const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
      _mm256_mask_storeu_epi16(out + r * N + c * 16, mask, (__m256i)_mm512_cvtneps_pbh(sum[r][c]));
    }
}

template <int rows>
static void tile_of(int64_t count, const uint16_t* x, int64_t stride, const uint32_t* panel, const char* ahead,
                    int64_t lines, uint16_t* out, int64_t N, int64_t words, int64_t pairs) {
  if constexpr (rows > 0) {
    if (count == rows)
      tile<rows>(x, stride, panel, ahead, lines, out, N, words, pairs);
    else
      tile_of<rows - 1>(count, x, stride, panel, ahead, lines, out, N, words, pairs);
  }
}

static void product(const uint16_t* x, const uint32_t* packed, uint16_t* out, int64_t M, int64_t N, int64_t K, int threads) {
  const int64_t panels = (N + WIDE - 1) / WIDE, pairs = K / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t p = 0; p < panels; ++p) {
    const uint32_t* panel = packed + p * pairs * WIDE;
    const char* next = reinterpret_cast<const char*>(panel + (p + 1 < panels ? pairs * WIDE : 0));
    const int64_t all = pairs * WIDE / 16, tiles = (M + TALL - 1) / TALL, words = N - p * WIDE < WIDE ? N - p * WIDE : WIDE;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t row = i * TALL, from = all * i / tiles, lines = all * (i + 1) / tiles - from;
      tile_of<TALL>(M - row < TALL ? M - row : TALL, x + row * K, K, panel, next + from * 64, lines,
                    out + row * N + p * WIDE, N, words, pairs);
    }
  }
}
#else
static constexpr bool here = false;
static void product(const uint16_t*, const uint32_t*, uint16_t*, int64_t, int64_t, int64_t, int) {}
#endif

extern "C" int has_products() { return here; }

// W (N, K) row by row → panels, the last one filled up with zeros.
extern "C" void packed_bfloat16(const uint32_t* weight, uint32_t* out, int64_t N, int64_t K, int threads) {
  const int64_t panels = (N + WIDE - 1) / WIDE, pairs = K / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t p = 0; p < panels; ++p) {
    uint32_t* panel = out + p * pairs * WIDE;
    for (int64_t k = 0; k < pairs; ++k)
      for (int64_t j = 0; j < WIDE; ++j)
        panel[k * WIDE + j] = p * WIDE + j < N ? weight[(p * WIDE + j) * pairs + k] : 0;
  }
}

extern "C" void product_bfloat16(const uint16_t* x, const uint32_t* packed, uint16_t* out, int64_t M, int64_t N, int64_t K,
                                 int threads) {
  product(x, packed, out, M, N, K, threads);
}
