// Picks the widest instruction set that this build and this processor both have.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace alignzoo::cpu {

namespace generic {
extern const Kernels kTable;
}
#if defined(ALIGNZOO_X86)
namespace avx2 {
extern const Kernels kTable;
}
namespace avx512 {
extern const Kernels kTable;
}
#endif

const Kernels* kernels_for(const char* name) {
  const std::string isa = name;
  if (isa == "generic") return &generic::kTable;
#if defined(ALIGNZOO_X86)
  __builtin_cpu_init();
  const bool avx2_here = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512_here = avx2_here && __builtin_cpu_supports("avx512f") &&
                           __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == "avx2" && avx2_here) return &avx2::kTable;
  if (isa == "avx512" && avx512_here) return &avx512::kTable;
#endif
  return nullptr;
}

namespace {

[[noreturn]] void refuse(const char* name, const char* value, const std::string& known) {
  throw std::runtime_error(std::string(name) + " is '" + value + "'; it can be " + known +
                           ", or unset");
}

int read_num_threads() {
  const char* text = std::getenv("ALIGNZOO_NUM_THREADS");
  if (text == nullptr || *text == '\0') return 0;
  char* end = nullptr;
  const long number = std::strtol(text, &end, 10);
  if (*end != '\0' || number < 1 || number > 4096) {
    refuse("ALIGNZOO_NUM_THREADS", text, "a number of threads from 1 to 4096");
  }
  return static_cast<int>(number);
}

PoolSetting read_pool() {
  const char* text = std::getenv("ALIGNZOO_POOL");
  const std::string pool = text == nullptr || *text == '\0' ? "auto" : text;
  if (pool == "auto") return PoolSetting::kAuto;
  if (pool == "own") return PoolSetting::kOwn;
  if (pool == "torch") return PoolSetting::kTorch;
  refuse("ALIGNZOO_POOL", text, "auto, own or torch");
}

const Kernels& choose() {
  num_threads_setting();
  pool_setting();
  const char* wanted = std::getenv("ALIGNZOO_ISA");
  if (wanted != nullptr && *wanted != '\0') {
    if (const Kernels* found = kernels_for(wanted)) return *found;
    refuse("ALIGNZOO_ISA", wanted, std::string(compiled_isas()) + " as far as this processor goes");
  }
  for (const char* isa : {"avx512", "avx2"}) {
    if (const Kernels* found = kernels_for(isa)) return *found;
  }
  return generic::kTable;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

int num_threads_setting() {
  static const int setting = read_num_threads();
  return setting;
}

PoolSetting pool_setting() {
  static const PoolSetting setting = read_pool();
  return setting;
}

const char* compiled_isas() {
#if defined(ALIGNZOO_X86)
  return "generic, avx2 or avx512";
#else
  return "generic";
#endif
}

}  // namespace alignzoo::cpu
