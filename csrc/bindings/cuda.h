// Calls whose arrays lie on a CUDA device. The kernels are in a library of their own beside the
// module, which is opened when the first such array arrives; builds without nvcc have none.
#pragma once

#include "bindings/array.h"
#include "cuda/kernels.h"

namespace alignzoo::bindings {

// The library's file; empty where this build has none. ALIGNZOO_CUDA_LIBRARY names another, such as
// the emulator that the tests run on the host.
const std::string& cuda_library();
// Its table; null where this build has none. Throws std::runtime_error if it cannot be opened.
const cuda::Kernels* cuda_kernels();
// Whether torch's tensors on the CPU take the way of a device's: true under the emulator.
bool host_is_cuda();

[[noreturn]] void raise_no_cuda(const std::string& function, const std::string& name,
                                const std::string& device);

// One call's work on the device of `like`, on the caller's stream.
class Launch {
 public:
  Launch(const Call& call, const Array& like);

  // Memory to work in, from the caller's library; null for 0 bytes. Kept while this lives.
  void* workspace(int64_t bytes);
  // Raises RuntimeError where a launch failed.
  void check(cuda::Status status) const;

  const cuda::Kernels& kernels;
  const cuda::Queue queue;

 private:
  const Call& call_;
  const Array& like_;
  std::vector<Output> workspaces_;
};

// (bits of cuda::Fault) noted on the device since the last call; waits for its work.
uint32_t take_faults(int device);

// bindings/torch.cpp
void* torch_stream(int device);  // the current one

}  // namespace alignzoo::bindings
