// Counter-based random numbers: Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as
// easy as 1, 2, 3". The same (key, counter) gives the same number on every device.
#pragma once

#include <cstdint>

#include "math/config.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// Uniform in [0, 1) with 53 bits, from key = seed and counter = (row, offset), low words first.
ALIGNZOO_HD double philox_uniform(uint64_t seed, uint64_t row, uint64_t offset) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(row), c1 = static_cast<uint32_t>(row >> 32);
  uint32_t c2 = static_cast<uint32_t>(offset), c3 = static_cast<uint32_t>(offset >> 32);
  for (int round = 0; round < 10; ++round) {
    uint64_t product0 = uint64_t{0xD2511F53u} * c0, product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  uint64_t bits = (static_cast<uint64_t>(c0) << 32) | c1;
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
