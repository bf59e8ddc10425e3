// What a layer does between its matrix products, one pass over memory each. Twins in PyTorch: model/pieces.py.
//
// Plain C functions on contiguous rows, called through ctypes (kernels/__init__.py). Loops are written so that a
// compiler vectorises them; `low` is the type of the matrix products' inputs, float or bfloat16.
//
// Legend: T tokens, n width of a row, A heads, G key/value heads, D head size, I intermediate size, w words of a tile.

#include "numbers.h"

template <typename low>
static void normed(const float* x, const float* w, low* out, int64_t T, int64_t n, float eps, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < T; ++t) {
    const float* row = x + t * n;
    float squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += row[i] * row[i];
    const float scale = 1.0f / std::sqrt(squares / n + eps);
    low* to = out + t * n;
    for (int64_t i = 0; i < n; ++i) to[i] = as<low>(row[i] * scale * w[i]);
  }
}

template <typename low>
static void added(const float* x, const low* more, const float* w, float* sum, low* out, int64_t T, int64_t n, float eps,
                  int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < T; ++t) {
    const float* row = x + t * n;
    const low* other = more + t * n;
    float* total = sum + t * n;
    float squares = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float s = row[i] + as<float>(other[i]);
      total[i] = s;
      squares += s * s;
    }
    const float scale = 1.0f / std::sqrt(squares / n + eps);
    low* to = out + t * n;
    for (int64_t i = 0; i < n; ++i) to[i] = as<low>(total[i] * scale * w[i]);
  }
}

// y = x·s·w with s = 1/√(mean x² + eps): dx = s·(g·w − x·s²·mean(g·w·x)) + more, dw = Σ_t g·x·s. `more` may be null; `low_out`
// gets dx again, rounded, where it is not null. `weights` is (threads, n) of zeros: each thread's share of dw.
template <typename low>
static void normed_back(const float* x, const float* w, const low* grad, const float* more, float* out, low* low_out,
                        float* weights, int64_t T, int64_t n, float eps, int threads) {
#pragma omp parallel num_threads(threads)
  {
    float* mine = weights + thread() * n;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < T; ++t) {
      const float* row = x + t * n;
      const low* g = grad + t * n;
      float squares = 0, along = 0;
      for (int64_t i = 0; i < n; ++i) {
        squares += row[i] * row[i];
        along += as<float>(g[i]) * w[i] * row[i];
      }
      const float scale = 1.0f / std::sqrt(squares / n + eps), back = scale * scale * along / n;
      float* to = out + t * n;
      for (int64_t i = 0; i < n; ++i) {
        const float push = as<float>(g[i]);
        mine[i] += push * row[i] * scale;
        to[i] = scale * (push * w[i] - row[i] * back);
      }
      if (more)
        for (int64_t i = 0; i < n; ++i) to[i] += more[t * n + i];
      if (low_out)
        for (int64_t i = 0; i < n; ++i) low_out[t * n + i] = as<low>(to[i]);
    }
  }
}

// One head: (a, b) → (a·cos − b·sin, b·cos + a·sin); `turn` −1 turns it back.
template <typename low>
static void turned(const low* __restrict__ from, low* __restrict__ to, const float* __restrict__ cos,
                   const float* __restrict__ sin, float turn, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = as<float>(from[i]), b = as<float>(from[half + i]), s = turn * sin[i];
    to[i] = as<low>(a * cos[i] - b * s);
    to[half + i] = as<low>(b * cos[i] + a * s);
  }
}

// qkv (T, (A + 2G)·D) → q (T, A, D) and k (T, G, D) rotated, v (T, G, D); with `back` from their gradients to qkv's.
template <typename low>
static void rotated(low* qkv, const float* cos, const float* sin, low* q, low* k, low* v, int64_t T, int64_t A, int64_t G,
                    int64_t D, bool back, int threads) {
  const int64_t half = D / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < T; ++t) {
    low* all = qkv + t * (A + 2 * G) * D;
    const float *c = cos + t * half, *s = sin + t * half;
    for (int64_t h = 0; h < A + G; ++h) {
      low* packed = all + h * D;
      low* apart = h < A ? q + (t * A + h) * D : k + (t * G + h - A) * D;
      if (back)
        turned(apart, packed, c, s, -1.0f, half);
      else
        turned(packed, apart, c, s, 1.0f, half);
    }
    low *values = all + (A + G) * D, *apart = v + t * G * D;
    std::memcpy(back ? values : apart, back ? apart : values, G * D * sizeof(low));
  }
}

template <typename low>
static void gate(const low* __restrict__ gate, const low* __restrict__ up, low* __restrict__ out, int64_t I) {
  for (int64_t i = 0; i < I; ++i) {
    const float g = as<float>(gate[i]);
    out[i] = as<low>(g / (1.0f + exponential(-g)) * as<float>(up[i]));
  }
}

