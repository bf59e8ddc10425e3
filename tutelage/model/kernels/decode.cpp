// One token more for every row: attention over what the row holds, and the draw of the token. Twins in PyTorch:
// sample/cache.py (look_back) and sample/draw.py.
//
// Legend: B rows, S slots, A heads, G key/value heads, R = A/G heads to each, C capacity, D head size, V vocabulary.

#include <algorithm>
#include <limits>
#include <vector>

#include "numbers.h"

static constexpr int64_t AHEAD = 24;  // keys that are fetched before they are needed

// The queries (R, D) that share a key look at n keys and values (n, D) → out (R, D). `weight` is room for R·n numbers.
// Where D and R are not 0 they are constants to the loops, and a key is read once for all queries.
template <typename low, int fixed_D, int fixed_R>
static void look(const low* __restrict__ asked, const low* __restrict__ keys, const low* __restrict__ values,
                 float* __restrict__ weight, low* __restrict__ out, int64_t n, int64_t D_, int64_t R_, float* room) {
  const int64_t D = fixed_D ? fixed_D : D_, R = fixed_R ? fixed_R : R_;
  const float scale = 1.0f / std::sqrt(static_cast<float>(D));
  float own[fixed_D && fixed_R ? (2 * fixed_R + 1) * fixed_D : 1];
  float* query = fixed_D && fixed_R ? own : room;  // (R, D), then sums (R, D), then a key or value (D)
  float *sum = query + R * D, *one = sum + R * D;
  for (int64_t i = 0; i < R * D; ++i) query[i] = as<float>(asked[i]) * scale;
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t i = 0; i < D; i += 32) __builtin_prefetch(keys + (t + AHEAD) * D + i);
    for (int64_t i = 0; i < D; ++i) one[i] = as<float>(keys[t * D + i]);
    for (int64_t r = 0; r < R; ++r) {
      float score = 0;
      for (int64_t i = 0; i < D; ++i) score += query[r * D + i] * one[i];
      weight[r * n + t] = score;
    }
  }
  for (int64_t r = 0; r < R; ++r) {
    const float most = greatest(weight + r * n, n);
    float total = 0;
    for (int64_t t = 0; t < n; ++t) {
      weight[r * n + t] = exponential(weight[r * n + t] - most);
      total += weight[r * n + t];
    }
    for (int64_t t = 0; t < n; ++t) weight[r * n + t] /= total;
  }
  for (int64_t i = 0; i < R * D; ++i) sum[i] = 0;
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t i = 0; i < D; i += 32) __builtin_prefetch(values + (t + AHEAD) * D + i);
    for (int64_t i = 0; i < D; ++i) one[i] = as<float>(values[t * D + i]);
    for (int64_t r = 0; r < R; ++r) {
      const float p = weight[r * n + t];
      for (int64_t i = 0; i < D; ++i) sum[r * D + i] += p * one[i];
    }
  }
  for (int64_t i = 0; i < R * D; ++i) out[i] = as<low>(sum[i]);
}

template <typename low>
using Look = void (*)(const low*, const low*, const low*, float*, low*, int64_t, int64_t, int64_t, float*);

template <typename low, int D>
static Look<low> look_of(int64_t R) {
  switch (R) {
    case 1:
      return look<low, D, 1>;
    case 2:
      return look<low, D, 2>;
    case 3:
      return look<low, D, 3>;
    case 4:
      return look<low, D, 4>;
    case 8:
      return look<low, D, 8>;
    default:
      return look<low, D, 0>;
  }
}

// Puts each row's new key and value at its place, and lets its queries look at the first place + 1 of them, or the last
// `window` (0: all). q (B, A, D); k, v (B, G, D); held (S, G, C, D); place (B) → out (B, A, D).
template <typename low>
static void looked(const low* q, const low* k, const low* v, low* held_k, low* held_v, const int64_t* place, low* out,
                   int64_t B, int64_t A, int64_t G, int64_t C, int64_t D, int64_t window, int threads) {
  const int64_t R = A / G;
  const Look<low> look_at = D == 64 ? look_of<low, 64>(R) : D == 128 ? look_of<low, 128>(R) : look<low, 0, 0>;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> weight(R * C), room((2 * R + 1) * D);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < B * G; ++task) {
      const int64_t last = place[task / G], first = window ? std::max<int64_t>(0, last + 1 - window) : 0;
      low *keys = held_k + task * C * D, *values = held_v + task * C * D;
      std::memcpy(keys + last * D, k + task * D, D * sizeof(low));
      std::memcpy(values + last * D, v + task * D, D * sizeof(low));
      look_at(q + task * R * D, keys + first * D, values + first * D, weight.data(), out + task * R * D, last + 1 - first, D,
              R, room.data());
    }
  }
}

// What a logit weighs beside the greatest one: nothing where it is masked.
template <typename low>
static double weight(low logit, float most, float cold) {
  const float x = as<float>(logit);
  return std::isinf(x) ? 0.0 : exponential((x - most) * cold);
}

