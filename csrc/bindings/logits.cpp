// token_log_probs and its backward, sample_tokens.
#include <limits>

#include "bindings/cuda.h"
#include "bindings/functions.h"
#include "bindings/logit_rows.h"
#include "cuda/row_plan.h"
#include "cuda/sampling_plan.h"

namespace alignzoo::bindings {
namespace {

// Targets, and which of them stands for none: on the host those are -1 already.
struct Targets {
  Indices indices;
  int64_t ignore_index = -1;
};
Targets targets_of(const Call& call, py::handle object, const Array& logits, int64_t vocabulary,
                   py::handle ignore_index) {
  const int64_t ignored =
      call.integer("ignore_index", ignore_index, std::numeric_limits<int64_t>::min());
  return {row_indices(call, "targets", object, logits, vocabulary, &ignored),
          logits.device.cuda ? ignored : -1};
}

}  // namespace

void check_linear(py::object function, py::object hidden_in, py::object weight, py::object targets,
                  py::object ignore_index, py::object temperature, py::object entropy) {
  const Call call(PyUnicode_AsUTF8(function.ptr()));
  const Array hidden = call.floats("hidden", hidden_in, true);
  call.temperature(temperature, false);
  call.flag("entropy", entropy);
  targets_of(call, targets, hidden, call.array("weight", weight).shape[0], ignore_index);
}

py::object token_log_probs(py::object function, py::object logits_in, py::object targets_in,
                           py::object temperature_in, py::object entropy_in,
                           py::object ignore_index_in, py::object save_in) {
  const Call call(PyUnicode_AsUTF8(function.ptr()));
  Array logits = call.floats("logits", logits_in, true);
  const LogitRows rows = logit_rows(call, logits);
  const double temperature = call.temperature(temperature_in, false);
  const bool entropy = call.flag("entropy", entropy_in), save = call.flag("save", save_in);
  const Targets targets = targets_of(call, targets_in, logits, rows.vocabulary, ignore_index_in);

  Shape shape = leading(logits);
  const DType dtype = statistics_dtype(logits.dtype);
  Output log_probs = make_output(logits, dtype, shape), entropies, saved;
  if (entropy) entropies = make_output(logits, dtype, shape);
  shape.push_back(3);
  if (save) saved = make_output(logits, DType::kFloat64, shape);
  const int64_t work = rows.count * rows.vocabulary;
  const int threads = threads_for(work);
  by_storage(logits.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const TokenLogProbsArgs<S, T> args{rows,
                                       logits.as<const S>(),
                                       targets.indices.data,
                                       1.0 / temperature,
                                       log_probs.as<T>(),
                                       entropies.as<T>(),
                                       saved.as<double>(),
                                       targets.ignore_index};
    if (logits.device.cuda) {
      Launch launch(call, logits);
      void* workspace = launch.workspace(cuda::token_log_probs_workspace_bytes(rows));
      return launch.check(
          launch.kernels.logits<S, T>().token_log_probs(launch.queue, args, workspace));
    }
    const auto& kernels = cpu::kernels().logits<S, T>();
    Unlocked unlocked(work);
    kernels.token_log_probs(args, threads);
  });
  return py::make_tuple(log_probs.object, object_or_none(entropies), object_or_none(saved));
}

py::object token_log_probs_backward(py::object logits_in, py::object targets_in,
                                    py::object temperature_in, py::object ignore_index,
                                    py::object saved_in, py::object up_log_probs,
                                    py::object up_entropy, py::object gradient_in) {
  const Call call("token_log_probs_backward");
  Array logits = call.floats("logits", logits_in, true);
  const LogitRows rows = logit_rows(call, logits);
  const double temperature = call.temperature(temperature_in, false);
  const Targets targets = targets_of(call, targets_in, logits, rows.vocabulary, ignore_index);
  Output gradient;
  if (gradient_in.is_none()) {
    gradient = make_output(logits, logits.dtype, logits.shape);
  } else {
    const Array given = call.floats("gradient", gradient_in, true);
    call.check_company(given, logits);
    call.check_shape(given, logits, "both must be [..., V]");
    if (given.dtype != logits.dtype || !given.contiguous()) {
      call.type_error("`gradient` must be contiguous and of the dtype of `logits`");
    }
    gradient = {gradient_in, given.data};
  }
  Array saved = call.floats("saved", saved_in);
  call.check_company(saved, logits);
  Shape shape = leading(logits);
  auto upstream = [&](const char* name, py::handle object) {
    if (object.is_none()) return Array();
    Array out = call.floats(name, object);
    call.check_company(out, logits);
    if (out.shape != shape || out.dtype != statistics_dtype(logits.dtype)) {
      call.value_error(std::string("`") + name + "` must be " + text_of(shape) +
                       ", of the dtype of "
                       "the log-probs");
    }
    make_contiguous(call, out);
    return out;
  };
  Array up_log_prob = upstream("up_log_probs", up_log_probs),
        up_entropies = upstream("up_entropy", up_entropy);
  shape.push_back(3);
  if (saved.shape != shape || saved.dtype != DType::kFloat64 || !saved.contiguous()) {
    call.value_error("`saved` is not what the forward pass returned");
  }
  const int64_t work = rows.count * rows.vocabulary;
  const int threads = threads_for(work);
  by_storage(logits.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const TokenLogProbsBackwardArgs<S, T> args{rows,
                                               logits.as<const S>(),
                                               targets.indices.data,
                                               1.0 / temperature,
                                               saved.as<const double>(),
                                               up_log_prob.as<const T>(),
                                               up_entropies.as<const T>(),
                                               gradient.as<S>(),
                                               targets.ignore_index};
    if (logits.device.cuda) {
      const Launch launch(call, logits);
      return launch.check(
          launch.kernels.logits<S, T>().token_log_probs_backward(launch.queue, args));
    }
    const auto& kernels = cpu::kernels().logits<S, T>();
    Unlocked unlocked(work);
    kernels.token_log_probs_backward(args, threads);
  });
  return gradient.object;
}

