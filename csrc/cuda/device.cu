// Devices, and the faults noted on each.
#include <atomic>

#include "cuda/device.h"
#include "cuda/runtime.h"

namespace alignzoo::cuda {

#if defined(ALIGNZOO_EMULATE_CUDA)

namespace {
uint32_t faults = 0;
}

int device_count() { return 1; }
int runtime_version() { return 0; }
const char* describe(Status) { return "emulated"; }
Status fault_word(const Queue&, uint32_t** word) { return *word = &faults, cudaSuccess; }
Status take_faults(const Queue&, uint32_t* out) {
  *out = faults;
  faults = 0;
  return cudaSuccess;
}

#else

namespace {

__device__ uint32_t faults;

constexpr int kMostDevices = 64;

}  // namespace

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // the next call must not find this one's error
  return 0;
}

int runtime_version() {
  int version = 0;
  return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}

const char* describe(Status status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

Status fault_word(const Queue& queue, uint32_t** word) {
  static std::atomic<uint32_t*> known[kMostDevices];
  if (queue.device < 0 || queue.device >= kMostDevices) return cudaErrorInvalidDevice;
  *word = known[queue.device].load(std::memory_order_relaxed);
  if (*word != nullptr) return cudaSuccess;
  const OnDevice scope(queue.device);
  if (scope.status() != cudaSuccess) return scope.status();
  const cudaError_t status = cudaGetSymbolAddress(reinterpret_cast<void**>(word), faults);
  if (status == cudaSuccess) known[queue.device].store(*word, std::memory_order_relaxed);
  return status;
}

Status take_faults(const Queue& queue, uint32_t* out) {
  uint32_t* word = nullptr;
  Status status = fault_word(queue, &word);
  if (status != cudaSuccess) return status;
  const OnDevice scope(queue.device);
  if (scope.status() != cudaSuccess) return scope.status();
  const auto stream = static_cast<cudaStream_t>(queue.stream);
  status = cudaMemcpyAsync(out, word, sizeof *out, cudaMemcpyDeviceToHost, stream);
  if (status == cudaSuccess) status = cudaMemsetAsync(word, 0, sizeof *word, stream);
  return status == cudaSuccess ? cudaStreamSynchronize(stream) : status;
}

#endif

}  // namespace alignzoo::cuda
