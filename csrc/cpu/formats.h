// Loads and stores of logits in their storage format, converted to and from float.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace alignzoo::cpu {
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

ALIGNZOO_INLINE float float_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
ALIGNZOO_INLINE uint32_t bits_from_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

ALIGNZOO_INLINE float to_compute(float x) { return x; }
ALIGNZOO_INLINE double to_compute(double x) { return x; }
ALIGNZOO_INLINE float to_compute(Bfloat16 x) { return float_from_bits(uint32_t{x.bits} << 16); }
ALIGNZOO_INLINE float to_compute(Float16 x) {
  // Exponent and mantissa moved to float's place and rescaled by 2^112, which also settles the
  // subnormal numbers; infinity and NaN get float's highest exponent.
  uint32_t magnitude = x.bits & 0x7fffu;
  float scaled = float_from_bits(magnitude << 13) * 0x1p112f;
  uint32_t bits = bits_from_float(scaled);
  if (magnitude >= 0x7c00u) bits = 0x7f800000u | ((magnitude & 0x3ffu) << 13);
  return float_from_bits(bits | (uint32_t{x.bits & 0x8000u} << 16));
}

// To nearest, ties to even.
ALIGNZOO_INLINE void from_compute(float x, float& out) { out = x; }
ALIGNZOO_INLINE void from_compute(double x, double& out) { out = x; }
ALIGNZOO_INLINE void from_compute(float x, Bfloat16& out) {
  uint32_t bits = bits_from_float(x);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<uint16_t>(x == x ? rounded : (bits >> 16) | 0x40u);
}
ALIGNZOO_INLINE void from_compute(float x, Float16& out) {
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
}

template <class S>
ALIGNZOO_INLINE Wide<Compute<S>> load_as_compute(const S* from) {
  if constexpr (sizeof(S) == sizeof(Compute<S>)) {
    return load(from);
  } else {
    Compute<S> lane[kLanes];
    for (int i = 0; i < kLanes; ++i) lane[i] = to_compute(from[i]);
    return load(lane);
  }
}
#if defined(__AVX512F__)
ALIGNZOO_INLINE F32 load_as_compute(const Bfloat16* from) {
  F32 out;
  __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  out.reg[0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  return out;
}
ALIGNZOO_INLINE F32 load_as_compute(const Float16* from) {
  F32 out;
  out.reg[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return out;
}
#elif defined(__AVX2__)
ALIGNZOO_INLINE F32 load_as_compute(const Bfloat16* from) {
  return map_registers<float>([&](int i) __attribute__((always_inline)) {
    __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  });
}
ALIGNZOO_INLINE F32 load_as_compute(const Float16* from) {
  return map_registers<float>([&](int i) __attribute__((always_inline)) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i));
  });
}
#endif

template <class S>
ALIGNZOO_INLINE void store_from_compute(S* to, const Wide<Compute<S>>& a) {
  store(to, a);
}
// from_compute for 16 lanes at once.
ALIGNZOO_INLINE void store_from_compute(Bfloat16* to, const F32& a) {
  typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
  Bits bits;
  memcpy(&bits, &a, sizeof bits);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits out = (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded;
  const Halves halves = __builtin_convertvector(out, Halves);
  memcpy(to, &halves, sizeof halves);
}
ALIGNZOO_INLINE void store_from_compute(Float16* to, const F32& a) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(a.reg[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__)
  for (int i = 0; i < 2; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to) + i,
                     _mm256_cvtps_ph(a.reg[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#else
  float lane[kLanes];
  store(lane, a);
  for (int i = 0; i < kLanes; ++i) from_compute(lane[i], to[i]);
#endif
}

// The first n of 16 lanes; the others are `filler`.
template <class S>
ALIGNZOO_INLINE Wide<Compute<S>> load_first(const S* from, int n, Compute<S> filler) {
  Compute<S> lane[kLanes];
  for (int i = 0; i < kLanes; ++i) lane[i] = filler;
  for (int i = 0; i < n; ++i) lane[i] = to_compute(from[i]);
  return load(lane);
}
template <class S>
ALIGNZOO_INLINE void store_first(S* to, int n, const Wide<Compute<S>>& a) {
  Compute<S> lane[kLanes];
  store(lane, a);
  for (int i = 0; i < n; ++i) from_compute(lane[i], to[i]);
}

// All 16 lanes, or the first n of them with 0 behind.
template <class S>
ALIGNZOO_INLINE Wide<Compute<S>> load_up_to(const S* from, int n) {
  return n == kLanes ? load_as_compute(from) : load_first(from, n, Compute<S>(0));
}
template <class S>
ALIGNZOO_INLINE void store_up_to(S* to, int n, const Wide<Compute<S>>& a) {
  if (n == kLanes) {
    store_from_compute(to, a);
  } else {
    store_first(to, n, a);
  }
}

// Lanes whose mask byte is not 0, of the first n; a null mask keeps them all.
template <class T>
ALIGNZOO_INLINE Mask<T> load_mask(const uint8_t* mask, int n) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  typedef typename Registers<T>::Bits Lanes
      __attribute__((vector_size(kLanes * sizeof(typename Registers<T>::Bits))));
  Bytes bytes = {};
  if (n == kLanes) {
    if (mask == nullptr) {
      bytes = ~bytes;
    } else {
      memcpy(&bytes, mask, sizeof bytes);
    }
  } else {
    for (int i = 0; i < n; ++i) bytes[i] = mask == nullptr ? 1 : mask[i];
  }
  const Lanes wide = __builtin_convertvector(bytes, Lanes) != 0;
  Mask<T> out;
  memcpy(&out, &wide, sizeof out);
  return out;
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
