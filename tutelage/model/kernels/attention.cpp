// Causal attention inside packed sequences, forward and backward, in bf16 with sums in fp32. Twin in PyTorch: Products in
// model/attention.py.
//
// A task is one sequence and one key/value head with all queries that share it: what it reads and its scores stay in a
// processor's own cache, and nothing is laid out anew in memory. Scores are computed again on the way back. Needs
// AVX-512 with bf16 products; processors with AMX multiply larger rectangles faster, and are left to it.
//
// Legend: T tokens, A heads, G key/value heads, R = A/G heads to each, D head size (a multiple of 16); a sequence has n
// keys, of which the last `own` are its own tokens'. "Pairs": two bf16 in 32 bits, which one instruction multiplies.

#include <algorithm>
#include <vector>

#include "numbers.h"

#if defined(__AVX512BF16__) && defined(__AVX512VL__) && !defined(__AMX_BF16__)
#include <immintrin.h>

static constexpr int64_t ROWS = 64;  // queries of all heads at once, about

// C (rows, 16·vectors) = or += A · B. A's row r has its pairs at a[r] + k·apart, B's row k of pairs is at b + k·wide.
template <int rows, int vectors>
static inline void tile(const uint32_t* const* a, int64_t apart, const uint32_t* b, int64_t wide, float* c, int64_t stride,
                        int64_t pairs, bool more) {
  __m512 sum[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) sum[r][v] = more ? _mm512_loadu_ps(c + r * stride + v * 16) : _mm512_setzero_ps();
  for (int64_t k = 0; k < pairs; ++k) {
    __m512bh right[vectors];
    for (int v = 0; v < vectors; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + k * wide + v * 16);
    for (int r = 0; r < rows; ++r) {
      const __m512bh left = (__m512bh)_mm512_set1_epi32(a[r][k * apart]);
      for (int v = 0; v < vectors; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], left, right[v]);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) _mm512_storeu_ps(c + r * stride + v * 16, sum[r][v]);
}

template <int vectors>
static void column(int64_t M, const uint32_t* const* a, int64_t apart, const uint32_t* b, int64_t wide, float* c,
                   int64_t stride, int64_t pairs, bool more) {
  int64_t m = 0;
  for (; m + 6 <= M; m += 6) tile<6, vectors>(a + m, apart, b, wide, c + m * stride, stride, pairs, more);
  for (; m + 2 <= M; m += 2) tile<2, vectors>(a + m, apart, b, wide, c + m * stride, stride, pairs, more);
  for (; m < M; ++m) tile<1, vectors>(a + m, apart, b, wide, c + m * stride, stride, pairs, more);
}

// M rows by N columns, N a multiple of 16.
static void product(int64_t M, int64_t N, const uint32_t* const* a, int64_t apart, const uint32_t* b, int64_t wide, float* c,
                    int64_t stride, int64_t pairs, bool more) {
  int64_t n = 0;
  for (; n + 64 <= N; n += 64) column<4>(M, a, apart, b + n, wide, c + n, stride, pairs, more);
  if (N - n == 48) column<3>(M, a, apart, b + n, wide, c + n, stride, pairs, more);
  if (N - n == 32) column<2>(M, a, apart, b + n, wide, c + n, stride, pairs, more);
  if (N - n == 16) column<1>(M, a, apart, b + n, wide, c + n, stride, pairs, more);
}

static inline uint32_t pair(uint16_t first, uint16_t second) { return first | static_cast<uint32_t>(second) << 16; }
static inline uint16_t rounded(float x) { return as<bfloat16>(x).bits; }

struct Sequence {
  int64_t start, own, shared;  // own tokens from `start`
  const int64_t* before;       // places of those that it shares
  int64_t n() const { return shared + own; }
  int64_t place(int64_t j) const { return j < shared ? before[j] : start + j - shared; }
};

// What a thread works in.
struct Room {
  std::vector<uint32_t> turned, other, paired, query, push, across, slope;
  std::vector<float> score, pull, sum, back_k, back_v;
  std::vector<const uint32_t*> row, column;
  std::vector<uint16_t> low, share, zero;
};

