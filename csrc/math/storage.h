// The formats that logits are stored in, and the number type that each is computed in.
#pragma once

#include "arguments.h"
#include "math/scalar.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

template <class S>
struct ComputeOf {
  using type = S;
};
template <>
struct ComputeOf<Bfloat16> {
  using type = float;
};
template <>
struct ComputeOf<Float16> {
  using type = float;
};
template <class S>
using Compute = typename ComputeOf<S>::type;

ALIGNZOO_HD float float_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
ALIGNZOO_HD uint32_t bits_from_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

ALIGNZOO_HD float to_compute(float x) { return x; }
ALIGNZOO_HD double to_compute(double x) { return x; }
ALIGNZOO_HD float to_compute(Bfloat16 x) { return float_from_bits(uint32_t{x.bits} << 16); }
ALIGNZOO_HD float to_compute(Float16 x) {
#if defined(__CUDA_ARCH__)
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
  return out;
#else
  // Exponent and mantissa moved to float's place and rescaled by 2^112, which also settles the
  // subnormal numbers; infinity and NaN get float's highest exponent.
  uint32_t magnitude = x.bits & 0x7fffu;
  float scaled = float_from_bits(magnitude << 13) * 0x1p112f;
  uint32_t bits = bits_from_float(scaled);
  if (magnitude >= 0x7c00u) bits = 0x7f800000u | ((magnitude & 0x3ffu) << 13);
  return float_from_bits(bits | (uint32_t{x.bits & 0x8000u} << 16));
#endif
}

// To nearest, ties to even.
ALIGNZOO_HD void from_compute(float x, float& out) { out = x; }
ALIGNZOO_HD void from_compute(double x, double& out) { out = x; }
ALIGNZOO_HD void from_compute(float x, Bfloat16& out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  uint32_t bits = bits_from_float(x);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<uint16_t>(x == x ? rounded : (bits >> 16) | 0x40u);
#endif
}
ALIGNZOO_HD void from_compute(float x, Float16& out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  uint32_t bits = bits_from_float(x), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  uint32_t half;
  if (size > 0x7f800000u) {
    half = 0x7e00u;
  } else if (size >= 0x477ff000u) {
    half = 0x7c00u;  // rounds past the largest finite number
  } else if (size >= 0x38800000u) {
    half = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
  } else {
    // Adding 0.5 aligns the mantissa with the spacing of subnormal halves.
    half = bits_from_float(float_from_bits(size) + 0.5f) - 0x3f000000u;
  }
  out.bits = static_cast<uint16_t>(sign | half);
#endif
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
