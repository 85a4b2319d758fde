// policy_loss, value_loss, kl_penalty, huber.
#include <limits>

#include "bindings/cuda.h"
#include "bindings/functions.h"
#include "bindings/tokens.h"
#include "cuda/loss_plan.h"

namespace alignzoo::bindings {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr const char* kOneShape = "both must have one shape";

double denominator_or(const Call& call, py::handle object, double otherwise) {
  if (object.is_none()) return otherwise;
  const double value = call.number("denominator", object);
  if (!(value > 0 && value < kInfinity)) {
    call.value_error("`denominator` is " + text_of(object) + "; expected a number above 0");
  }
  return value;
}

// What a loss on a device is divided by: a number, or one that lies there too.
struct DeviceDenominator {
  bool given = false;
  double number = 0;
  Array array;  // float64, 0-d
};
DeviceDenominator device_denominator(const Call& call, py::handle object, const Array& like) {
  DeviceDenominator out;
  out.given = !object.is_none();
  if (!is_torch(object)) {
    if (out.given) out.number = denominator_or(call, object, 0);
    return out;
  }
  const Array given = call.array("denominator", object);
  if (given.device != like.device) {  // a number on the host, which is read without waiting
    out.number = denominator_or(call, object, 0);
    return out;
  }
  if (given.ndim() != 0) {
    call.value_error("`denominator` is " + text_of(given.shape) + "; expected a number, or 0-d");
  }
  out.array = given.dtype == DType::kFloat64 ? given : torch_cast(call, given, DType::kFloat64);
  return out;
}

// Counts of the mask; without a denominator there must be something to divide by.
MaskCounts counts_of(const Call& call, const Rows& rows, const Bytes& mask,
                     bool denominator_given) {
  const MaskCounts counts = cpu::kernels().count_mask(rows, mask.data);
  if (counts.tokens == 0 && !denominator_given) {
    call.value_error(
        rows.count == 0 || rows.width == 0
            ? "the batch holds no token, so there is nothing to average; give `denominator` to "
              "count such a batch as 0"
            : "`mask` is 0 in every row, so there is nothing to average; give `denominator` to "
              "count such a batch as 0");
  }
  return counts;
}

}  // namespace

