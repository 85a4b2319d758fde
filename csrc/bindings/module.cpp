#include <pybind11/pybind11.h>

#include "bindings/array.h"
#include "bindings/cuda.h"
#include "bindings/functions.h"
#include "cpu/kernels.h"
#include "cpu/pool.h"

namespace py = pybind11;
using namespace alignzoo;

namespace {

int cuda_device_count() {
  const cuda::Kernels* table = bindings::cuda_kernels();
  return table == nullptr ? 0 : table->device_count();
}
int cuda_runtime_version() {
  const cuda::Kernels* table = bindings::cuda_kernels();
  return table == nullptr ? 0 : table->runtime_version();
}

py::dict build_info() {
  py::dict info;
#if defined(__clang__)
  info["compiler"] = "Clang " __clang_version__;
#else
  info["compiler"] = "GCC " __VERSION__;
#endif
  info["isa_compiled"] = cpu::compiled_isas();
  info["isa"] = cpu::kernels().isa;
  info["threads"] = bindings::num_threads();
  info["pool"] = cpu::has_openmp() ? "torch" : "own";
  info["cuda_built"] = !bindings::cuda_library().empty();
  return info;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "alignzoo's native core. Its callers are in alignzoo/kernels, which documents it.";
  m.attr("cuda_built") = !bindings::cuda_library().empty();
  m.def("build_info", build_info);
  m.def("cuda_device_count", cuda_device_count);
  m.def("cuda_runtime_version", cuda_runtime_version);
  m.def("take_faults", bindings::take_faults);
  m.def("empty_like", bindings::empty_like);
  m.def("gae", bindings::gae);
  m.def("discounted_returns", bindings::discounted_returns);
  m.def("td_lambda_returns", bindings::td_lambda_returns);
  m.def("vtrace", bindings::vtrace);
  m.def("td_targets", bindings::td_targets);
  m.def("masked_whiten", bindings::masked_whiten);
  m.def("group_advantages", bindings::group_advantages);
  m.def("check_linear", bindings::check_linear);
  m.def("token_log_probs", bindings::token_log_probs);
  m.def("token_log_probs_backward", bindings::token_log_probs_backward);
  m.def("sample_tokens", bindings::sample_tokens);
  m.def("kl_divergence", bindings::kl_divergence);
  m.def("kl_divergence_backward", bindings::kl_divergence_backward);
  m.def("max_and_gather", bindings::max_and_gather);
  m.def("policy_loss", bindings::policy_loss);
  m.def("value_loss", bindings::value_loss);
  m.def("kl_penalty", bindings::kl_penalty);
  m.def("huber", bindings::huber);
}
