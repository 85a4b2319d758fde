// Layout of per-token arrays: [B, T], or [N] with cu_seqlens.
#pragma once

#include "bindings/array.h"
#include "cpu/kernels.h"

namespace alignzoo::bindings {

struct Layout {
  Rows rows;
  std::vector<int64_t> offsets;  // what rows.offsets points to, where packed
  Array device_offsets;          // or this, on a device: unchecked, and rows.width is all tokens
};

// The layout of `array`. Without cu_seqlens an array that is not [B, T] is an error, or with
// any_shape rows of its last dimension.
Layout layout_of(const Call& call, const Array& array, py::handle cu_seqlens, bool any_shape);

// Calls body with a float or a double.
template <class Body>
auto by_type(DType dtype, Body body) {
  return dtype == DType::kFloat32 ? body(float{}) : body(double{});
}

}  // namespace alignzoo::bindings