// x (T, G, D), one head of a sequence's n rows: pairs of D turned, (D/2, wide), and pairs of rows, (wide/2, D).
static void turn(const uint16_t* x, const Sequence& s, int64_t G, int64_t D, int64_t wide, std::vector<uint32_t>& out) {
  out.assign(D / 2 * wide, 0);
  for (int64_t j = 0; j < s.n(); ++j) {
    const uint16_t* from = x + s.place(j) * G * D;
    for (int64_t d = 0; d < D / 2; ++d) out[d * wide + j] = pair(from[2 * d], from[2 * d + 1]);
  }
}

// Two rows of n side by side.
static inline void side_by_side(const uint16_t* __restrict__ one, const uint16_t* __restrict__ other,
                                uint32_t* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = one[i] | static_cast<uint32_t>(other[i]) << 16;
}

static void by_rows(const uint16_t* x, const Sequence& s, int64_t G, int64_t D, int64_t wide, Room& room) {
  room.paired.assign(wide / 2 * D, 0);
  room.zero.assign(D, 0);
  for (int64_t j = 0; j < s.n(); j += 2)
    side_by_side(x + s.place(j) * G * D, j + 1 < s.n() ? x + s.place(j + 1) * G * D : room.zero.data(),
                 room.paired.data() + j / 2 * D, D);
}

// Some own tokens of a sequence, with all queries of a head: row i·R + r is of token `from` + i.
struct Block {
  int64_t from, to, R, window, first, last;  // keys that anyone sees: first to last, both multiples of 16
  Block(const Sequence& s, int64_t b, int64_t e, int64_t R_, int64_t window_) : from(b), to(e), R(R_), window(window_) {
    first = window ? std::max<int64_t>(0, s.shared + b + 1 - window) / 16 * 16 : 0;
    last = (s.shared + e + 15) / 16 * 16;
  }
  int64_t rows() const { return (to - from) * R; }
  // The keys of `row`, counted from `first`: from `low` on, before `high`.
  int64_t high(const Sequence& s, int64_t row) const { return s.shared + from + row / R + 1 - first; }
  int64_t low(const Sequence& s, int64_t row) const { return window ? std::max<int64_t>(0, high(s, row) - window) : 0; }
};

// Where the rows of a block begin in x (T, A, D).
static void rows_of(const uint16_t* x, const Sequence& s, const Block& block, int64_t A, int64_t D,
                    std::vector<const uint32_t*>& out) {
  out.clear();
  for (int64_t i = block.from; i < block.to; ++i)
    for (int64_t r = 0; r < block.R; ++r)
      out.push_back(reinterpret_cast<const uint32_t*>(x + (s.start + i) * A * D + r * D));
}

// The rows, pairs of them side by side: (rows/2, D).
static void interleave(const std::vector<const uint32_t*>& rows, int64_t D, const Room& room, std::vector<uint32_t>& out) {
  const int64_t many = rows.size();
  out.resize((many + 1) / 2 * D);
  const auto at = [&](int64_t i) { return i < many ? reinterpret_cast<const uint16_t*>(rows[i]) : room.zero.data(); };
  for (int64_t i = 0; i < many; i += 2) side_by_side(at(i), at(i + 1), out.data() + i / 2 * D, D);
}

// What stands in `low` (rows, keys) times what stands in `paired`, to the rows' places in x (T, A, D).
static void weighed(const Sequence& s, const Block& block, int64_t A, int64_t D, Room& room, uint16_t* x) {
  const int64_t M = block.rows(), N = block.last - block.first;
  room.column.resize(M);
  for (int64_t m = 0; m < M; ++m) room.column[m] = reinterpret_cast<const uint32_t*>(room.low.data() + m * N);
  room.sum.resize(M * D);
  product(M, D, room.column.data(), 1, room.paired.data() + block.first / 2 * D, D, room.sum.data(), D, N / 2, false);
  for (int64_t m = 0; m < M; ++m) {
    uint16_t* to = x + (s.start + block.from + m / block.R) * A * D + m % block.R * D;
    for (int64_t d = 0; d < D; ++d) to[d] = rounded(room.sum[m * D + d]);
  }
}

