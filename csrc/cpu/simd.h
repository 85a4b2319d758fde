// Wide<T>: 16 lanes of float or double, whatever the machine's registers. Every kernel is written
// for this one width, so that a sum has the same tree, and the same bits, on AVX2 and AVX-512.
//
// Included only by the translation units that are compiled once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "math/scalar.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

#define ALIGNZOO_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 16;

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = int32_t;
};
template <>
struct BitsOf<double> {
  using type = int64_t;
};

// Registers of T, kCount of them, as compiler vectors; a lane mask has the same shape, of integers
// that are 0 or -1.
template <class T>
struct Registers {
  using Bits = typename BitsOf<T>::type;
  typedef T Floats __attribute__((vector_size(kRegisterBytes)));
  typedef Bits Ints __attribute__((vector_size(kRegisterBytes)));
  static constexpr int kPer = kRegisterBytes / static_cast<int>(sizeof(T));
  static constexpr int kCount = kLanes / kPer;
};

template <class T>
struct Mask {
  using R = Registers<T>;
  typename R::Ints reg[R::kCount];
};

template <class T>
struct Wide {
  using R = Registers<T>;
  using Element = T;
  typename R::Floats reg[R::kCount];

  Wide() = default;
  ALIGNZOO_INLINE explicit Wide(T x) {
    typename R::Floats all = x - typename R::Floats{};
    for (int i = 0; i < R::kCount; ++i) reg[i] = all;
  }
};

using F32 = Wide<float>;
using F64 = Wide<double>;

// op applied register by register, with the index known to the compiler.
template <class T, class Op, int... I>
ALIGNZOO_INLINE Wide<T> map_registers(Op op, std::integer_sequence<int, I...>) {
  Wide<T> out;
  ((out.reg[I] = op(I)), ...);
  return out;
}
template <class T, class Op>
ALIGNZOO_INLINE Wide<T> map_registers(Op op) {
  return map_registers<T>(op, std::make_integer_sequence<int, Registers<T>::kCount>());
}
template <class T, class Op, int... I>
ALIGNZOO_INLINE Mask<T> map_masks(Op op, std::integer_sequence<int, I...>) {
  Mask<T> out;
  ((out.reg[I] = op(I)), ...);
  return out;
}
template <class T, class Op>
ALIGNZOO_INLINE Mask<T> map_masks(Op op) {
  return map_masks<T>(op, std::make_integer_sequence<int, Registers<T>::kCount>());
}

#define ALIGNZOO_WIDE_OPERATOR(OP)                                                                \
  template <class T>                                                                              \
  ALIGNZOO_INLINE Wide<T> operator OP(const Wide<T>& a, const Wide<T>& b) {                       \
    return map_registers<T>([&](int i)                                                            \
                                __attribute__((always_inline)) { return a.reg[i] OP b.reg[i]; }); \
  }
ALIGNZOO_WIDE_OPERATOR(+)
ALIGNZOO_WIDE_OPERATOR(-)
ALIGNZOO_WIDE_OPERATOR(*)
ALIGNZOO_WIDE_OPERATOR(/)
#undef ALIGNZOO_WIDE_OPERATOR

#define ALIGNZOO_WIDE_COMPARISON(OP)                                                          \
  template <class T>                                                                          \
  ALIGNZOO_INLINE Mask<T> operator OP(const Wide<T>& a, const Wide<T>& b) {                   \
    return map_masks<T>([&](int i)                                                            \
                            __attribute__((always_inline)) { return a.reg[i] OP b.reg[i]; }); \
  }
ALIGNZOO_WIDE_COMPARISON(<)
ALIGNZOO_WIDE_COMPARISON(>)
ALIGNZOO_WIDE_COMPARISON(==)
#undef ALIGNZOO_WIDE_COMPARISON

template <class T>
ALIGNZOO_INLINE Wide<T> select(const Mask<T>& mask, const Wide<T>& a, const Wide<T>& b) {
  return map_registers<T>(
      [&](int i) __attribute__((always_inline)) { return mask.reg[i] ? a.reg[i] : b.reg[i]; });
}

