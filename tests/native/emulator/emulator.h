// CUDA's language on the host, for kernels written as those of csrc/cuda: each thread of a block is
// a fiber, blocks run one after the other. Barriers and warp operations wait for one another as on
// a device, in an order that can be turned round or shuffled: a missing barrier changes results, a
// barrier that some threads never reach ends the program, and the sanitizers see every access.
//
// What it cannot show: the order of memory between blocks and streams, and speed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define ALIGNZOO_SHARED(Type, name) \
  Type& name = *static_cast<Type*>(alignzoo::emulator::shared_memory(sizeof(Type)))

using cudaError_t = int;
using cudaStream_t = void*;
constexpr int cudaSuccess = 0, cudaErrorInvalidConfiguration = 9;
inline int cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline int cudaSetDevice(int) { return cudaSuccess; }

struct Dimensions {
  unsigned x, y, z;
};
// Of the thread that runs.
extern Dimensions threadIdx, blockIdx, blockDim, gridDim;

void __syncthreads();
void __syncwarp(uint32_t mask = 0xffffffffu);

namespace alignzoo::emulator {

// Runs `thread` once for every thread of every block.
void run(int64_t blocks, int threads, const std::function<void()>& thread);

// In which order the threads of a block, and the blocks, take turns.
enum class Order { kForwards, kBackwards, kShuffled };
void set_order(Order order);

// The running block's shared memory, filled with rubbish when the block starts.
void* shared_memory(size_t size);

// Ends the program, naming the thread.
[[noreturn]] void fail(const char* why);

// Each of the 32 lanes gives 8 bytes and sees those of all.
const uint64_t* exchange(uint32_t mask, uint64_t mine);

template <class T>
uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= 8, "a shuffle takes 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T of_lane(uint32_t mask, T value, int from) {
  const uint64_t* all = exchange(mask, bits_of(value));
  T out;
  std::memcpy(&out, &all[from], sizeof out);
  return out;
}
inline int lane() { return static_cast<int>(threadIdx.x % 32); }

}  // namespace alignzoo::emulator

// A lane that does not exist gives the caller's own value, as on a device.
template <class T>
T __shfl_sync(uint32_t mask, T value, int from) {
  return alignzoo::emulator::of_lane(mask, value, from & 31);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int distance) {
  return alignzoo::emulator::of_lane(mask, value, alignzoo::emulator::lane() ^ distance);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned distance) {
  const int lane = alignzoo::emulator::lane(), from = lane - static_cast<int>(distance);
  return alignzoo::emulator::of_lane(mask, value, from < 0 ? lane : from);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned distance) {
  const int lane = alignzoo::emulator::lane(), from = lane + static_cast<int>(distance);
  return alignzoo::emulator::of_lane(mask, value, from > 31 ? lane : from);
}
inline uint32_t __ballot_sync(uint32_t mask, bool vote) {
  const uint64_t* all = alignzoo::emulator::exchange(mask, vote);
  uint32_t out = 0;
  for (int i = 0; i < 32; ++i) out |= static_cast<uint32_t>(all[i] != 0) << i;
  return out;
}
inline int __any_sync(uint32_t mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(uint32_t mask, bool vote) { return __ballot_sync(mask, vote) == mask; }
int __syncthreads_or(int vote);
int __syncthreads_count(int vote);

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<uint32_t>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<uint64_t>(x)); }
inline uint32_t atomicOr(uint32_t* word, uint32_t bits) {
  const uint32_t before = *word;
  *word |= bits;
  return before;
}
