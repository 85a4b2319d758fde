#include "cuda/device.h"
#include "cuda/launches.h"

#if !defined(ALIGNZOO_CUDA_ARCHITECTURES)
#define ALIGNZOO_CUDA_ARCHITECTURES "emulated"
#endif

namespace alignzoo::cuda {
namespace {

template <class T>
constexpr TokenKernels<T> kTokens = {gae<T>,         td_lambda_returns<T>, vtrace<T>,
                                     td_targets<T>,  masked_whiten<T>,     group_advantages<T>,
                                     policy_loss<T>, value_loss<T>,        kl_penalty<T>,
                                     huber<T>};

template <class S, class T>
constexpr LogitKernels<S, T> kLogits = {
    token_log_probs<S, T>, token_log_probs_backward<S, T>, sample_tokens<S, T>,
    kl_divergence<S, T>,   kl_divergence_backward<S, T>,   max_and_gather<S, T>};

#if defined(ALIGNZOO_EMULATE_CUDA)
constexpr bool kHostMemory = true;
#else
constexpr bool kHostMemory = false;
#endif

const Kernels kTable = {kTableRevision,
                        kHostMemory,
                        ALIGNZOO_CUDA_ARCHITECTURES,
                        device_count,
                        runtime_version,
                        describe,
                        take_faults,
                        kTokens<float>,
                        kTokens<double>,
                        kLogits<float, float>,
                        kLogits<double, double>,
                        kLogits<Bfloat16, float>,
                        kLogits<Float16, float>};

}  // namespace
}  // namespace alignzoo::cuda

extern "C" __attribute__((visibility("default"))) const alignzoo::cuda::Kernels*
alignzoo_cuda_kernels() {
  return &alignzoo::cuda::kTable;
}
