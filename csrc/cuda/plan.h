// How large the launches are, and the memory they work in. Plain arithmetic, for the bindings,
// which ask the caller's library for that memory, and for tests at sizes that no test could run.
#pragma once

#include <cstdint>

#include "arguments.h"

namespace alignzoo::cuda {

// Blocks of a grid beyond which its threads take several turns.
constexpr int64_t kMostBlocks = 1 << 20;

inline int64_t blocks_for(int64_t work, int64_t per_block) {
  const int64_t blocks = (work + per_block - 1) / per_block;
  return blocks < kMostBlocks ? blocks : kMostBlocks;
}

// Elementwise functions: each thread takes a 16-byte load of each array, kElementLoads times.
constexpr int kElementThreads = 256, kElementLoads = 2;

}  // namespace alignzoo::cuda
