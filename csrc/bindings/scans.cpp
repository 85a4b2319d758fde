// gae, discounted_returns, td_lambda_returns, vtrace, td_targets.
#include "bindings/cuda.h"
#include "bindings/functions.h"
#include "bindings/tokens.h"
#include "cuda/scan_plan.h"

namespace alignzoo::bindings {
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

// What every backward scan is given, checked.
struct Episodes {
  Array rewards, values, next_values, bootstrap;
  Bytes mask;
  Flags terminated, truncated;
  Layout layout;
  MaskMode mask_mode = MaskMode::kCarry;
  const char* wanted = "";  // the shape that all per-token arrays share

  template <class T>
  ScanArgs<T> args(double gamma, double lambda, const Output& advantages,
                   const Output& returns) const {
    ScanArgs<T> out{};
    out.rows = layout.rows;
    out.rewards = rewards.as<const T>();
    out.values = values.as<const T>();
    out.next_values = next_values.as<const T>();
    out.bootstrap = bootstrap.as<const T>();
    out.mask = mask.data;
    out.terminated = terminated.bytes.data;
    out.truncated = truncated.bytes.data;
    out.terminated_per_row = terminated.per_row;
    out.truncated_per_row = truncated.per_row;
    out.mask_mode = mask_mode;
    out.gamma = static_cast<T>(gamma);
    out.lambda = static_cast<T>(lambda);
    out.advantages = advantages.as<T>();
    out.returns = returns.as<T>();
    return out;
  }
};

// `values_in` may be null, for returns that need none.
Episodes episodes_of(const Call& call, py::handle rewards_in, py::handle values_in,
                     py::handle mask_in, py::handle terminated_in, py::handle truncated_in,
                     py::handle bootstrap_in, py::handle next_values_in, py::handle cu_seqlens,
                     py::handle mask_mode) {
  Episodes out;
  out.rewards = call.floats("rewards", rewards_in);
  make_contiguous(call, out.rewards);
  const Array& rewards = out.rewards;
  out.wanted = cu_seqlens.is_none() ? "both must be [B, T]" : "both must be [N]";
  if (values_in) {
    out.values = call.floats_like("values", values_in, rewards, rewards.shape, out.wanted);
  }
  out.layout = layout_of(call, rewards, cu_seqlens, false);
  if (!next_values_in.is_none()) {
    out.next_values =
        call.floats_like("next_values", next_values_in, rewards, rewards.shape, out.wanted);
  }
  if (!bootstrap_in.is_none()) {
    const int64_t rows = out.layout.rows.count;
    const std::string per_row = "`bootstrap` must be [" + std::to_string(rows) + "], one per row";
    out.bootstrap = call.floats_like("bootstrap", bootstrap_in, rewards, {rows}, per_row.c_str());
  }
  out.mask = optional_mask(call, "mask", mask_in, rewards, out.wanted);
  out.terminated = flags_of(call, "terminated", terminated_in, rewards, out.layout);
  out.truncated = flags_of(call, "truncated", truncated_in, rewards, out.layout);
  out.mask_mode =
      static_cast<MaskMode>(call.choice("mask_mode", mask_mode, {"carry", "zero", "prefix"}));
  return out;
}

// Runs the kernel that `choose` picks from a table of either device, on args_of(float or double).
// On the host without the GIL, and raising for what it found at fault.
template <class ArgsOf, class Choose>
void run_scan(const Call& call, const Episodes& episodes, ArgsOf args_of, Choose choose) {
  const Array& rewards = episodes.rewards;
  if (rewards.device.cuda) {
    Launch launch(call, rewards);
    void* workspace =
        launch.workspace(cuda::scan_workspace_bytes(episodes.layout.rows, size_of(rewards.dtype)));
    return by_type(rewards.dtype, [&](auto number) {
      const auto kernel = choose(launch.kernels.tokens<decltype(number)>());
      launch.check(kernel(launch.queue, args_of(number), workspace));
    });
  }
  const int64_t work = rewards.size();
  const int threads = threads_for(work);
  ScanFaults faults;
  by_type(rewards.dtype, [&](auto number) {
    const auto kernel = choose(cpu::kernels().tokens<decltype(number)>());
    Unlocked unlocked(work);
    faults = kernel(args_of(number), threads);
  });
  if (faults.hole_row >= 0) {
    call.value_error("`mask` has a hole in row " + std::to_string(faults.hole_row) +
                     "; mask_mode 'prefix' wants ones, then zeros ('carry' skips masked tokens)");
  }
  if (faults.cut_row >= 0) {
    call.value_error("`truncated` is set in row " + std::to_string(faults.cut_row) +
                     (episodes.values.data != nullptr
                          ? " where no value follows; give `next_values`, or `bootstrap` "
                            "if it is the row's last unmasked step"
                          : " where no value follows; give `bootstrap`, and set "
                            "`truncated` at a row's last unmasked step only"));
  }
}

Output output_like(const Array& array) { return make_output(array, array.dtype, array.shape); }

}  // namespace

py::object gae(py::object rewards, py::object values, py::object gamma_in, py::object lambda_in,
               py::object mask, py::object terminated, py::object truncated, py::object bootstrap,
               py::object next_values, py::object cu_seqlens, py::object mask_mode) {
  const Call call("gae");
  const double gamma = call.number_within("gamma", gamma_in, 0, 1);
  const double lambda = call.number_within("gae_lambda", lambda_in, 0, 1);
  const Episodes episodes = episodes_of(call, rewards, values, mask, terminated, truncated,
                                        bootstrap, next_values, cu_seqlens, mask_mode);
  const Output advantages = output_like(episodes.rewards), returns = output_like(episodes.rewards);
  run_scan(
      call, episodes,
      [&](auto number) {
        return episodes.args<decltype(number)>(gamma, lambda, advantages, returns);
      },
      [](const auto& kernels) { return kernels.gae; });
  return py::make_tuple(advantages.object, returns.object);
}

