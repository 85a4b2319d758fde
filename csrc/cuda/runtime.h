// What every kernel needs: CUDA's language, or the emulator of tests/native/emulator which runs the
// same source on the host; launches; whole 16-byte loads and stores.
#pragma once

#include <cstdint>

#include "cuda/kernels.h"
#if defined(ALIGNZOO_EMULATE_CUDA)
#include "emulator.h"
#else
#include <cuda_runtime.h>
// The memory that the threads of a block share. One such declaration a kernel: a plain struct.
#define ALIGNZOO_SHARED(Type, name) __shared__ Type name
#endif

#define ALIGNZOO_DEVICE __device__ __forceinline__

namespace alignzoo::cuda {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

ALIGNZOO_PLAIN int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
ALIGNZOO_PLAIN int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
ALIGNZOO_PLAIN int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// This queue's device while it lives, then the one before.
class OnDevice {
 public:
  explicit OnDevice(int device) : wanted_(device) {
    status_ = cudaGetDevice(&before_);
    if (status_ == cudaSuccess && before_ != wanted_) status_ = cudaSetDevice(wanted_);
  }
  ~OnDevice() {
    if (status_ == cudaSuccess && before_ != wanted_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  cudaError_t status() const { return status_; }

 private:
  int before_ = 0, wanted_;
  cudaError_t status_ = cudaSuccess;
};

// Puts kernel(arguments...) on the queue: `blocks` blocks of `threads` threads; none is no work.
template <class... Parameters, class... Arguments>
Status launch(const Queue& queue, void (*kernel)(Parameters...), int64_t blocks, int threads,
              const Arguments&... arguments) {
  if (blocks <= 0) return cudaSuccess;
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
#if defined(ALIGNZOO_EMULATE_CUDA)
  (void)queue;
  emulator::run(blocks, threads, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
#else
  const OnDevice scope(queue.device);
  if (scope.status() != cudaSuccess) return scope.status();
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(queue.stream);
  return cudaLaunchKernelEx(&config, kernel, arguments...);
#endif
}

// The word of the queue's device in which kernels note faults (cuda/kernels.h), at a fixed address.
Status fault_word(const Queue& queue, uint32_t** word);
ALIGNZOO_DEVICE void note_fault(uint32_t* word, Fault fault) { atomicOr(word, fault); }

// N elements that lie together, and are read and written as one where their address allows.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <class T>
constexpr int kPerLoad = 16 / static_cast<int>(sizeof(T));  // elements of a 16-byte load

ALIGNZOO_PLAIN bool fits_pack(const void* address, int bytes = 16) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0;
}
template <int N, class T>
ALIGNZOO_DEVICE Pack<T, N> load_pack(const T* from) {
#if defined(ALIGNZOO_EMULATE_CUDA)
  if (!fits_pack(from, sizeof(Pack<T, N>))) emulator::fail("a load from an address it cannot take");
#endif
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, class T>
ALIGNZOO_DEVICE void store_pack(T* to, const Pack<T, N>& pack) {
#if defined(ALIGNZOO_EMULATE_CUDA)
  if (!fits_pack(to, sizeof(Pack<T, N>))) emulator::fail("a store to an address it cannot take");
#endif
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

}  // namespace alignzoo::cuda
