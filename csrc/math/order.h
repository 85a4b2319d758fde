// Floating-point numbers as integers that grow with them: neighbours differ by 1, and halfway
// between two integers is a number between the two.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "math/config.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

template <class T>
struct OrderOf;
template <>
struct OrderOf<float> {
  using type = int32_t;
};
template <>
struct OrderOf<double> {
  using type = int64_t;
};
template <class T>
using Order = typename OrderOf<T>::type;

// Sign and magnitude to two's complement; -0 is 0.
template <class T>
ALIGNZOO_HD Order<T> order_of(T x) {
  Order<T> bits;
  memcpy(&bits, &x, sizeof bits);
  constexpr Order<T> kSize = std::numeric_limits<Order<T>>::max();
  return bits >= 0 ? bits : -(bits & kSize);
}
template <class T>
ALIGNZOO_HD T number_at(Order<T> order) {
  const Order<T> size = order < 0 ? -order : order;
  T x;
  memcpy(&x, &size, sizeof x);
  return order < 0 ? -x : x;
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
