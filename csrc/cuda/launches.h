// The launches that the table holds, one definition each in the .cu file of its name.
#pragma once

#include "cuda/kernels.h"

namespace alignzoo::cuda {

// scans.cu
template <class T>
Status gae(const Queue& queue, const ScanArgs<T>& args, void* workspace);
template <class T>
Status td_lambda_returns(const Queue& queue, const ScanArgs<T>& args, void* workspace);
template <class T>
Status vtrace(const Queue& queue, const ScanArgs<T>& args, void* workspace);
// td_targets.cu
template <class T>
Status td_targets(const Queue& queue, const TdTargetsArgs<T>& args);
// statistics.cu
template <class T>
Status masked_whiten(const Queue& queue, const WhitenCall<T>& call, void* workspace);
template <class T>
Status group_advantages(const Queue& queue, const GroupCall<T>& call, void* workspace);
// losses.cu
template <class T>
Status policy_loss(const Queue& queue, const PolicyLossCall<T>& call, void* workspace);
template <class T>
Status value_loss(const Queue& queue, const ValueLossCall<T>& call, void* workspace);
// penalties.cu
template <class T>
Status kl_penalty(const Queue& queue, const ElementwiseArgs<T>& args);
template <class T>
Status huber(const Queue& queue, const ElementwiseArgs<T>& args);
// softmax.cu
template <class S, class T>
Status token_log_probs(const Queue& queue, const TokenLogProbsArgs<S, T>& args, void* workspace);
template <class S, class T>
Status token_log_probs_backward(const Queue& queue, const TokenLogProbsBackwardArgs<S, T>& args);
// sampling.cu
template <class S, class T>
Status sample_tokens(const Queue& queue, const SampleArgs<S, T>& args, void* workspace);
// divergence.cu
template <class S, class T>
Status kl_divergence(const Queue& queue, const DivergenceArgs<S, T>& args, void* workspace);
template <class S, class T>
Status kl_divergence_backward(const Queue& queue, const DivergenceBackwardArgs<S, T>& args);
// gather.cu
template <class S, class T>
Status max_and_gather(const Queue& queue, const GatherArgs<S, T>& args, void* workspace);

}  // namespace alignzoo::cuda