py::object policy_loss(py::object log_probs_in, py::object old_log_probs_in,
                       py::object advantages_in, py::object mask_in, py::object clip_range_in,
                       py::object clip_range_high_in, py::object dual_clip_in, py::object level_in,
                       py::object aggregate_in, py::object denominator_in,
                       py::object behaviour_weights_in, py::object kind_in, py::object cu_seqlens,
                       py::object want_gradient) {
  const Call call("policy_loss");
  Array log_probs = call.floats("log_probs", log_probs_in);
  make_contiguous(call, log_probs);
  const Shape& shape = log_probs.shape;
  Array old_log_probs =
      call.floats_like("old_log_probs", old_log_probs_in, log_probs, shape, kOneShape);
  Array advantages = call.floats_like("advantages", advantages_in, log_probs, shape, kOneShape);
  Array weights;
  if (!behaviour_weights_in.is_none()) {
    weights =
        call.floats_like("behaviour_weights", behaviour_weights_in, log_probs, shape, kOneShape);
  }
  const Bytes mask = optional_mask(call, "mask", mask_in, log_probs, kOneShape);
  const Layout layout = layout_of(call, log_probs, cu_seqlens, true);
  const double low = call.number_within("clip_range", clip_range_in, 0, kInfinity);
  const double high = clip_range_high_in.is_none()
                          ? low
                          : call.number_within("clip_range_high", clip_range_high_in, 0, kInfinity);
  const int kind = call.choice("kind", kind_in, {"clip", "plain", "cispo"});
  double dual = kInfinity;
  if (!dual_clip_in.is_none()) {
    dual = call.number("dual_clip", dual_clip_in);
    const std::string shown = text_of(dual_clip_in);
    if (!(dual > 1)) {
      call.value_error("`dual_clip` is " + shown + "; expected a number above 1");
    }
    if (kind != 0) {
      call.value_error("`dual_clip` is " + shown + " but `kind` is " +
                       std::string(py::repr(kind_in)) + "; it belongs to kind 'clip'");
    }
  }
  const auto level = static_cast<Level>(call.choice("level", level_in, {"token", "sequence"}));
  const auto aggregate = static_cast<Aggregate>(
      call.choice("aggregate", aggregate_in,
                  {"token_mean", "sequence_mean", "sequence_sum_norm", "token_sum"}));
  if (aggregate == Aggregate::kSequenceSumNorm && denominator_in.is_none()) {
    call.value_error(
        "`denominator` is None; aggregate 'sequence_sum_norm' needs the length to "
        "divide by");
  }
  const auto args_of = [&](auto number, double gradient_scale, const Output& gradient) {
    using T = decltype(number);
    return PolicyLossArgs<T>{layout.rows,
                             log_probs.as<const T>(),
                             old_log_probs.as<const T>(),
                             advantages.as<const T>(),
                             weights.as<const T>(),
                             mask.data,
                             kind,
                             level,
                             aggregate == Aggregate::kSequenceMean,
                             static_cast<T>(1 - low),
                             static_cast<T>(1 + high),
                             static_cast<T>(dual),
                             gradient_scale,
                             gradient.as<T>()};
  };
  Output gradient;
  if (call.flag("want_gradient", want_gradient)) {
    gradient = make_output(log_probs, log_probs.dtype, shape);
  }
  py::dict stats;
  if (log_probs.device.cuda) {
    const DeviceDenominator denominator = device_denominator(call, denominator_in, log_probs);
    Output scalars[5];
    for (Output& scalar : scalars) scalar = make_output(log_probs, log_probs.dtype, {});
    Launch launch(call, log_probs);
    void* workspace = launch.workspace(cuda::policy_loss_workspace_bytes(
        layout.rows, level, aggregate == Aggregate::kSequenceMean));
    by_type(log_probs.dtype, [&](auto number) {
      using T = decltype(number);
      launch.check(launch.kernels.tokens<T>().policy_loss(
          launch.queue,
          {args_of(number, 0, gradient), aggregate, denominator.given, denominator.number,
           denominator.array.as<const double>(), scalars[0].as<T>(), scalars[1].as<T>(),
           scalars[2].as<T>(), scalars[3].as<T>(), scalars[4].as<T>()},
          workspace));
    });
    const char* names[] = {"clip_frac", "approx_kl", "ratio_max", "ess"};
    for (int i = 0; i < 4; ++i) stats[names[i]] = scalars[1 + i].object;
    return py::make_tuple(scalars[0].object, object_or_none(gradient), stats);
  }
  const MaskCounts counts = counts_of(call, layout.rows, mask, !denominator_in.is_none());
  const double own = aggregate == Aggregate::kTokenMean      ? static_cast<double>(counts.tokens)
                     : aggregate == Aggregate::kSequenceMean ? static_cast<double>(counts.rows)
                                                             : 1.0;
  const double denominator = denominator_or(call, denominator_in, own);

  const int64_t work = log_probs.size();
  const int threads = threads_for(work);
  LossSums sums;
  by_type(log_probs.dtype, [&](auto number) {
    const auto args = args_of(number, 1.0 / denominator, gradient);
    const auto& kernels = cpu::kernels().tokens<decltype(number)>();
    Unlocked unlocked(work);
    sums = kernels.policy_loss(args, threads);
  });
  const double tokens = counts.tokens > 0 ? static_cast<double>(counts.tokens) : 1.0;
  auto scalar = [&](double value) { return make_scalar(log_probs, log_probs.dtype, value).object; };
  stats["clip_frac"] = scalar(sums.clipped / tokens);
  stats["approx_kl"] = scalar(sums.kl / tokens);
  stats["ratio_max"] = scalar(sums.ratio_max);
  stats["ess"] =
      scalar(counts.tokens > 0 ? sums.ratio * sums.ratio / (tokens * sums.ratio_squared) : 0.0);
  return py::make_tuple(scalar(sums.loss / denominator), object_or_none(gradient), stats);
}