namespace {

py::object returns_of(const Call& call, const Episodes& episodes, double gamma, double lambda) {
  const Output returns = output_like(episodes.rewards);
  run_scan(
      call, episodes,
      [&](auto number) {
        return episodes.args<decltype(number)>(gamma, lambda, Output(), returns);
      },
      [](const auto& kernels) { return kernels.td_lambda_returns; });
  return returns.object;
}

}  // namespace

py::object discounted_returns(py::object rewards, py::object gamma, py::object mask,
                              py::object terminated, py::object truncated, py::object bootstrap,
                              py::object cu_seqlens, py::object mask_mode) {
  const Call call("discounted_returns");
  const double discount = call.number_within("gamma", gamma, 0, 1);
  return returns_of(call,
                    episodes_of(call, rewards, py::handle(), mask, terminated, truncated, bootstrap,
                                py::none(), cu_seqlens, mask_mode),
                    discount, 1.0);
}

py::object td_lambda_returns(py::object rewards, py::object values, py::object gamma_in,
                             py::object lambda_in, py::object mask, py::object terminated,
                             py::object truncated, py::object bootstrap, py::object next_values,
                             py::object cu_seqlens, py::object mask_mode) {
  const Call call("td_lambda_returns");
  const double gamma = call.number_within("gamma", gamma_in, 0, 1);
  const double lambda = call.number_within("td_lambda", lambda_in, 0, 1);
  return returns_of(call,
                    episodes_of(call, rewards, values, mask, terminated, truncated, bootstrap,
                                next_values, cu_seqlens, mask_mode),
                    gamma, lambda);
}

py::object vtrace(py::object log_probs_in, py::object old_log_probs_in, py::object rewards_in,
                  py::object values_in, py::object gamma_in, py::object lambda_in,
                  py::object clip_rho_in, py::object clip_c_in, py::object clip_pg_rho_in,
                  py::object mask, py::object terminated, py::object truncated,
                  py::object bootstrap, py::object next_values, py::object cu_seqlens,
                  py::object mask_mode) {
  const Call call("vtrace");
  const double gamma = call.number_within("gamma", gamma_in, 0, 1);
  const double lambda = call.number_within("vtrace_lambda", lambda_in, 0, 1);
  const double clip_rho = call.number_above_0("clip_rho", clip_rho_in);
  const double clip_c = call.number_above_0("clip_c", clip_c_in);
  const double clip_pg_rho = call.number_above_0("clip_pg_rho", clip_pg_rho_in);
  const Episodes episodes = episodes_of(call, rewards_in, values_in, mask, terminated, truncated,
                                        bootstrap, next_values, cu_seqlens, mask_mode);
  const Array& rewards = episodes.rewards;
  const Array log_probs =
      call.floats_like("log_probs", log_probs_in, rewards, rewards.shape, episodes.wanted);
  const Array old_log_probs =
      call.floats_like("old_log_probs", old_log_probs_in, rewards, rewards.shape, episodes.wanted);
  const Output targets = output_like(rewards), advantages = output_like(rewards);
  const auto args_of = [&](auto number) {
    using T = decltype(number);
    ScanArgs<T> args = episodes.args<T>(gamma, lambda, advantages, targets);
    args.log_probs = log_probs.as<const T>();
    args.old_log_probs = old_log_probs.as<const T>();
    args.clip_rho = static_cast<T>(clip_rho);
    args.clip_c = static_cast<T>(clip_c);
    args.clip_pg_rho = static_cast<T>(clip_pg_rho);
    return args;
  };
  run_scan(call, episodes, args_of, [](const auto& kernels) { return kernels.vtrace; });
  return py::make_tuple(targets.object, advantages.object);
}

py::object td_targets(py::object rewards_in, py::object next_values_in, py::object gamma_in,
                      py::object terminated_in, py::object n_step_in) {
  const Call call("td_targets");
  const double gamma = call.number_within("gamma", gamma_in, 0, 1);
  const int64_t n_step = call.integer("n_step", n_step_in, 1);
  Array rewards = call.floats("rewards", rewards_in);
  make_contiguous(call, rewards);
  const char* wanted = "both must have one shape";
  const Array next_values =
      call.floats_like("next_values", next_values_in, rewards, rewards.shape, wanted);
  const Bytes terminated = optional_mask(call, "terminated", terminated_in, rewards, wanted);
  if (n_step > 1 && rewards.ndim() == 0) {
    call.value_error("`rewards` is []; `n_step` above 1 wants [..., T]");
  }
  const Layout layout = layout_of(call, rewards, py::none(), true);
  const Output targets = output_like(rewards);
  const int64_t work = rewards.size();
  const int threads = threads_for(work);
  by_type(rewards.dtype, [&](auto number) {
    using T = decltype(number);
    const TdTargetsArgs<T> args{layout.rows,     rewards.as<const T>(), next_values.as<const T>(),
                                terminated.data, static_cast<T>(gamma), n_step,
                                targets.as<T>()};
    if (rewards.device.cuda) {
      const Launch launch(call, rewards);
      return launch.check(launch.kernels.tokens<T>().td_targets(launch.queue, args));
    }
    const auto& kernels = cpu::kernels().tokens<T>();
    Unlocked unlocked(work);
    kernels.td_targets(args, threads);
  });
  return targets.object;
}

}  // namespace alignzoo::bindings
