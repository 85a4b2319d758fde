// Threads. Work is cut into blocks that depend on the data alone; the caller and the workers claim
// them from one counter, so a late worker costs a block and changes no bit.
#pragma once

#include <cstdint>

namespace alignzoo::cpu {

// Calls body(context, block) for every block in [0, blocks), on at most `threads` threads, the
// caller included. Returns when all have run. body must not throw. Safe after fork.
void run_blocks(int64_t blocks, int threads, void (*body)(void*, int64_t), void* context);

template <class Body>
inline __attribute__((always_inline)) void parallel_for(int64_t blocks, int threads, Body& body) {
  run_blocks(
      blocks, threads, [](void* context, int64_t block) { (*static_cast<Body*>(context))(block); },
      &body);
}

// From now on blocks are run by the OpenMP runtime that this process has loaded, torch's in
// general: its threads are awake after a torch operation, and there is no second set to contend
// with. False if there is none. A forked child runs its own again.
bool adopt_openmp();
bool has_openmp();

}  // namespace alignzoo::cpu
