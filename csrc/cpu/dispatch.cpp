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

namespace {

const Kernels* find(const std::string& isa) {
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

const Kernels& choose() {
  const char* wanted = std::getenv("ALIGNZOO_ISA");
  if (wanted != nullptr && *wanted != '\0') {
    if (const Kernels* found = find(wanted)) return *found;
    throw std::runtime_error(std::string("ALIGNZOO_ISA is '") + wanted +
                             "', which this build or this processor lacks; it can be " +
                             compiled_isas() + ", or unset for the widest");
  }
  for (const char* isa : {"avx512", "avx2"}) {
    if (const Kernels* found = find(isa)) return *found;
  }
  return generic::kTable;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const char* compiled_isas() {
#if defined(ALIGNZOO_X86)
  return "generic, avx2 or avx512";
#else
  return "generic";
#endif
}

}  // namespace alignzoo::cpu
