#include <cuda_runtime_api.h>

#include "cuda/device.h"

namespace alignzoo::cuda {

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

}  // namespace alignzoo::cuda
