// What every header of math/ needs: host and device markers, and the namespace of the ISA it is
// compiled for. Several translation units compile these headers for different instruction sets;
// the inline namespace keeps their inline functions apart, so that the linker can never hand code
// for a wider instruction set to a narrower machine.
#pragma once

#if defined(__CUDACC__)
#define ALIGNZOO_HD __host__ __device__ __forceinline__
#define ALIGNZOO_UNROLL _Pragma("unroll")
#else
#define ALIGNZOO_HD inline __attribute__((always_inline))
#define ALIGNZOO_UNROLL _Pragma("GCC unroll 16")
#endif

#ifndef ALIGNZOO_ISA
#define ALIGNZOO_ISA host
#endif

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// The operations a number type F (float, double, or a SIMD vector of either) brings along, found by
// overload: fma(a, b, c), max(a, b) and min(a, b) with the second operand returned when unordered,
// select(mask, a, b), abs(a), low_bits_as_exponent(a), and the arithmetic operators. Comparisons
// give the mask type that select takes. F(x) broadcasts a scalar. Element<F> is the scalar type.
template <class F>
struct ElementOf {
  using type = typename F::Element;
};
template <>
struct ElementOf<float> {
  using type = float;
};
template <>
struct ElementOf<double> {
  using type = double;
};
template <class F>
using Element = typename ElementOf<F>::type;

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