static void forward(const uint16_t* q, const uint16_t* k, const uint16_t* v, const Sequence& s, uint16_t* out, float* log_z,
                    int64_t A, int64_t G, int64_t D, int64_t window, Room& room) {
  const int64_t R = A / G, wide = (s.n() + 15) / 16 * 16, step = std::max<int64_t>(1, ROWS / R);
  const float scale = 1.0f / std::sqrt(static_cast<float>(D));
  turn(k, s, G, D, wide, room.turned);
  by_rows(v, s, G, D, wide, room);
  for (int64_t b = 0; b < s.own; b += step) {
    const Block block(s, b, std::min(s.own, b + step), R, window);
    const int64_t M = block.rows(), N = block.last - block.first;
    rows_of(q, s, block, A, D, room.row);
    room.score.resize(M * N);
    product(M, N, room.row.data(), 1, room.turned.data() + block.first, wide, room.score.data(), N, D / 2, false);
    room.low.assign(M * N, 0);
    for (int64_t m = 0; m < M; ++m) {
      float* score = room.score.data() + m * N;
      uint16_t* to = room.low.data() + m * N;
      const int64_t low = block.low(s, m), high = block.high(s, m);
      const float most = greatest(score + low, high - low);
      float total = 0;
      for (int64_t j = low; j < high; ++j) {
        score[j] = exponential((score[j] - most) * scale);
        total += score[j];
      }
      const float share = 1 / total;
      for (int64_t j = low; j < high; ++j) to[j] = rounded(score[j] * share);
      log_z[(s.start + b + m / R) * A + m % R] = most * scale + std::log(total);
    }
    weighed(s, block, A, D, room, out);
  }
}

// Gradients of all queries of the head, and of the sequence's keys and values: grad_k, grad_v (n, G, D) from its first.
static void backward(const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint16_t* out, const uint16_t* grad,
                     const float* log_z, const Sequence& s, uint16_t* grad_q, float* grad_k, float* grad_v, int64_t A, int64_t G,
                     int64_t D, int64_t window, Room& room) {
  const int64_t R = A / G, wide = (s.n() + 15) / 16 * 16, step = std::max<int64_t>(1, ROWS / R);
  const float scale = 1.0f / std::sqrt(static_cast<float>(D));
  turn(k, s, G, D, wide, room.turned);
  turn(v, s, G, D, wide, room.other);
  by_rows(k, s, G, D, wide, room);
  room.back_k.assign(wide * D, 0);
  room.back_v.assign(wide * D, 0);
  std::vector<const uint32_t*> pushes;
  for (int64_t b = 0; b < s.own; b += step) {
    const Block block(s, b, std::min(s.own, b + step), R, window);
    const int64_t M = block.rows(), N = block.last - block.first, even = (M + 1) / 2;
    rows_of(q, s, block, A, D, room.row);
    rows_of(grad, s, block, A, D, pushes);
    interleave(room.row, D, room, room.query);
    interleave(pushes, D, room, room.push);
    room.score.resize(M * N);
    room.pull.resize(M * N);
    product(M, N, room.row.data(), 1, room.turned.data() + block.first, wide, room.score.data(), N, D / 2, false);
    product(M, N, pushes.data(), 1, room.other.data() + block.first, wide, room.pull.data(), N, D / 2, false);
    room.across.resize(even * N);        // probabilities, pairs of rows side by side
    room.slope.resize(even * N);         // and the gradients of scores
    room.share.assign(2 * even * N, 0);  // both row by row
    room.low.assign(2 * even * N, 0);
    for (int64_t m = 0; m < M; ++m) {
      const int64_t token = s.start + b + m / R, head = m % R, low = block.low(s, m), high = block.high(s, m);
      const uint16_t *push = grad + token * A * D + head * D, *said = out + token * A * D + head * D;
      float mean = 0;
      for (int64_t d = 0; d < D; ++d) mean += as<float>(bfloat16{push[d]}) * as<float>(bfloat16{said[d]});
      const float z = log_z[token * A + head];
      const float *score = room.score.data() + m * N, *pull = room.pull.data() + m * N;
      uint16_t *slope = room.low.data() + m * N, *share = room.share.data() + m * N;
      for (int64_t j = low; j < high; ++j) {
        const float p = exponential(score[j] * scale - z);
        share[j] = rounded(p);
        slope[j] = rounded(p * (pull[j] - mean) * scale);
      }
    }
    for (int64_t m = 0; m < 2 * even; m += 2) {
      side_by_side(room.share.data() + m * N, room.share.data() + (m + 1) * N, room.across.data() + m / 2 * N, N);
      side_by_side(room.low.data() + m * N, room.low.data() + (m + 1) * N, room.slope.data() + m / 2 * N, N);
    }
    weighed(s, block, A, D, room, grad_q);
    room.column.resize(N);
    for (int64_t j = 0; j < N; ++j) room.column[j] = room.across.data() + j;
    product(N, D, room.column.data(), N, room.push.data(), D, room.back_v.data() + block.first * D, D, even, true);
    for (int64_t j = 0; j < N; ++j) room.column[j] = room.slope.data() + j;
    product(N, D, room.column.data(), N, room.query.data(), D, room.back_k.data() + block.first * D, D, even, true);
  }
  for (int64_t j = 0; j < s.n(); ++j) {
    std::memcpy(grad_k + j * G * D, room.back_k.data() + j * D, D * sizeof(float));
    std::memcpy(grad_v + j * G * D, room.back_v.data() + j * D, D * sizeof(float));
  }
}

