#include "bindings/logit_rows.h"

#include <algorithm>

namespace alignzoo::bindings {

LogitRows logit_rows(const Call& call, Array& logits) {
  if (logits.ndim() < 1) call.value_error("`" + logits.name + "` is []; expected [..., V]");
  LogitRows rows;
  rows.vocabulary = logits.shape.back();
  rows.count = 1;
  for (int i = 0; i + 1 < logits.ndim(); ++i) rows.count *= logits.shape[i];
  if (rows.count > 0 && rows.vocabulary == 0) {
    call.value_error("`" + logits.name + "` is " + text_of(logits.shape) +
                     "; the vocabulary must hold at least one token");
  }
  Shape sizes, strides;  // merged leading dimensions, innermost first
  for (int i = logits.ndim() - 2; i >= 0; --i) {
    if (logits.shape[i] == 1) continue;
    if (!sizes.empty() && logits.strides[i] == strides.back() * sizes.back()) {
      sizes.back() *= logits.shape[i];
    } else {
      sizes.push_back(logits.shape[i]);
      strides.push_back(logits.strides[i]);
    }
  }
  if (sizes.size() > 2 || (rows.vocabulary > 1 && logits.strides.back() != 1)) {
    make_contiguous(call, logits);
    sizes = {rows.count};
    strides = {rows.vocabulary};
  }
  if (!sizes.empty()) {
    rows.inner = std::max<int64_t>(1, sizes[0]);
    rows.inner_stride = strides[0];
    if (sizes.size() == 2) rows.outer_stride = strides[1];
  }
  return rows;
}

Shape leading(const Array& logits) { return Shape(logits.shape.begin(), logits.shape.end() - 1); }

Indices row_indices(const Call& call, const char* name, py::handle object, const Array& logits,
                    int64_t vocabulary, const int64_t* ignored) {
  Array indices = call.integers(name, object, logits);
  const std::string quoted = std::string("`") + name + "`";
  const Shape expected = leading(logits);
  if (indices.shape != expected) {
    call.value_error(quoted + " is " + text_of(indices.shape) + " but `" + logits.name + "` is " +
                     text_of(logits.shape) + "; " + quoted + " must be " + text_of(expected));
  }
  Indices out;
  if (indices.device.cuda) {
    out.on_device = int64s_on_device(call, indices);
    out.data = out.on_device.as<const int64_t>();
    return out;
  }
  out.checked = int64s_of(indices);
  out.data = out.checked.data();
  for (int64_t& index : out.checked) {
    if (ignored != nullptr && index == *ignored) {
      index = -1;
    } else if (index < 0 || index >= vocabulary) {
      call.value_error(quoted + " holds " + std::to_string(index) + "; expected 0 to " +
                       std::to_string(vocabulary - 1) +
                       (ignored == nullptr ? "" : ", or ignore_index " + std::to_string(*ignored)));
    }
  }
  return out;
}

DType statistics_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

}  // namespace alignzoo::bindings
