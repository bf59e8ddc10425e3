// One token more for every row: attention over what the row holds, and the draw of the token. Twins in PyTorch:
// sample/cache.py (look_back) and sample/draw.py.
//
// Legend: B rows, S slots, A heads, G key/value heads, R = A/G heads to each, C capacity, D head size, V vocabulary.

#include <algorithm>
#include <limits>
#include <vector>

#include "numbers.h"

template <typename low>
static float dot(const float* __restrict__ a, const low* __restrict__ b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * as<float>(b[i]);
  return sum;
}

template <typename low>
static void add_scaled(float* __restrict__ to, const low* __restrict__ from, float scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += scale * as<float>(from[i]);
}

// Puts each row's new key and value at its place, and lets its queries look at the first place + 1 of them, or the last
// `window` (0: all). q (B, A, D); k, v (B, G, D); held (S, G, C, D); place (B) → out (B, A, D). D is a constant to the loops.
template <typename low, int fixed>
static void looked(const low* q, const low* k, const low* v, low* held_k, low* held_v, const int64_t* place, low* out,
                   int64_t B, int64_t A, int64_t G, int64_t C, int64_t D_, int64_t window, int threads) {
  const int64_t D = fixed ? fixed : D_, R = A / G;
  const float scale = 1.0f / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> weight(C), query(D), sum(D);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < B * G; ++task) {
      const int64_t b = task / G, g = task % G, last = place[b];
      const int64_t first = window ? std::max<int64_t>(0, last + 1 - window) : 0;
      low *keys = held_k + task * C * D, *values = held_v + task * C * D;
      std::memcpy(keys + last * D, k + task * D, D * sizeof(low));
      std::memcpy(values + last * D, v + task * D, D * sizeof(low));
      for (int64_t r = 0; r < R; ++r) {
        const low* asked = q + (b * A + g * R + r) * D;
        for (int64_t i = 0; i < D; ++i) query[i] = as<float>(asked[i]) * scale;
        float most = -std::numeric_limits<float>::infinity();
        for (int64_t t = first; t <= last; ++t) {
          weight[t] = dot(query.data(), keys + t * D, D);
          most = std::max(most, weight[t]);
        }
        float total = 0;
        for (int64_t t = first; t <= last; ++t) {
          weight[t] = exponential(weight[t] - most);
          total += weight[t];
        }
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (int64_t t = first; t <= last; ++t) add_scaled(sum.data(), values + t * D, weight[t], D);
        low* to = out + (b * A + g * R + r) * D;
        for (int64_t i = 0; i < D; ++i) to[i] = as<low>(sum[i] / total);
      }
    }
  }
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
      float most = -std::numeric_limits<float>::infinity();
      for (int64_t i = 0; i < V; ++i) most = std::max(most, as<float>(row[i]));
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
      double passed = j ? upto[j - 1] : 0.0;
      int64_t chosen = -1;
      for (int64_t i = j * block; i < stop; ++i) {
        const float p = exponential((as<float>(row[i]) - most) * cold);
        passed += p;
        if (p > 0) chosen = i;  // the last possible one, should rounding pass the end of the block
        if (passed > target) break;
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
    (D == 64 ? looked<low, 64> : D == 128 ? looked<low, 128> : looked<low, 0>)(q, k, v, held_k, held_v, place, out, B, A,  \
                                                                               G, C, D, window, threads);                  \
  }                                                                                                                        \
  extern "C" void drawn_##name(const low* logits, const double* uniform, int64_t* token, float* logprob, int64_t B,        \
                               int64_t V, float temperature, int threads) {                                                \
    drawn(logits, uniform, token, logprob, B, V, temperature, threads);                                                    \
  }

EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)
