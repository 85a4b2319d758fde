// The operations of math/config.h for plain float and double, on host and device.
#pragma once

#include <cstdint>
#include <cstring>

#include "math/config.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// Fused where the hardware is; a machine without it (the generic ISA) rounds twice.
#if defined(__CUDA_ARCH__)
ALIGNZOO_HD float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
ALIGNZOO_HD double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
#elif defined(__FMA__) || defined(__FP_FAST_FMA)
ALIGNZOO_HD float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
ALIGNZOO_HD double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
ALIGNZOO_HD float fma(float a, float b, float c) { return a * b + c; }
ALIGNZOO_HD double fma(double a, double b, double c) { return a * b + c; }
#endif

ALIGNZOO_HD float max(float a, float b) { return a > b ? a : b; }
ALIGNZOO_HD double max(double a, double b) { return a > b ? a : b; }
ALIGNZOO_HD float min(float a, float b) { return a < b ? a : b; }
ALIGNZOO_HD double min(double a, double b) { return a < b ? a : b; }

// max(bound, x) where the bound is a number: NaN is returned as it came.
template <class F>
ALIGNZOO_HD F max_or_nan(F bound, F x) {
  return max(bound, x);
}
// max(x, bound) where the bound is a number, which is returned for NaN.
template <class F>
ALIGNZOO_HD F max_or_bound(F x, F bound) {
  return max(x, bound);
}
#if defined(__CUDA_ARCH__)
ALIGNZOO_HD float max_or_bound(float x, float bound) { return fmaxf(x, bound); }
ALIGNZOO_HD float max_or_nan(float bound, float x) {
  float out;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(bound), "f"(x));
  return out;
}
#endif

ALIGNZOO_HD float select(bool mask, float a, float b) { return mask ? a : b; }
ALIGNZOO_HD double select(bool mask, double a, double b) { return mask ? a : b; }
ALIGNZOO_HD float abs(float a) { return a < 0 ? -a : a; }
ALIGNZOO_HD double abs(double a) { return a < 0 ? -a : a; }

ALIGNZOO_HD double log(double a) {
#if defined(__CUDA_ARCH__)
  return ::log(a);
#else
  return __builtin_log(a);
#endif
}
ALIGNZOO_HD double sqrt(double a) {
#if defined(__CUDA_ARCH__)
  return __dsqrt_rn(a);
#else
  return __builtin_sqrt(a);
#endif
}

// The low bits of a's representation moved into the exponent field: 2^n when a was made by adding
// n and the exponent bias to 1.5 * 2^(mantissa bits). See exponential.h.
ALIGNZOO_HD float low_bits_as_exponent(float a) {
  uint32_t bits;
  memcpy(&bits, &a, sizeof bits);
  bits <<= 23;
  memcpy(&a, &bits, sizeof bits);
  return a;
}
ALIGNZOO_HD double low_bits_as_exponent(double a) {
  uint64_t bits;
  memcpy(&bits, &a, sizeof bits);
  bits <<= 52;
  memcpy(&a, &bits, sizeof bits);
  return a;
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
