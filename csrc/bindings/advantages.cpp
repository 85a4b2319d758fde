// gae, discounted_returns, masked_whiten, group_advantages.
#include <cmath>
#include <limits>

#include "bindings/functions.h"
#include "bindings/tokens.h"

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
  out.rows.count = bounds.size() - 1;
  out.rows.offsets = out.offsets.data();
  out.packed = true;
  return out;
}

namespace {

struct Flags {
  Bytes bytes;
  bool per_row = false;
};

// [B, T] or [N] like `like`, or [B]; per token where both fit.
Flags flags_of(const Call& call, const char* name, py::handle object, const Array& like,
               const Layout& layout) {
  Flags out;
  if (object.is_none()) return out;
  Array array = call.integers(name, object, like);
  out.per_row = array.shape != like.shape;
  if (out.per_row && array.shape != Shape{layout.rows.count}) {
    call.value_error("`" + array.name + "` is " + text_of(array.shape) + " but `" + like.name +
                     "` is " + text_of(like.shape) + "; it must have that shape, or be [" +
                     std::to_string(layout.rows.count) + "], one per row");
  }
  out.bytes = bytes_of(call, array);
  return out;
}

py::tuple gae_of(const Call& call, py::handle rewards_in, py::handle values_in, double gamma,
                 double gae_lambda, py::handle mask_in, py::handle terminated_in,
                 py::handle truncated_in, py::handle bootstrap_in, py::handle next_values_in,
                 py::handle cu_seqlens, py::handle mask_mode) {
  const bool with_values = !values_in.is_none();
  Array rewards = call.floats("rewards", rewards_in);
  make_contiguous(rewards);
  const char* wanted = cu_seqlens.is_none() ? "both must be [B, T]" : "both must be [N]";
  Array values, next_values, bootstrap;
  if (with_values) values = call.floats_like("values", values_in, rewards, rewards.shape, wanted);
  const Layout layout = layout_of(call, rewards, cu_seqlens, false);
  if (!next_values_in.is_none()) {
    next_values = call.floats_like("next_values", next_values_in, rewards, rewards.shape, wanted);
  }
  if (!bootstrap_in.is_none()) {
    const std::string per_row =
        "`bootstrap` must be [" + std::to_string(layout.rows.count) + "], one per row";
    bootstrap =
        call.floats_like("bootstrap", bootstrap_in, rewards, {layout.rows.count}, per_row.c_str());
  }
  const Bytes mask = optional_mask(call, "mask", mask_in, rewards, wanted);
  const Flags terminated = flags_of(call, "terminated", terminated_in, rewards, layout);
  const Flags truncated = flags_of(call, "truncated", truncated_in, rewards, layout);
  const auto mode =
      static_cast<cpu::MaskMode>(call.choice("mask_mode", mask_mode, {"carry", "zero", "prefix"}));

  Output advantages, returns = make_output(rewards.library, rewards.dtype, rewards.shape);
  if (with_values) advantages = make_output(rewards.library, rewards.dtype, rewards.shape);
  const int64_t work = rewards.size();
  const int threads = threads_for(work);
  cpu::GaeFaults faults;
  by_type(rewards.dtype, [&](auto number) {
    using T = decltype(number);
    cpu::GaeArgs<T> args{layout.rows,
                         rewards.as<const T>(),
                         values.as<const T>(),
                         next_values.as<const T>(),
                         bootstrap.as<const T>(),
                         mask.data,
                         terminated.bytes.data,
                         truncated.bytes.data,
                         terminated.per_row,
                         truncated.per_row,
                         mode,
                         static_cast<T>(gamma),
                         static_cast<T>(gae_lambda),
                         advantages.as<T>(),
                         returns.as<T>()};
    Unlocked unlocked(work);
    faults = cpu::kernels().tokens<T>().gae(args, threads);
  });
  if (faults.hole_row >= 0) {
    call.value_error("`mask` has a hole in row " + std::to_string(faults.hole_row) +
                     "; mask_mode 'prefix' wants ones, then zeros ('carry' skips masked tokens)");
  }
  if (faults.cut_row >= 0) {
    call.value_error("`truncated` is set in row " + std::to_string(faults.cut_row) +
                     (with_values ? " where no value follows; give `next_values`, or `bootstrap` "
                                    "if it is the row's last unmasked step"
                                  : " where no value follows; give `bootstrap`, and set "
                                    "`truncated` at a row's last unmasked step only"));
  }
  if (!with_values) return py::make_tuple(py::none(), returns.object);
  return py::make_tuple(advantages.object, returns.object);
}

}  // namespace

py::object gae(py::object rewards, py::object values, py::object gamma, py::object gae_lambda,
               py::object mask, py::object terminated, py::object truncated, py::object bootstrap,
               py::object next_values, py::object cu_seqlens, py::object mask_mode) {
  const Call call("gae");
  if (values.is_none())
    call.type_error("`values` is None; expected a NumPy array or a torch tensor");
  return gae_of(call, rewards, values, call.number_within("gamma", gamma, 0, 1),
                call.number_within("gae_lambda", gae_lambda, 0, 1), mask, terminated, truncated,
                bootstrap, next_values, cu_seqlens, mask_mode);
}

py::object discounted_returns(py::object rewards, py::object gamma, py::object mask,
                              py::object terminated, py::object truncated, py::object bootstrap,
                              py::object cu_seqlens, py::object mask_mode) {
  const Call call("discounted_returns");
  return gae_of(call, rewards, py::none(), call.number_within("gamma", gamma, 0, 1), 1.0, mask,
                terminated, truncated, bootstrap, py::none(), cu_seqlens, mask_mode)[1];
}

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
  cpu::Moments moments;
  if (!moments_in.is_none()) {
    if (!PySequence_Check(moments_in.ptr()) || PySequence_Size(moments_in.ptr()) != 3) {
      PyErr_Clear();
      call.type_error("`moments` is " + std::string(py::repr(moments_in)) +
                      "; expected (n, mean, m2)");
    }
    py::sequence given = py::reinterpret_borrow<py::sequence>(moments_in);
    moments = {call.number("moments", py::object(given[0])),
               call.number("moments", py::object(given[1])),
               call.number("moments", py::object(given[2]))};
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
  const auto mode = static_cast<cpu::GroupMode>(
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
