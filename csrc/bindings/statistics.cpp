// masked_whiten, group_advantages.
#include <cmath>
#include <limits>

#include "bindings/cuda.h"
#include "bindings/functions.h"
#include "bindings/tokens.h"
#include "cuda/statistics_plan.h"

namespace alignzoo::bindings {

namespace {

// (n, mean, m2) as [3] float64 on the device of `like`: of numbers, of 0-d tensors there, or both.
Array moments_on_device(const Call& call, py::handle moments, const Array& like) {
  const py::module_ torch = py::module_::import("torch");
  const py::object wide = torch.attr("float64");
  const double infinity = std::numeric_limits<double>::infinity();
  py::list three;
  for (py::handle moment : py::reinterpret_borrow<py::sequence>(moments)) {
    if (!is_torch(moment)) {
      const bool is_mean = three.size() == 1;
      const double number = is_mean ? call.number("moments", moment)
                                    : call.number_within("moments", moment, 0, infinity);
      three.append(torch.attr("full")(py::make_tuple(), number, py::arg("dtype") = wide,
                                      py::arg("device") = torch_device(like.device)));
      continue;
    }
    const Array given = call.floats("moments", moment);
    if (given.ndim() != 0) {
      call.value_error("`moments` holds a tensor " + text_of(given.shape) + "; expected 0-d");
    }
    call.check_company(given, like);
    three.append(moment.attr("detach")().attr("to")(wide));
  }
  return call.array("moments", torch.attr("stack")(three));
}

template <class T>
py::object whiten_on_device(const Call& call, const Array& x, const Bytes& mask,
                            const Layout& layout, bool shift_mean, int64_t ddof, double eps,
                            py::handle moments) {
  const Output whitened = make_output(x, x.dtype, x.shape);
  Array given;
  Output found;
  if (moments.is_none()) {
    found = make_output(x, DType::kFloat64, {3});
  } else {
    given = moments_on_device(call, moments, x);
    found = {given.owner, given.data};
  }
  Launch launch(call, x);
  void* workspace = launch.workspace(cuda::whiten_workspace_bytes(layout.rows));
  launch.check(launch.kernels.tokens<T>().masked_whiten(
      launch.queue,
      {layout.rows, x.as<const T>(), mask.data, !moments.is_none(), shift_mean, ddof, eps,
       found.as<double>(), whitened.as<T>()},
      workspace));
  return py::make_tuple(whitened.object, found.object.attr("unbind")());
}

}  // namespace

py::object masked_whiten(py::object x_in, py::object mask_in, py::object shift_mean,
                         py::object ddof_in, py::object eps_in, py::object moments_in,
                         py::object cu_seqlens) {
  const Call call("masked_whiten");
  Array x = call.floats("x", x_in);
  make_contiguous(call, x);
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
  }
  if (x.device.cuda) {
    return by_type(x.dtype, [&](auto number) {
      return whiten_on_device<decltype(number)>(call, x, mask, layout, shift, ddof, eps,
                                                moments_in);
    });
  }
  if (!moments_in.is_none()) {
    py::sequence given = py::reinterpret_borrow<py::sequence>(moments_in);
    const double infinity = std::numeric_limits<double>::infinity();
    moments = {call.number_within("moments", py::object(given[0]), 0, infinity),
               call.number("moments", py::object(given[1])),
               call.number_within("moments", py::object(given[2]), 0, infinity)};
  }
  Output whitened = make_output(x, x.dtype, x.shape);
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
  auto scalar = [&](double value) { return make_scalar(x, DType::kFloat64, value).object; };
  return py::make_tuple(whitened.object, py::make_tuple(scalar(moments.count), scalar(moments.mean),
                                                        scalar(moments.m2)));
}

py::object group_advantages(py::object scores_in, py::object group_ids_in, py::object mode_in,
                            py::object eps_in, py::object ddof_in) {
  const Call call("group_advantages");
  Array scores = call.floats("scores", scores_in);
  make_contiguous(call, scores);
  if (scores.ndim() != 1) {
    call.value_error("`scores` is " + text_of(scores.shape) + "; expected [B]");
  }
  Array group_ids = call.integers("group_ids", group_ids_in, scores);
  call.check_shape(group_ids, scores, "both must be [B]");
  const auto mode = static_cast<GroupMode>(
      call.choice("mode", mode_in, {"grpo", "dr_grpo", "rloo", "batch_std"}));
  const double eps = call.number_within("eps", eps_in, 0, std::numeric_limits<double>::infinity());
  const int64_t ddof = call.integer("ddof", ddof_in, 0);
  Output out = make_output(scores, scores.dtype, scores.shape);
  if (scores.device.cuda) {
    group_ids = int64s_on_device(call, group_ids);
    const Array order = torch_stable_order(call, group_ids);
    Launch launch(call, scores);
    void* workspace = launch.workspace(cuda::group_workspace_bytes(scores.size()));
    by_type(scores.dtype, [&](auto number) {
      using T = decltype(number);
      launch.check(launch.kernels.tokens<T>().group_advantages(
          launch.queue,
          {{scores.size(), scores.as<const T>(), group_ids.as<const int64_t>(), mode, eps, ddof,
            out.as<T>()},
           order.as<const int64_t>()},
          workspace));
    });
    return out.object;
  }
  const std::vector<int64_t> ids = int64s_of(group_ids);
  by_type(scores.dtype, [&](auto number) {
    using T = decltype(number);
    Unlocked unlocked(scores.size());
    cpu::group_advantages<T>(
        {scores.size(), scores.as<const T>(), ids.data(), mode, eps, ddof, out.as<T>()});
  });
  return out.object;
}

}  // namespace alignzoo::bindings