template <typename low>
static void gate_back(const low* __restrict__ gate, const low* __restrict__ up, const low* __restrict__ grad,
                      low* __restrict__ to_gate, low* __restrict__ to_up, int64_t I) {
  for (int64_t i = 0; i < I; ++i) {
    const float g = as<float>(gate[i]), push = as<float>(grad[i]), s = 1.0f / (1.0f + exponential(-g));
    to_gate[i] = as<low>(push * as<float>(up[i]) * s * (1.0f + g * (1.0f - s)));
    to_up[i] = as<low>(push * g * s);
  }
}

template <typename low>
static void gated(const low* x, low* out, int64_t T, int64_t I, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < T; ++t) gate(x + t * 2 * I, x + t * 2 * I + I, out + t * I, I);
}

template <typename low>
static void gated_back(const low* x, const low* grad, low* out, int64_t T, int64_t I, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < T; ++t) {
    const int64_t at = t * 2 * I;
    gate_back(x + at, x + at + I, grad + t * I, out + at, out + at + I, I);
  }
}

// Of logits · cold, row by row: log Σ exp, mean under the softmax, and the target's own, 0 where it is none of these words.
template <typename low>
static void tallied(const low* logits, const int64_t* target, float* log_z, float* mean, float* own, int64_t T, int64_t w,
                    float cold, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < T; ++t) {
    const low* row = logits + t * w;
    const float most = greatest(row, w);
    float sum = 0, along = 0;
    for (int64_t i = 0; i < w; ++i) {
      const float above = (as<float>(row[i]) - most) * cold, p = exponential(above);
      sum += p;
      along += p * (above < -1e30f ? -1e30f : above);
    }
    log_z[t] = most * cold + std::log(sum);
    mean[t] = most * cold + along / sum;
    own[t] = target[t] >= 0 && target[t] < w ? as<float>(row[target[t]]) * cold : 0.0f;
  }
}

template <typename low>
static void push_row(const low* __restrict__ row, low* __restrict__ out, float cold, float log_z, float grad, int64_t w) {
  for (int64_t i = 0; i < w; ++i) out[i] = as<low>(-grad * exponential(as<float>(row[i]) * cold - log_z));
}

// grad · (1 at the target − softmax(logits · cold)), with log Σ exp of the whole vocabulary given.
template <typename low>
static void pushed(const low* logits, const float* log_z, const int64_t* target, const float* grad, low* out, int64_t T,
                   int64_t w, float cold, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < T; ++t) {
    const low* row = logits + t * w;
    push_row(row, out + t * w, cold, log_z[t], grad[t], w);
    const int64_t at = target[t];
    if (at >= 0 && at < w) out[t * w + at] = as<low>(grad[t] * (1.0f - exponential(as<float>(row[at]) * cold - log_z[t])));
  }
}

#define EXPORT(low, name)                                                                                                  \
  extern "C" void normed_##name(const float* x, const float* w, low* out, int64_t T, int64_t n, float eps, int threads) {  \
    normed(x, w, out, T, n, eps, threads);                                                                                 \
  }                                                                                                                        \
  extern "C" void added_##name(const float* x, const low* more, const float* w, float* sum, low* out, int64_t T,           \
                               int64_t n, float eps, int threads) {                                                        \
    added(x, more, w, sum, out, T, n, eps, threads);                                                                       \
  }                                                                                                                        \
  extern "C" void normed_back_##name(const float* x, const float* w, const low* grad, const float* more, float* out,       \
                                     low* low_out, float* weights, int64_t T, int64_t n, float eps, int threads) {         \
    normed_back(x, w, grad, more, out, low_out, weights, T, n, eps, threads);                                              \
  }                                                                                                                        \
  extern "C" void rotated_##name(low* qkv, const float* cos, const float* sin, low* q, low* k, low* v, int64_t T,          \
                                 int64_t A, int64_t G, int64_t D, int back, int threads) {                                 \
    rotated(qkv, cos, sin, q, k, v, T, A, G, D, back != 0, threads);                                                       \
  }                                                                                                                        \
  extern "C" void gated_##name(const low* x, low* out, int64_t T, int64_t I, int threads) {                                \
    gated(x, out, T, I, threads);                                                                                          \
  }                                                                                                                        \
  extern "C" void gated_back_##name(const low* x, const low* grad, low* out, int64_t T, int64_t I, int threads) {          \
    gated_back(x, grad, out, T, I, threads);                                                                               \
  }                                                                                                                        \
  extern "C" void tallied_##name(const low* logits, const int64_t* target, float* log_z, float* mean, float* own,          \
                                 int64_t T, int64_t w, float cold, int threads) {                                          \
    tallied(logits, target, log_z, mean, own, T, w, cold, threads);                                                        \
  }                                                                                                                        \
  extern "C" void pushed_##name(const low* logits, const float* log_z, const int64_t* target, const float* grad, low* out, \
                                int64_t T, int64_t w, float cold, int threads) {                                           \
    pushed(logits, log_z, target, grad, out, T, w, cold, threads);                                                         \
  }

EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)
