// Number formats and the exponential function, in forms that compilers vectorise.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif

struct bfloat16 {
  uint16_t bits;
};

template <typename to, typename from>
inline to as(from x);
template <>
inline float as<float, float>(float x) {
  return x;
}
template <>
inline float as<float, bfloat16>(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
template <>
inline bfloat16 as<bfloat16, float>(float x) {  // to the nearest, ties to even, as PyTorch rounds
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// e^x to a relative 2e-7: 2^n · e^r with |r| ≤ ln 2 / 2, e^r by a polynomial (Cephes, expf). Below −87 as at −87.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

// The greatest of n numbers, NaN left aside; −∞ of none. A plain loop would wait for each comparison before the next one.
template <typename low>
inline float greatest(const low* x, int64_t n) {
  constexpr int64_t lanes = 64;
  float most[lanes];
  for (int64_t j = 0; j < lanes; ++j) most[j] = -INFINITY;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t j = 0; j < lanes; ++j) {
      const float one = as<float>(x[i + j]);
      most[j] = one > most[j] ? one : most[j];
    }
  for (int64_t j = 0; i + j < n; ++j) {
    const float one = as<float>(x[i + j]);
    most[j] = one > most[j] ? one : most[j];
  }
  for (int64_t half = lanes / 2; half; half /= 2)
    for (int64_t j = 0; j < half; ++j) most[j] = most[half + j] > most[j] ? most[half + j] : most[j];
  return most[0];
}

inline int thread() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}
