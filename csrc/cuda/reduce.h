// Sums and maxima over a warp and a block, in a fixed order: equal numbers give equal bits.
#pragma once

#include "cuda/runtime.h"
#include "math/scalar.h"

namespace alignzoo::cuda {

// Every lane has the result. `combine` is associative and commutative in exact arithmetic.
template <class T, class Combine>
ALIGNZOO_DEVICE T warp_reduce(T value, Combine combine) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

struct Add {
  template <class T>
  ALIGNZOO_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
// The second operand where they are unordered, as math::max.
struct Larger {
  template <class T>
  ALIGNZOO_DEVICE T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Room that block_reduce needs of the block's shared memory.
template <class T, int kThreads>
struct ReduceRoom {
  T of_warp[kThreads / kWarp];
};

// Every thread of the block has the result. All must call it, and `room` may be used again at once.
template <int kThreads, class T, class Combine>
ALIGNZOO_DEVICE T block_reduce(T value, Combine combine, ReduceRoom<T, kThreads>& room) {
  value = warp_reduce(value, combine);
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) room.of_warp[warp] = value;
  __syncthreads();
  value = room.of_warp[0];
  for (int w = 1; w < kThreads / kWarp; ++w) value = combine(value, room.of_warp[w]);
  __syncthreads();
  return value;
}

}  // namespace alignzoo::cuda
