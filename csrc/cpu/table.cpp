// One instruction set's table of loops.
#include "cpu/isa.h"

#define ALIGNZOO_STRING_OF(x) #x
#define ALIGNZOO_STRING(x) ALIGNZOO_STRING_OF(x)

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

#define ALIGNZOO_LOGIT_KERNELS(S, T)                                           \
  {token_log_probs<S, T>, token_log_probs_backward<S, T>, sample_tokens<S, T>, \
   kl_divergence<S, T>,   kl_divergence_backward<S, T>,   max_and_gather<S, T>}

const Kernels kTable = {
    ALIGNZOO_STRING(ALIGNZOO_ISA),
    count_mask,
    {gae<float>, td_lambda_returns<float>, vtrace<float>, td_targets<float>, moments<float>,
     whiten<float>, policy_loss<float>, value_loss<float>, kl_penalty<float>, huber<float>},
    {gae<double>, td_lambda_returns<double>, vtrace<double>, td_targets<double>, moments<double>,
     whiten<double>, policy_loss<double>, value_loss<double>, kl_penalty<double>, huber<double>},
    ALIGNZOO_LOGIT_KERNELS(float, float),
    ALIGNZOO_LOGIT_KERNELS(double, double),
    ALIGNZOO_LOGIT_KERNELS(Bfloat16, float),
    ALIGNZOO_LOGIT_KERNELS(Float16, float),
};

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
