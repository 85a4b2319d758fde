#include "bindings/cuda.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

namespace alignzoo::bindings {
namespace {

std::string find_library() {
  const char* given = std::getenv("ALIGNZOO_CUDA_LIBRARY");
  if (given != nullptr && *given != '\0') return given;
  Dl_info here;
  if (dladdr(reinterpret_cast<const void*>(&find_library), &here) == 0) return "";
  const std::string module = here.dli_fname;
  const std::string file = module.substr(0, module.rfind('/') + 1) + "libalignzoo_cuda.so";
  return access(file.c_str(), R_OK) == 0 ? file : "";
}

const cuda::Kernels* open_library() {
  const std::string& file = cuda_library();
  if (file.empty()) return nullptr;
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw std::runtime_error("alignzoo: its CUDA kernels cannot be loaded: " +
                             std::string(dlerror()));
  }
  using Entry = const cuda::Kernels* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, "alignzoo_cuda_kernels"));
  const cuda::Kernels* table = entry == nullptr ? nullptr : entry();
  if (table == nullptr || table->revision != cuda::kTableRevision) {
    throw std::runtime_error("alignzoo: " + file +
                             " was built with another version of alignzoo; install it again");
  }
  return table;
}

const cuda::Kernels& required_kernels(const Call& call, const Array& like) {
  const cuda::Kernels* table = cuda_kernels();
  if (table == nullptr) {
    raise_no_cuda(call.function(), like.name, "cuda:" + std::to_string(like.device.index));
  }
  return *table;
}

}  // namespace

const std::string& cuda_library() {
  static const std::string file = find_library();
  return file;
}

const cuda::Kernels* cuda_kernels() {
  static const cuda::Kernels* table = open_library();
  return table;
}

bool host_is_cuda() {
  static const bool emulated = [] {
    const char* given = std::getenv("ALIGNZOO_CUDA_LIBRARY");
    return given != nullptr && *given != '\0' && cuda_kernels()->host_memory;
  }();
  return emulated;
}

void raise_no_cuda(const std::string& function, const std::string& name,
                   const std::string& device) {
  throw std::runtime_error(
      function + ": `" + name + "` lies on " + device +
      ", and this build of alignzoo has no CUDA kernels; rebuild it where nvcc is on the PATH, by "
      "`ALIGNZOO_CUDA=ON pip install .` in its source folder, or move the tensor to the CPU with "
      ".cpu()");
}

Launch::Launch(const Call& call, const Array& like)
    : kernels(required_kernels(call, like)),
      queue{like.device.index, host_is_cuda() ? nullptr : torch_stream(like.device.index)},
      call_(call),
      like_(like) {}

void* Launch::workspace(int64_t bytes) {
  if (bytes <= 0) return nullptr;
  workspaces_.push_back(make_output(like_, DType::kUint8, {bytes}));
  return workspaces_.back().data;
}

void Launch::check(cuda::Status status) const {
  if (status == 0) return;
  throw std::runtime_error(call_.function() + ": CUDA reports `" + kernels.describe(status) +
                           "` on cuda:" + std::to_string(queue.device) +
                           "; these kernels were compiled for the architectures " +
                           kernels.architectures);
}

uint32_t take_faults(int device) {
  const cuda::Kernels* table = cuda_kernels();
  if (table == nullptr || table->device_count() == 0) return 0;  // nothing of ours ever ran
  uint32_t faults = 0;
  const cuda::Status status =
      table->take_faults({device, host_is_cuda() ? nullptr : torch_stream(device)}, &faults);
  if (status != 0) {
    throw std::runtime_error("check_faults: CUDA reports `" + std::string(table->describe(status)) +
                             "` on cuda:" + std::to_string(device));
  }
  return faults;
}

}  // namespace alignzoo::bindings