// The larger and the smaller of two registers, the second operand where lanes are unordered, as in
// math/scalar.h. Written out, because compilers turn some of them into a comparison and a blend.
#define ALIGNZOO_MAX_MIN(V, PREFIX, SUFFIX)                                        \
  ALIGNZOO_INLINE V max_register(V a, V b) { return PREFIX##_max_##SUFFIX(a, b); } \
  ALIGNZOO_INLINE V min_register(V a, V b) { return PREFIX##_min_##SUFFIX(a, b); }
#if defined(__AVX2__)
ALIGNZOO_MAX_MIN(__m128, _mm, ps)
ALIGNZOO_MAX_MIN(__m128d, _mm, pd)
ALIGNZOO_MAX_MIN(__m256, _mm256, ps)
ALIGNZOO_MAX_MIN(__m256d, _mm256, pd)
#if defined(__AVX512F__)
ALIGNZOO_MAX_MIN(__m512, _mm512, ps)
ALIGNZOO_MAX_MIN(__m512d, _mm512, pd)
#endif
#else
template <class V>
ALIGNZOO_INLINE V max_register(V a, V b) {
  return a > b ? a : b;
}
template <class V>
ALIGNZOO_INLINE V min_register(V a, V b) {
  return a < b ? a : b;
}
#endif
#undef ALIGNZOO_MAX_MIN

template <class T>
ALIGNZOO_INLINE Wide<T> max(const Wide<T>& a, const Wide<T>& b) {
  return map_registers<T>(
      [&](int i) __attribute__((always_inline)) { return max_register(a.reg[i], b.reg[i]); });
}
template <class T>
ALIGNZOO_INLINE Wide<T> min(const Wide<T>& a, const Wide<T>& b) {
  return map_registers<T>(
      [&](int i) __attribute__((always_inline)) { return min_register(a.reg[i], b.reg[i]); });
}

template <class T>
ALIGNZOO_INLINE Wide<T> abs(const Wide<T>& a) {
  using Ints = typename Registers<T>::Ints;
  using Floats = typename Registers<T>::Floats;
  constexpr auto kSign =
      static_cast<typename Registers<T>::Bits>(uint64_t{1} << (sizeof(T) * 8 - 1));
  return map_registers<T>([&](int i) __attribute__((always_inline)) {
    return reinterpret_cast<Floats>(reinterpret_cast<Ints>(a.reg[i]) & ~kSign);
  });
}

template <class T>
ALIGNZOO_INLINE Wide<T> low_bits_as_exponent(const Wide<T>& a) {
  using Ints = typename Registers<T>::Ints;
  using Floats = typename Registers<T>::Floats;
  constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
  return map_registers<T>([&](int i) __attribute__((always_inline)) {
    return reinterpret_cast<Floats>(reinterpret_cast<Ints>(a.reg[i]) << kMantissa);
  });
}

// One fused multiply-add of registers, or two roundings where the machine has none.
#if defined(__AVX512F__)
ALIGNZOO_INLINE __m512 fma_register(__m512 a, __m512 b, __m512 c) {
  return _mm512_fmadd_ps(a, b, c);
}
ALIGNZOO_INLINE __m512d fma_register(__m512d a, __m512d b, __m512d c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__AVX2__)
ALIGNZOO_INLINE __m256 fma_register(__m256 a, __m256 b, __m256 c) {
  return _mm256_fmadd_ps(a, b, c);
}
ALIGNZOO_INLINE __m256d fma_register(__m256d a, __m256d b, __m256d c) {
  return _mm256_fmadd_pd(a, b, c);
}
#else
template <class V>
ALIGNZOO_INLINE V fma_register(V a, V b, V c) {
  return a * b + c;
}
#endif

template <class T>
ALIGNZOO_INLINE Wide<T> fma(const Wide<T>& a, const Wide<T>& b, const Wide<T>& c) {
  return map_registers<T>([&](int i) __attribute__((always_inline)) {
    return fma_register(a.reg[i], b.reg[i], c.reg[i]);
  });
}

template <class T>
ALIGNZOO_INLINE Mask<T> operator&(const Mask<T>& a, const Mask<T>& b) {
  return map_masks<T>([&](int i) __attribute__((always_inline)) { return a.reg[i] & b.reg[i]; });
}
template <class T>
ALIGNZOO_INLINE Mask<T> operator|(const Mask<T>& a, const Mask<T>& b) {
  return map_masks<T>([&](int i) __attribute__((always_inline)) { return a.reg[i] | b.reg[i]; });
}
template <class T>
ALIGNZOO_INLINE Mask<T> operator~(const Mask<T>& a) {
  return map_masks<T>([&](int i) __attribute__((always_inline)) { return ~a.reg[i]; });
}

// Lanes kBy and up of `low`, then the first kBy of `high`; 0 < kBy < lanes of a register.
#if defined(__AVX512F__)
template <int kBy>
ALIGNZOO_INLINE __m512i lanes_of_two(__m512i low, __m512i high, float) {
  return _mm512_alignr_epi32(high, low, kBy);
}
template <int kBy>
ALIGNZOO_INLINE __m512i lanes_of_two(__m512i low, __m512i high, double) {
  return _mm512_alignr_epi64(high, low, kBy);
}
using RegisterBits = __m512i;
#elif defined(__AVX2__)
// alignr shifts within halves, so it is given the half between the two registers too.
template <int kBytes>
ALIGNZOO_INLINE __m256i bytes_of_two(__m256i low, __m256i high) {
  const __m256i between = _mm256_permute2x128_si256(low, high, 0x21);
  if constexpr (kBytes < 16) {
    return _mm256_alignr_epi8(between, low, kBytes);
  } else {
    return _mm256_alignr_epi8(high, between, kBytes - 16);
  }
}
template <int kBy, class T>
ALIGNZOO_INLINE __m256i lanes_of_two(__m256i low, __m256i high, T) {
  return bytes_of_two<kBy* static_cast<int>(sizeof(T))>(low, high);
}
using RegisterBits = __m256i;
#else
typedef int32_t RegisterBits __attribute__((vector_size(kRegisterBytes)));
template <int kBy, class T>
ALIGNZOO_INLINE RegisterBits lanes_of_two(RegisterBits low, RegisterBits high, T) {
  constexpr size_t kShift = kBy * sizeof(T);
  uint8_t both[2 * kRegisterBytes];
  memcpy(both, &low, kRegisterBytes);
  memcpy(both + kRegisterBytes, &high, kRegisterBytes);
  RegisterBits out;
  memcpy(&out, both + kShift, kRegisterBytes);
  return out;
}
#endif
template <int kBy, class T, class Register>
ALIGNZOO_INLINE Register shifted_register(const Register* reg, const Register& fill, int i) {
  constexpr int kPer = Registers<T>::kPer, kCount = Registers<T>::kCount;
  const int from = i + kBy / kPer;
  const Register low = from < kCount ? reg[from] : fill;
  if constexpr (kBy % kPer == 0) {
    return low;
  } else {
    const Register high = from + 1 < kCount ? reg[from + 1] : fill;
    return reinterpret_cast<Register>(lanes_of_two<kBy % kPer>(
        reinterpret_cast<RegisterBits>(low), reinterpret_cast<RegisterBits>(high), T()));
  }
}
// Lane i becomes what lane i + kBy was; the last kBy lanes become those of `fill`.
template <int kBy, class T>
ALIGNZOO_INLINE Wide<T> shift_lanes(const Wide<T>& a, const Wide<T>& fill) {
  return map_registers<T>([&](int i) __attribute__((always_inline)) {
    return shifted_register<kBy, T>(a.reg, fill.reg[0], i);
  });
}
// Lanes 0 to n - 1; none where n <= 0, all from 16 on.
template <class T>
ALIGNZOO_INLINE Mask<T> lanes_below(int64_t n) {
  using Bits = typename Registers<T>::Bits;
  static constexpr Bits kIndex[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Mask<T> index;
  memcpy(&index, kIndex, sizeof index);
  const Bits limit = static_cast<Bits>(n < 0 ? 0 : n < kLanes ? n : kLanes);
  return map_masks<T>([&](int i) __attribute__((always_inline)) { return index.reg[i] < limit; });
}

// Every lane becomes what lane 0 is.
template <class T>
ALIGNZOO_INLINE Wide<T> broadcast_first(const Wide<T>& a) {
  return Wide<T>(a.reg[0][0]);
}
#if defined(__AVX2__)
ALIGNZOO_INLINE F32 broadcast_first(const F32& a) {
#if defined(__AVX512F__)
  return map_registers<float>([&](int) __attribute__((always_inline)) {
    return _mm512_broadcastss_ps(_mm512_castps512_ps128(a.reg[0]));
  });
#else
  return map_registers<float>([&](int) __attribute__((always_inline)) {
    return _mm256_broadcastss_ps(_mm256_castps256_ps128(a.reg[0]));
  });
#endif
}
#endif

// Lanes combined: lane i with lane i + half, halves until one is left. The one reduction tree.
#if defined(__AVX2__)
template <class Op>
ALIGNZOO_INLINE float fold_register(__m128 v, Op op) {
  v = op(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(op(v, _mm_shuffle_ps(v, v, 1)));
}
template <class Op>
ALIGNZOO_INLINE double fold_register(__m128d v, Op op) {
  return _mm_cvtsd_f64(op(v, _mm_unpackhi_pd(v, v)));
}
template <class Op>
ALIGNZOO_INLINE float fold_register(__m256 v, Op op) {
  return fold_register(op(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)), op);
}
template <class Op>
ALIGNZOO_INLINE double fold_register(__m256d v, Op op) {
  return fold_register(op(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1)), op);
}
#if defined(__AVX512F__)
template <class Op>
ALIGNZOO_INLINE float fold_register(__m512 v, Op op) {
  return fold_register(op(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)), op);
}
template <class Op>
ALIGNZOO_INLINE double fold_register(__m512d v, Op op) {
  return fold_register(op(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1)), op);
}
#endif
#else
template <class V, class Op>
ALIGNZOO_INLINE auto fold_register(V v, Op op) {
  using T = typename std::remove_reference<decltype(v[0])>::type;
  for (int half = kRegisterBytes / static_cast<int>(sizeof(T)) / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] = op(T(v[i]), T(v[i + half]));
  }
  return T(v[0]);
}
#endif
template <class T, class Op>
ALIGNZOO_INLINE T fold_lanes(Wide<T> a, Op op) {
  for (int half = Registers<T>::kCount / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.reg[i] = op(a.reg[i], a.reg[i + half]);
  }
  return fold_register(a.reg[0], op);
}
template <class T>
ALIGNZOO_INLINE T sum_lanes(const Wide<T>& a) {
  return fold_lanes(a, [](auto x, auto y) __attribute__((always_inline)) { return x + y; });
}
// NaN lanes may be lost.
template <class T>
ALIGNZOO_INLINE T max_lanes(const Wide<T>& a) {
  return fold_lanes(
      a, [](auto x, auto y) __attribute__((always_inline)) { return max_register(x, y); });
}

// Loads and stores of 16 consecutive elements, at any address. Register by register: a copy of the
// whole would go through memory.
template <class T>
ALIGNZOO_INLINE Wide<T> load(const T* from) {
  using R = Registers<T>;
  return map_registers<T>([&](int i) __attribute__((always_inline)) {
    typename R::Floats out;
    memcpy(&out, from + i * R::kPer, sizeof out);
    return out;
  });
}
template <class T>
ALIGNZOO_INLINE void store(T* to, const Wide<T>& a) {
  using R = Registers<T>;
  for (int i = 0; i < R::kCount; ++i) memcpy(to + i * R::kPer, &a.reg[i], sizeof a.reg[i]);
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