py::object sample_tokens(py::object logits_in, py::object temperature_in, py::object top_k_in,
                         py::object top_p_in, py::object seed_in, py::object offset_in,
                         py::object row_ids_in) {
  const Call call("sample_tokens");
  Array logits = call.floats("logits", logits_in, true);
  if (logits.ndim() != 2) {
    call.value_error("`logits` is " + text_of(logits.shape) + "; expected [B, V]");
  }
  const LogitRows rows = logit_rows(call, logits);
  const double temperature = call.temperature(temperature_in, true);
  const int64_t top_k = call.integer("top_k", top_k_in, 0);
  const double top_p = call.number("top_p", top_p_in);
  if (!(top_p > 0 && top_p <= 1)) {
    call.value_error("`top_p` is " + text_of(top_p_in) + "; expected a number above 0, up to 1");
  }
  const uint64_t seed = call.unsigned_integer("seed", seed_in),
                 offset = call.unsigned_integer("offset", offset_in);
  Indices row_ids;
  if (!row_ids_in.is_none()) {
    const Array given = call.integers("row_ids", row_ids_in, logits);
    if (given.shape != Shape{rows.count}) {
      call.value_error("`row_ids` is " + text_of(given.shape) + " but `logits` is " +
                       text_of(logits.shape) + "; `row_ids` must be [B]");
    }
    if (given.device.cuda) {
      row_ids.on_device = int64s_on_device(call, given);
      row_ids.data = row_ids.on_device.as<const int64_t>();
    } else {
      row_ids.checked = int64s_of(given);
      row_ids.data = row_ids.checked.data();
    }
    for (int64_t id : row_ids.checked) {
      if (id < 0) {
        call.value_error("`row_ids` holds " + std::to_string(id) + "; expected 0 or more");
      }
    }
  }
  Output ids = make_output(logits, DType::kInt64, {rows.count});
  Output log_probs = make_output(logits, statistics_dtype(logits.dtype), {rows.count});
  const int64_t work = rows.count * rows.vocabulary;
  const int threads = threads_for(work);
  int64_t bad_row = -1;
  by_storage(logits.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    SampleArgs<S, T> args{rows,
                          logits.as<const S>(),
                          temperature > 0 ? 1.0 / temperature : 0.0,
                          top_k,
                          top_p,
                          seed,
                          offset,
                          row_ids.data,
                          ids.as<int64_t>(),
                          log_probs.as<T>(),
                          -1};
    if (logits.device.cuda) {
      const bool cuts = temperature > 0 && ((top_k > 0 && top_k < rows.vocabulary) || top_p < 1.0);
      Launch launch(call, logits);
      void* workspace =
          launch.workspace(cuda::sample_workspace_bytes(rows, size_of(logits.dtype), cuts));
      return launch.check(
          launch.kernels.logits<S, T>().sample_tokens(launch.queue, args, workspace));
    }
    const auto& kernels = cpu::kernels().logits<S, T>();
    Unlocked unlocked(work);
    kernels.sample_tokens(args, threads);
    bad_row = args.bad_row;
  });
  if (bad_row >= 0) {
    call.value_error("`logits` row " + std::to_string(bad_row) +
                     " is no distribution: it holds NaN or +inf, or nothing but -inf");
  }
  return py::make_tuple(ids.object, log_probs.object);
}

}  // namespace alignzoo::bindings
