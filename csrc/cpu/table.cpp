// One instruction set's table of loops.
#include "cpu/isa.h"

#define ALIGNZOO_STRING_OF(x) #x
#define ALIGNZOO_STRING(x) ALIGNZOO_STRING_OF(x)

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

const Kernels kTable = {
    ALIGNZOO_STRING(ALIGNZOO_ISA),
    {gae<float>, moments<float>, whiten<float>, policy_loss<float>, value_loss<float>,
     kl_penalty<float>, huber<float>},
    {gae<double>, moments<double>, whiten<double>, policy_loss<double>, value_loss<double>,
     kl_penalty<double>, huber<double>},
    {token_log_probs<float, float>, token_log_probs_backward<float, float>,
     sample_tokens<float, float>},
    {token_log_probs<double, double>, token_log_probs_backward<double, double>,
     sample_tokens<double, double>},
    {token_log_probs<Bfloat16, float>, token_log_probs_backward<Bfloat16, float>,
     sample_tokens<Bfloat16, float>},
    {token_log_probs<Float16, float>, token_log_probs_backward<Float16, float>,
     sample_tokens<Float16, float>},
};

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
