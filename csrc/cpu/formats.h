// Loads and stores of logits in their storage format, converted to and from float.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "math/storage.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

using math::Compute;
using math::from_compute;
using math::to_compute;

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

// The first n of 16 lanes; the others are `filler`. Nothing beyond them is touched.
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
#if defined(__AVX512F__)
ALIGNZOO_INLINE uint32_t first_bits(int n) { return (1u << n) - 1u; }
ALIGNZOO_INLINE F32 load_first(const float* from, int n, float filler) {
  F32 out(filler);
  out.reg[0] = _mm512_mask_loadu_ps(out.reg[0], static_cast<__mmask16>(first_bits(n)), from);
  return out;
}
ALIGNZOO_INLINE F64 load_first(const double* from, int n, double filler) {
  F64 out(filler);
  const uint32_t bits = first_bits(n);
  out.reg[0] = _mm512_mask_loadu_pd(out.reg[0], static_cast<__mmask8>(bits), from);
  out.reg[1] = _mm512_mask_loadu_pd(out.reg[1], static_cast<__mmask8>(bits >> 8), from + 8);
  return out;
}
ALIGNZOO_INLINE void store_first(float* to, int n, const F32& a) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(first_bits(n)), a.reg[0]);
}
ALIGNZOO_INLINE void store_first(double* to, int n, const F64& a) {
  const uint32_t bits = first_bits(n);
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>(bits), a.reg[0]);
  _mm512_mask_storeu_pd(to + 8, static_cast<__mmask8>(bits >> 8), a.reg[1]);
}
#elif defined(__AVX2__)
ALIGNZOO_INLINE F32 load_first(const float* from, int n, float filler) {
  const Mask<float> has = lanes_below<float>(n);
  const F32 rest(filler);
  return map_registers<float>([&](int i) __attribute__((always_inline)) {
    const __m256i bits = reinterpret_cast<__m256i>(has.reg[i]);
    const __m256 given = _mm256_maskload_ps(from + 8 * i, bits);
    return _mm256_blendv_ps(rest.reg[i], given, reinterpret_cast<__m256>(bits));
  });
}
ALIGNZOO_INLINE F64 load_first(const double* from, int n, double filler) {
  const Mask<double> has = lanes_below<double>(n);
  const F64 rest(filler);
  return map_registers<double>([&](int i) __attribute__((always_inline)) {
    const __m256i bits = reinterpret_cast<__m256i>(has.reg[i]);
    const __m256d given = _mm256_maskload_pd(from + 4 * i, bits);
    return _mm256_blendv_pd(rest.reg[i], given, reinterpret_cast<__m256d>(bits));
  });
}
ALIGNZOO_INLINE void store_first(float* to, int n, const F32& a) {
  const Mask<float> has = lanes_below<float>(n);
  for (int i = 0; i < 2; ++i) {
    _mm256_maskstore_ps(to + 8 * i, reinterpret_cast<__m256i>(has.reg[i]), a.reg[i]);
  }
}
ALIGNZOO_INLINE void store_first(double* to, int n, const F64& a) {
  const Mask<double> has = lanes_below<double>(n);
  for (int i = 0; i < 4; ++i) {
    _mm256_maskstore_pd(to + 4 * i, reinterpret_cast<__m256i>(has.reg[i]), a.reg[i]);
  }
}
#endif

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

// The bytes of 16 lanes, 0 or -1 each, as a mask of their numbers.
#if defined(__AVX512F__)
ALIGNZOO_INLINE void spread(__m128i bytes, Mask<float>& out) {
  out.reg[0] = reinterpret_cast<Registers<float>::Ints>(_mm512_cvtepi8_epi32(bytes));
}
ALIGNZOO_INLINE void spread(__m128i bytes, Mask<double>& out) {
  using Ints = Registers<double>::Ints;
  out.reg[0] = reinterpret_cast<Ints>(_mm512_cvtepi8_epi64(bytes));
  out.reg[1] = reinterpret_cast<Ints>(_mm512_cvtepi8_epi64(_mm_srli_si128(bytes, 8)));
}
#elif defined(__AVX2__)
ALIGNZOO_INLINE void spread(__m128i bytes, Mask<float>& out) {
  using Ints = Registers<float>::Ints;
  out.reg[0] = reinterpret_cast<Ints>(_mm256_cvtepi8_epi32(bytes));
  out.reg[1] = reinterpret_cast<Ints>(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)));
}
ALIGNZOO_INLINE void spread(__m128i bytes, Mask<double>& out) {
  using Ints = Registers<double>::Ints;
  out.reg[0] = reinterpret_cast<Ints>(_mm256_cvtepi8_epi64(bytes));
  out.reg[1] = reinterpret_cast<Ints>(_mm256_cvtepi8_epi64(_mm_srli_si128(bytes, 4)));
  out.reg[2] = reinterpret_cast<Ints>(_mm256_cvtepi8_epi64(_mm_srli_si128(bytes, 8)));
  out.reg[3] = reinterpret_cast<Ints>(_mm256_cvtepi8_epi64(_mm_srli_si128(bytes, 12)));
}
#else
template <class Bytes, class T>
ALIGNZOO_INLINE void spread(const Bytes& bytes, Mask<T>& out) {
  using Bits = typename Registers<T>::Bits;
  Bits lane[kLanes];
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<int8_t>(bytes[i]);
  memcpy(&out, lane, sizeof out);
}
#endif

// Lanes whose mask byte is not 0, of the first n; a null mask keeps them all.
template <class T>
ALIGNZOO_INLINE Mask<T> load_mask(const uint8_t* mask, int n) {
  typedef int8_t Bytes __attribute__((vector_size(kLanes)));
  if (mask == nullptr) return lanes_below<T>(n);
  Bytes bytes = {};
  if (n == kLanes) {
    memcpy(&bytes, mask, sizeof bytes);
  } else {
#if defined(__AVX512F__)
    const __mmask16 first = static_cast<__mmask16>(first_bits(n));
    bytes = reinterpret_cast<Bytes>(_mm_maskz_loadu_epi8(first, mask));
#else
    int8_t first[kLanes] = {};
    for (int i = 0; i < n; ++i) first[i] = static_cast<int8_t>(mask[i]);
    memcpy(&bytes, first, sizeof bytes);
#endif
  }
  const Bytes some = bytes != 0;
  Mask<T> out;
#if defined(__AVX2__)
  spread(reinterpret_cast<__m128i>(some), out);
#else
  spread(some, out);
#endif
  return out;
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