// Draws from softmax(logits / temperature) by inversion, in two levels: sums of blocks, then inside one of them. logits
// (B, V), uniform (B) in [0, 1) → token (B), −1 where the logits are not numbers, and its log-probability (B).
template <typename low>
static void drawn(const low* logits, const double* uniform, int64_t* token, float* logprob, int64_t B, int64_t V,
                  float temperature, int threads) {
  const int64_t block = 256, blocks = (V + block - 1) / block;
  const float cold = 1.0f / temperature;
#pragma omp parallel num_threads(threads)
  {
    std::vector<double> upto(blocks);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < B; ++b) {
      const low* row = logits + b * V;
      const float most = greatest(row, V);
      double total = 0;
      for (int64_t j = 0; j < blocks; ++j) {
        float sum = 0;
        const int64_t stop = std::min(V, (j + 1) * block);
        for (int64_t i = j * block; i < stop; ++i) sum += exponential((as<float>(row[i]) - most) * cold);
        total += sum;
        upto[j] = total;
      }
      if (!(total > 0) || std::isinf(most)) {
        token[b] = -1;
        logprob[b] = std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      const double target = std::min(uniform[b] * total, std::nextafter(total, 0.0));
      const int64_t j = std::upper_bound(upto.begin(), upto.end(), target) - upto.begin();
      const int64_t stop = std::min(V, (j + 1) * block);
      const double before = j ? upto[j - 1] : 0.0;
      double sum = 0, passed = 0;  // of the block anew, as precisely as it is walked through
      for (int64_t i = j * block; i < stop; ++i) sum += weight(row[i], most, cold);
      const double goal = (target - before) / (upto[j] - before) * sum;
      int64_t chosen = -1;
      for (int64_t i = j * block; i < stop; ++i) {
        const double more = passed + weight(row[i], most, cold);
        if (more > passed) chosen = i;  // the last that had any weight, should rounding pass the end of the block
        passed = more;
        if (passed > goal) break;
      }
      token[b] = chosen;
      logprob[b] = (as<float>(row[chosen]) - most) * cold - static_cast<float>(std::log(total));
    }
  }
}

#define EXPORT(low, name)                                                                                                  \
  extern "C" void looked_##name(const low* q, const low* k, const low* v, low* held_k, low* held_v, const int64_t* place,  \
                                low* out, int64_t B, int64_t A, int64_t G, int64_t C, int64_t D, int64_t window,           \
                                int threads) {                                                                             \
    looked(q, k, v, held_k, held_v, place, out, B, A, G, C, D, window, threads);                                           \
  }                                                                                                                        \
  extern "C" void drawn_##name(const low* logits, const double* uniform, int64_t* token, float* logprob, int64_t B,        \
                               int64_t V, float temperature, int threads) {                                                \
    drawn(logits, uniform, token, logprob, B, V, temperature, threads);                                                    \
  }

EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)

extern "C" {
void normed_bfloat16(const float*, const float*, bfloat16*, int64_t, int64_t, float, int);
void added_bfloat16(const float*, const bfloat16*, const float*, float*, bfloat16*, int64_t, int64_t, float, int);
void rotated_bfloat16(bfloat16*, const float*, const float*, bfloat16*, bfloat16*, bfloat16*, int64_t, int64_t, int64_t,
                      int64_t, int, int);
void gated_bfloat16(const bfloat16*, bfloat16*, int64_t, int64_t, int);
void product_bfloat16(const bfloat16*, const uint32_t*, bfloat16*, int64_t, int64_t, int64_t, int);

// A whole layer for one more token of every row, x (B, H) in place: what `Block` and `Step` do piece by piece, in one call.
// Weights as panels; `room` is for B·(2H + (3A + 4G)·D + 3I) numbers.
void layer_bfloat16(const float* attention_norm, const float* mlp_norm, const uint32_t* qkv, const uint32_t* out,
                    const uint32_t* gate_up, const uint32_t* down, float* x, const float* cos, const float* sin,
                    bfloat16* held_k, bfloat16* held_v, const int64_t* place, bfloat16* room, int64_t B, int64_t H, int64_t A,
                    int64_t G, int64_t C, int64_t D, int64_t I, int64_t window, float eps, int threads) {
  const int64_t wide = (A + 2 * G) * D;
  bfloat16 *inner = room, *all = inner + B * H, *q = all + B * wide, *k = q + B * A * D, *v = k + B * G * D;
  normed_bfloat16(x, attention_norm, inner, B, H, eps, threads);
  product_bfloat16(inner, qkv, all, B, wide, H, threads);
  rotated_bfloat16(all, cos, sin, q, k, v, B, A, G, D, 0, threads);
  bfloat16 *attended = v + B * G * D, *more = attended + B * A * D;
  looked(q, k, v, held_k, held_v, place, attended, B, A, G, C, D, window, threads);
  product_bfloat16(attended, out, more, B, H, A * D, threads);
  added_bfloat16(x, more, mlp_norm, x, inner, B, H, eps, threads);
  bfloat16 *both = more + B * H, *gated = both + 2 * B * I;
  product_bfloat16(inner, gate_up, both, B, 2 * I, H, threads);
  gated_bfloat16(both, gated, B, I, threads);
  product_bfloat16(gated, down, more, B, H, I, threads);
  for (int64_t i = 0; i < B * H; ++i) x[i] += as<float>(more[i]);
}
}
