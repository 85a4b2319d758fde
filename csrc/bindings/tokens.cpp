#include "bindings/tokens.h"

#include <algorithm>

namespace alignzoo::bindings {

Layout layout_of(const Call& call, const Array& array, py::handle cu_seqlens, bool any_shape) {
  Layout out;
  if (cu_seqlens.is_none()) {
    if (array.ndim() == 2 || (any_shape && array.ndim() > 0)) {
      out.rows.width = array.shape.back();
      out.rows.count = 1;
      for (int i = 0; i + 1 < array.ndim(); ++i) out.rows.count *= array.shape[i];
      return out;
    }
    if (any_shape) {
      out.rows.width = out.rows.count = 1;
      return out;
    }
    call.value_error("`" + array.name + "` is " + text_of(array.shape) +
                     "; expected [B, T], or [N] with `cu_seqlens`");
  }
  const Array bounds = call.integers("cu_seqlens", cu_seqlens, array);
  if (array.ndim() != 1) {
    call.value_error("`" + array.name + "` is " + text_of(array.shape) +
                     " but `cu_seqlens` is given; packed arrays are [N]");
  }
  if (bounds.ndim() != 1 || bounds.size() < 1) {
    call.value_error("`cu_seqlens` is " + text_of(bounds.shape) + "; expected [B + 1]");
  }
  out.rows.count = bounds.size() - 1;
  if (bounds.device.cuda) {
    out.device_offsets = int64s_on_device(call, bounds);
    out.rows.offsets = out.device_offsets.as<const int64_t>();
    out.rows.width = array.size();
    return out;
  }
  out.offsets = int64s_of(bounds);
  if (out.offsets.front() != 0 || out.offsets.back() != array.size()) {
    call.value_error("`cu_seqlens` runs from " + std::to_string(out.offsets.front()) + " to " +
                     std::to_string(out.offsets.back()) + "; expected from 0 to the " +
                     std::to_string(array.size()) + " tokens of `" + array.name + "`");
  }
  for (size_t i = 1; i < out.offsets.size(); ++i) {
    const int64_t length = out.offsets[i] - out.offsets[i - 1];
    if (length < 0) {
      call.value_error("`cu_seqlens` falls from " + std::to_string(out.offsets[i - 1]) + " to " +
                       std::to_string(out.offsets[i]) + "; it must not decrease");
    }
    out.rows.width = std::max(out.rows.width, length);
  }
  out.rows.offsets = out.offsets.data();
  return out;
}

}  // namespace alignzoo::bindings