// Sequence i: `spans` (N, 4) has its start, its own tokens, those it shares, and where their places begin in `before`;
// `first` (N) has where its keys begin in a list of all sequences' keys.
static Sequence sequence(const int64_t* spans, const int64_t* before, int64_t i) {
  const int64_t* at = spans + 4 * i;
  return {at[0], at[1], at[2], before + at[3]};
}

extern "C" void attended_bfloat16(const uint16_t* q, const uint16_t* k, const uint16_t* v, const int64_t* spans,
                                  const int64_t* before, uint16_t* out, float* log_z, int64_t N, int64_t A, int64_t G, int64_t D,
                                  int64_t window, int threads) {
#pragma omp parallel num_threads(threads)
  {
    Room room;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < N * G; ++task) {
      const int64_t g = task % G, head = g * (A / G);
      forward(q + head * D, k + g * D, v + g * D, sequence(spans, before, task / G), out + head * D, log_z + head, A, G, D,
              window, room);
    }
  }
}

extern "C" void attended_back_bfloat16(const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint16_t* out,
                                       const uint16_t* grad, const float* log_z, const int64_t* spans, const int64_t* before,
                                       const int64_t* first, uint16_t* grad_q, float* grad_k, float* grad_v, int64_t N,
                                       int64_t A, int64_t G, int64_t D, int64_t window, int threads) {
#pragma omp parallel num_threads(threads)
  {
    Room room;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < N * G; ++task) {
      const int64_t g = task % G, head = g * (A / G), at = first[task / G] * G * D + g * D;
      backward(q + head * D, k + g * D, v + g * D, out + head * D, grad + head * D, log_z + head,
               sequence(spans, before, task / G), grad_q + head * D, grad_k + at, grad_v + at, A, G, D, window, room);
    }
  }
}
#else
extern "C" void attended_bfloat16(const uint16_t*, const uint16_t*, const uint16_t*, const int64_t*, const int64_t*, uint16_t*,
                                  float*, int64_t, int64_t, int64_t, int64_t, int64_t, int) {}
extern "C" void attended_back_bfloat16(const uint16_t*, const uint16_t*, const uint16_t*, const uint16_t*, const uint16_t*,
                                       const float*, const int64_t*, const int64_t*, const int64_t*, uint16_t*, float*, float*,
                                       int64_t, int64_t, int64_t, int64_t, int64_t, int) {}
#endif
