// One-step and n-step targets of temporal-difference learning.
//
// Horner's scheme from the last of a step's rewards to its own, a thread a few tokens. Single steps
// move 12 or 13 bytes a float32 token; of n steps a block's threads read neighbouring rewards n
// times, from the cache.
#include "cuda/launches.h"
#include "cuda/runtime.h"
#include "cuda/scan_plan.h"
#include "math/scalar.h"

namespace alignzoo::cuda {
namespace {

// The target of a step with this reward, where `later` is that of the next, or the value after it.
template <class T>
ALIGNZOO_DEVICE T target(const TdTargetsArgs<T>& args, int64_t t, T reward, T later) {
  if (args.terminated && args.terminated[t]) later = T(0);
  return math::fma(args.gamma, later, reward);
}

// kVector tokens from `at` on, all of which exist, of single steps.
template <int kVector, class T>
ALIGNZOO_DEVICE void single_steps(const TdTargetsArgs<T>& args, int64_t at) {
  const Pack<T, kVector> reward = load_pack<kVector>(args.rewards + at),
                         later = load_pack<kVector>(args.next_values + at);
  Pack<T, kVector> out;
  for (int i = 0; i < kVector; ++i) out.at[i] = target(args, at + i, reward.at[i], later.at[i]);
  store_pack(args.targets + at, out);
}

template <int kVector, class T>
__global__ void __launch_bounds__(kElementThreads)
    single_steps_kernel(TdTargetsArgs<T> args, int64_t size) {
  constexpr int64_t kBlock = int64_t{kElementThreads} * kVector * kElementLoads;
  for (int64_t begin = blockIdx.x * kBlock; begin < size; begin += gridDim.x * kBlock) {
    for (int load = 0; load < kElementLoads; ++load) {
      const int64_t at = begin + (load * kElementThreads + static_cast<int>(threadIdx.x)) * kVector;
      if (at + kVector <= size) {
        single_steps<kVector>(args, at);
      } else {
        for (int64_t i = at; i < size; ++i) single_steps<1>(args, i);
      }
    }
  }
}

// Of n steps: block i takes kStepBlock tokens of one row, neighbouring tokens by neighbouring
// threads.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    n_steps_kernel(TdTargetsArgs<T> args, int64_t blocks_a_row, int64_t blocks) {
  const int64_t width = args.rows.width;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t row = block / blocks_a_row, begin = row * width;
    const int64_t at = (block - row * blocks_a_row) * kStepBlock + threadIdx.x;
    for (int64_t t = at; t < smaller(width, at - threadIdx.x + kStepBlock); t += kElementThreads) {
      const int64_t stop = args.n_step < width - t ? t + args.n_step : width;
      T y = args.next_values[begin + stop - 1];
      for (int64_t k = stop - 1; k >= t; --k) {
        y = target(args, begin + k, args.rewards[begin + k], y);
      }
      args.targets[begin + t] = y;
    }
  }
}

}  // namespace

template <class T>
Status td_targets(const Queue& queue, const TdTargetsArgs<T>& args) {
  const int64_t size = args.rows.count * args.rows.width;
  if (args.n_step == 1) {
    constexpr int kVector = kPerLoad<T>;
    const bool packs =
        fits_pack(args.rewards) && fits_pack(args.next_values) && fits_pack(args.targets);
    const int64_t blocks =
        blocks_for(size, int64_t{kElementThreads} * (packs ? kVector : 1) * kElementLoads);
    return launch(queue, packs ? single_steps_kernel<kVector, T> : single_steps_kernel<1, T>,
                  blocks, kElementThreads, args, size);
  }
  if (size == 0) return cudaSuccess;
  const int64_t blocks_a_row = ceil_div(args.rows.width, kStepBlock);
  const int64_t blocks = blocks_a_row * args.rows.count;
  return launch(queue, n_steps_kernel<T>, blocks_for(blocks, 1), kElementThreads, args,
                blocks_a_row, blocks);
}

template Status td_targets<float>(const Queue&, const TdTargetsArgs<float>&);
template Status td_targets<double>(const Queue&, const TdTargetsArgs<double>&);

}  // namespace alignzoo::cuda
