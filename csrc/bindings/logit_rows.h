// Arguments that the functions of logits share: rows [..., V], and one index into each row.
#pragma once

#include <vector>

#include "bindings/array.h"
#include "cpu/kernels.h"

namespace alignzoo::bindings {

// Rows of an array [..., V]: leading dimensions that lie evenly are merged; where more than two
// are left, or the last is strided, the array is copied first.
LogitRows logit_rows(const Call& call, Array& logits);

// One index for each row.
struct Indices {
  std::vector<int64_t> checked;  // what `data` points to on the host
  Array on_device;               // or this
  const int64_t* data = nullptr;
};

// An index [...] into each row, checked; `ignored`, where given, stands for none and becomes -1.
// On a device it stays what it is, and nothing is checked.
Indices row_indices(const Call& call, const char* name, py::handle object, const Array& logits,
                    int64_t vocabulary, const int64_t* ignored);

// The leading dimensions of [..., V].
Shape leading(const Array& logits);

// The dtype that statistics of logits come back in.
DType statistics_dtype(DType dtype);

// Calls body with the storage type and the type it is computed in.
template <class Body>
void by_storage(DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{}, float{});
    case DType::kFloat64:
      return body(double{}, double{});
    case DType::kBfloat16:
      return body(Bfloat16{}, float{});
    default:
      return body(Float16{}, float{});
  }
}

}  // namespace alignzoo::bindings
