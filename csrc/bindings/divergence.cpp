// kl_divergence and its backward, max_and_gather.
#include "bindings/cuda.h"
#include "bindings/functions.h"
#include "bindings/logit_rows.h"
#include "cuda/row_plan.h"

namespace alignzoo::bindings {
namespace {

// Logits a and b of KL(a || b): p and q as given, or turned round.
struct Pair {
  Array p, q;
  LogitRows p_rows, q_rows;
  bool reverse;

  Pair(const Call& call, py::handle logits_p, py::handle logits_q, py::handle direction)
      : p(call.floats("logits_p", logits_p, true)), q(call.floats("logits_q", logits_q, true)) {
    call.check_company(q, p);
    if (q.dtype != p.dtype) {
      call.type_error(std::string("`logits_q` is ") + name_of(q.dtype) + " but `logits_p` is " +
                      name_of(p.dtype) + "; both must have one dtype");
    }
    call.check_shape(q, p, "both must be [..., V]");
    p_rows = logit_rows(call, p);
    q_rows = logit_rows(call, q);
    reverse = call.choice("direction", direction, {"forward", "reverse"}) == 1;
  }
  const Array& a() const { return reverse ? q : p; }
  const Array& b() const { return reverse ? p : q; }
  const LogitRows& a_rows() const { return reverse ? q_rows : p_rows; }
  const LogitRows& b_rows() const { return reverse ? p_rows : q_rows; }
  int64_t work() const { return p_rows.count * p_rows.vocabulary; }
};

}  // namespace

py::object kl_divergence(py::object logits_p, py::object logits_q, py::object direction,
                         py::object temperature_in, py::object save_in) {
  const Call call("kl_divergence");
  const Pair pair(call, logits_p, logits_q, direction);
  const double temperature = call.temperature(temperature_in, false);
  const bool save = call.flag("save", save_in);
  Shape shape = leading(pair.p);
  Output values = make_output(pair.p, statistics_dtype(pair.p.dtype), shape), saved;
  shape.push_back(5);
  if (save) saved = make_output(pair.p, DType::kFloat64, shape);
  const int threads = threads_for(pair.work());
  by_storage(pair.p.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const DivergenceArgs<S, T> args{
        pair.a_rows(),     pair.b_rows(),  pair.a().as<const S>(), pair.b().as<const S>(),
        1.0 / temperature, values.as<T>(), saved.as<double>()};
    if (pair.p.device.cuda) {
      Launch launch(call, pair.p);
      void* workspace = launch.workspace(cuda::divergence_workspace_bytes(pair.p_rows));
      return launch.check(
          launch.kernels.logits<S, T>().kl_divergence(launch.queue, args, workspace));
    }
    const auto& kernels = cpu::kernels().logits<S, T>();
    Unlocked unlocked(pair.work());
    kernels.kl_divergence(args, threads);
  });
  return py::make_tuple(values.object, object_or_none(saved));
}

py::object kl_divergence_backward(py::object logits_p, py::object logits_q, py::object direction,
                                  py::object temperature_in, py::object saved_in,
                                  py::object upstream_in, py::object needs_p, py::object needs_q) {
  const Call call("kl_divergence_backward");
  const Pair pair(call, logits_p, logits_q, direction);
  const double temperature = call.temperature(temperature_in, false);
  Array upstream = call.floats("upstream", upstream_in);
  call.check_company(upstream, pair.p);
  Shape shape = leading(pair.p);
  if (upstream.shape != shape || upstream.dtype != statistics_dtype(pair.p.dtype)) {
    call.value_error("`upstream` must be " + text_of(shape) + ", of the dtype of the divergences");
  }
  make_contiguous(call, upstream);
  const Array saved = call.floats("saved", saved_in);
  call.check_company(saved, pair.p);
  shape.push_back(5);
  if (saved.shape != shape || saved.dtype != DType::kFloat64 || !saved.contiguous()) {
    call.value_error("`saved` is not what the forward pass returned");
  }
  Output by_p, by_q;
  if (call.flag("needs_p", needs_p)) by_p = make_output(pair.p, pair.p.dtype, pair.p.shape);
  if (call.flag("needs_q", needs_q)) by_q = make_output(pair.p, pair.p.dtype, pair.p.shape);
  const Output &by_a = pair.reverse ? by_q : by_p, &by_b = pair.reverse ? by_p : by_q;
  const int threads = threads_for(pair.work());
  by_storage(pair.p.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const DivergenceBackwardArgs<S, T> args{
        pair.a_rows(),          pair.b_rows(),     pair.a().as<const S>(),
        pair.b().as<const S>(), 1.0 / temperature, saved.as<const double>(),
        upstream.as<const T>(), by_a.as<S>(),      by_b.as<S>()};
    if (pair.p.device.cuda) {
      const Launch launch(call, pair.p);
      return launch.check(launch.kernels.logits<S, T>().kl_divergence_backward(launch.queue, args));
    }
    const auto& kernels = cpu::kernels().logits<S, T>();
    Unlocked unlocked(pair.work());
    kernels.kl_divergence_backward(args, threads);
  });
  return py::make_tuple(object_or_none(by_p), object_or_none(by_q));
}

py::object max_and_gather(py::object q_in, py::object actions_in) {
  const Call call("max_and_gather");
  Array q = call.floats("q", q_in, true);
  const LogitRows rows = logit_rows(call, q);
  const Indices actions = row_indices(call, "actions", actions_in, q, rows.vocabulary, nullptr);
  const Shape shape = leading(q);
  const DType dtype = statistics_dtype(q.dtype);
  const Output max = make_output(q, dtype, shape);
  const Output argmax = make_output(q, DType::kInt64, shape);
  const Output chosen = make_output(q, dtype, shape);
  const int64_t work = rows.count * rows.vocabulary;
  const int threads = threads_for(work);
  by_storage(q.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const GatherArgs<S, T> args{rows,        q.as<const S>(),      actions.data,
                                max.as<T>(), argmax.as<int64_t>(), chosen.as<T>()};
    if (q.device.cuda) {
      Launch launch(call, q);
      void* workspace = launch.workspace(cuda::gather_workspace_bytes(rows));
      return launch.check(
          launch.kernels.logits<S, T>().max_and_gather(launch.queue, args, workspace));
    }
    const auto& kernels = cpu::kernels().logits<S, T>();
    Unlocked unlocked(work);
    kernels.max_and_gather(args, threads);
  });
  return py::make_tuple(max.object, argmax.object, chosen.object);
}

}  // namespace alignzoo::bindings