py::object value_loss(py::object values_in, py::object old_values_in, py::object returns_in,
                      py::object mask_in, py::object clip_range_in, py::object denominator_in,
                      py::object cu_seqlens, py::object want_gradient) {
  const Call call("value_loss");
  Array values = call.floats("values", values_in);
  make_contiguous(call, values);
  Array returns = call.floats_like("returns", returns_in, values, values.shape, kOneShape);
  const bool clip = !clip_range_in.is_none();
  Array old_values;
  if (clip && old_values_in.is_none()) {
    call.type_error("`old_values` is None; `clip_range` clips around it");
  }
  if (!old_values_in.is_none()) {
    old_values = call.floats_like("old_values", old_values_in, values, values.shape, kOneShape);
  }
  const Bytes mask = optional_mask(call, "mask", mask_in, values, kOneShape);
  const Layout layout = layout_of(call, values, cu_seqlens, true);
  const double range = clip ? call.number_within("clip_range", clip_range_in, 0, kInfinity) : 0;
  const auto args_of = [&](auto number, double gradient_scale, const Output& gradient) {
    using T = decltype(number);
    return ValueLossArgs<T>{layout.rows,
                            values.as<const T>(),
                            old_values.as<const T>(),
                            returns.as<const T>(),
                            mask.data,
                            clip,
                            static_cast<T>(range),
                            gradient_scale,
                            gradient.as<T>()};
  };
  Output gradient;
  if (call.flag("want_gradient", want_gradient)) {
    gradient = make_output(values, values.dtype, values.shape);
  }
  py::dict stats;
  if (values.device.cuda) {
    const DeviceDenominator denominator = device_denominator(call, denominator_in, values);
    const Output loss = make_output(values, values.dtype, {});
    const Output clip_frac = make_output(values, values.dtype, {});
    Launch launch(call, values);
    void* workspace = launch.workspace(cuda::value_loss_workspace_bytes(layout.rows));
    by_type(values.dtype, [&](auto number) {
      using T = decltype(number);
      launch.check(launch.kernels.tokens<T>().value_loss(
          launch.queue,
          {args_of(number, 0, gradient), denominator.given, denominator.number,
           denominator.array.as<const double>(), loss.as<T>(), clip_frac.as<T>()},
          workspace));
    });
    stats["clip_frac"] = clip_frac.object;
    return py::make_tuple(loss.object, object_or_none(gradient), stats);
  }
  const MaskCounts counts = counts_of(call, layout.rows, mask, !denominator_in.is_none());
  const double denominator =
      denominator_or(call, denominator_in, static_cast<double>(counts.tokens));
  const int64_t work = values.size();
  const int threads = threads_for(work);
  LossSums sums;
  by_type(values.dtype, [&](auto number) {
    const auto args = args_of(number, 1.0 / denominator, gradient);
    const auto& kernels = cpu::kernels().tokens<decltype(number)>();
    Unlocked unlocked(work);
    sums = kernels.value_loss(args, threads);
  });
  const double tokens = counts.tokens > 0 ? static_cast<double>(counts.tokens) : 1.0;
  stats["clip_frac"] = make_scalar(values, values.dtype, sums.clipped / tokens).object;
  return py::make_tuple(make_scalar(values, values.dtype, sums.loss / denominator).object,
                        object_or_none(gradient), stats);
}

namespace {

// By the kernel that `choose` picks from a table of either device.
template <class Choose>
py::object elementwise(const Call& call, const Array& x, const Array& y, int estimator,
                       double delta, bool want_gradient, Choose choose) {
  Output value = make_output(x, x.dtype, x.shape), gradient;
  if (want_gradient) gradient = make_output(x, x.dtype, x.shape);
  const int64_t work = x.size();
  const int threads = threads_for(work);
  by_type(x.dtype, [&](auto number) {
    using T = decltype(number);
    const ElementwiseArgs<T> args{
        work,          x.as<const T>(), y.as<const T>(), estimator, static_cast<T>(delta),
        value.as<T>(), gradient.as<T>()};
    if (x.device.cuda) {
      const Launch launch(call, x);
      return launch.check(choose(launch.kernels.tokens<T>())(launch.queue, args));
    }
    const auto kernel = choose(cpu::kernels().tokens<T>());
    Unlocked unlocked(work);
    kernel(args, threads);
  });
  return py::make_tuple(value.object, object_or_none(gradient));
}

}  // namespace

py::object kl_penalty(py::object log_probs_in, py::object ref_log_probs_in, py::object estimator_in,
                      py::object want_gradient) {
  const Call call("kl_penalty");
  Array log_probs = call.floats("log_probs", log_probs_in);
  make_contiguous(call, log_probs);
  Array ref_log_probs =
      call.floats_like("ref_log_probs", ref_log_probs_in, log_probs, log_probs.shape, kOneShape);
  const int estimator =
      call.choice("estimator", estimator_in, {"k1", "k2", "k3", "abs", "k3_plus"});
  return elementwise(call, log_probs, ref_log_probs, estimator, 0,
                     call.flag("gradient", want_gradient),
                     [](const auto& kernels) { return kernels.kl_penalty; });
}

py::object huber(py::object x_in, py::object delta_in, py::object want_gradient) {
  const Call call("huber");
  Array x = call.floats("x", x_in);
  make_contiguous(call, x);
  const double delta = call.number_above_0("delta", delta_in);
  return elementwise(call, x, Array(), 0, delta, call.flag("gradient", want_gradient),
                     [](const auto& kernels) { return kernels.huber; });
}

}  // namespace alignzoo::bindings
