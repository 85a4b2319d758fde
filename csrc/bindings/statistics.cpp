// masked_whiten, group_advantages.
#include <cmath>
#include <limits>

#include "bindings/functions.h"
#include "bindings/tokens.h"

namespace alignzoo::bindings {

py::object masked_whiten(py::object x_in, py::object mask_in, py::object shift_mean,
                         py::object ddof_in, py::object eps_in, py::object moments_in,
                         py::object cu_seqlens) {
  const Call call("masked_whiten");
  Array x = call.floats("x", x_in);
  make_contiguous(x);
  const Bytes mask = optional_mask(call, "mask", mask_in, x, "both must have one shape");
  const Layout layout = layout_of(call, x, cu_seqlens, true);
  const int64_t ddof = call.integer("ddof", ddof_in, 0);
  const double eps = call.number_within("eps", eps_in, 0, std::numeric_limits<double>::infinity());
  const bool shift = call.flag("shift_mean", shift_mean);
  Moments moments;
  if (!moments_in.is_none()) {
    if (!PySequence_Check(moments_in.ptr()) || PySequence_Size(moments_in.ptr()) != 3) {
      PyErr_Clear();
      call.type_error("`moments` is " + std::string(py::repr(moments_in)) +
                      "; expected (n, mean, m2)");
    }
    py::sequence given = py::reinterpret_borrow<py::sequence>(moments_in);
    const double infinity = std::numeric_limits<double>::infinity();
    moments = {call.number_within("moments", py::object(given[0]), 0, infinity),
               call.number("moments", py::object(given[1])),
               call.number_within("moments", py::object(given[2]), 0, infinity)};
  }
  Output whitened = make_output(x.library, x.dtype, x.shape);
  const int64_t work = x.size();
  const int threads = threads_for(work);
  by_type(x.dtype, [&](auto number) {
    using T = decltype(number);
    const auto& kernels = cpu::kernels().tokens<T>();
    Unlocked unlocked(work);
    if (moments_in.is_none()) {
      moments = kernels.moments(layout.rows, x.as<const T>(), mask.data, threads);
    }
    const double freedom = moments.count - static_cast<double>(ddof);
    const double scale = freedom > 0 ? 1.0 / std::sqrt(moments.m2 / freedom + eps) : 0.0;
    const double offset = shift || freedom <= 0 ? 0.0 : moments.mean;
    kernels.whiten(
        {layout.rows, x.as<const T>(), mask.data, whitened.as<T>(), moments.mean, scale, offset},
        threads);
  });
  auto scalar = [&](double value) { return make_scalar(x.library, DType::kFloat64, value).object; };
  return py::make_tuple(whitened.object, py::make_tuple(scalar(moments.count), scalar(moments.mean),
                                                        scalar(moments.m2)));
}

py::object group_advantages(py::object scores_in, py::object group_ids_in, py::object mode_in,
                            py::object eps_in, py::object ddof_in) {
  const Call call("group_advantages");
  Array scores = call.floats("scores", scores_in);
  make_contiguous(scores);
  if (scores.ndim() != 1) {
    call.value_error("`scores` is " + text_of(scores.shape) + "; expected [B]");
  }
  Array group_ids = call.integers("group_ids", group_ids_in, scores);
  call.check_shape(group_ids, scores, "both must be [B]");
  const auto mode = static_cast<GroupMode>(
      call.choice("mode", mode_in, {"grpo", "dr_grpo", "rloo", "batch_std"}));
  const double eps = call.number_within("eps", eps_in, 0, std::numeric_limits<double>::infinity());
  const int64_t ddof = call.integer("ddof", ddof_in, 0);
  const std::vector<int64_t> ids = int64s_of(group_ids);
  Output out = make_output(scores.library, scores.dtype, scores.shape);
  by_type(scores.dtype, [&](auto number) {
    using T = decltype(number);
    Unlocked unlocked(scores.size());
    cpu::group_advantages<T>(
        {scores.size(), scores.as<const T>(), ids.data(), mode, eps, ddof, out.as<T>()});
  });
  return out.object;
}

}  // namespace alignzoo::bindings
