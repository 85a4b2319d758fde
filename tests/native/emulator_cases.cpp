// Whether the emulator would notice: kernels with faults planted in them.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "cuda/reduce.h"
#include "cuda/runtime.h"
#include "emulated.h"

namespace alignzoo::native {
namespace {

using cuda::kAllLanes;
constexpr int kThreads = 64;

struct Room {
  int of_thread[kThreads];
  cuda::ReduceRoom<float, kThreads> reduce;
};

// Each thread takes what its neighbour in the next warp gave; without the barrier what it finds
// depends on who came first.
template <bool kBarrier>
__global__ void neighbour_kernel(int* out) {
  ALIGNZOO_SHARED(Room, room);
  const int me = static_cast<int>(threadIdx.x);
  room.of_thread[me] = me + 1;
  if (kBarrier) __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = room.of_thread[(me + 33) % kThreads];
}

// The same within a warp, and across blocks, which may come in any order.
template <bool kBarrier>
__global__ void lane_kernel(int* out) {
  ALIGNZOO_SHARED(Room, room);
  const int me = static_cast<int>(threadIdx.x), warp = me / 32 * 32;
  room.of_thread[me] = me + 1;
  if (kBarrier) __syncwarp();
  out[blockIdx.x * kThreads + threadIdx.x] = room.of_thread[warp + (me + 1) % 32];
}
__global__ void last_block_kernel(int* out) { *out = static_cast<int>(blockIdx.x); }

__global__ void sum_kernel(const float* x, float* out) {
  ALIGNZOO_SHARED(Room, room);
  const float sum = cuda::block_reduce<kThreads>(x[threadIdx.x], cuda::Add(), room.reduce);
  out[threadIdx.x] = sum;
}

__global__ void half_a_warp_at_the_barrier_kernel() {
  if (threadIdx.x % 32 < 16) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}
__global__ void half_a_warp_ended_kernel() {
  if (threadIdx.x % 32 >= 16) __syncwarp();
}
__global__ void some_lanes_kernel() { __shfl_sync(0xffffu, 1, 0); }
__global__ void load_kernel(const float* from, int offset) {
  (void)cuda::load_pack<4>(from + offset);
}
__global__ void store_kernel(float* to, int64_t at) { to[at] = 1; }
#if defined(ALIGNZOO_ASAN)
__global__ void shared_store_kernel(int at) {
  ALIGNZOO_SHARED(Room, room);
  reinterpret_cast<int*>(&room)[at] = 1;
}
#endif
struct Huge {
  char bytes[(48 << 10) + 1];
};
__global__ void huge_kernel() {
  ALIGNZOO_SHARED(Huge, huge);
  huge.bytes[0] = 0;
}
__global__ void nothing_kernel() {}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), int64_t blocks, int threads, Arguments... arguments) {
  expect_success(cuda::launch(kQueue, kernel, blocks, threads, arguments...));
}

// Whether all three turns give one result.
bool turns_agree(void (*kernel)(int*), int64_t blocks) {
  std::vector<int> first;
  for (int turn = 0; turn < 3; ++turn) {
    take_turns(turn);
    std::vector<int> out(static_cast<size_t>(blocks * kThreads), -1);
    run(kernel, blocks, kThreads, out.data());
    if (turn == 0) first = out;
    if (out != first) return false;
  }
  return true;
}

// Runs `body` in a child, which must end, and say `words` where it is the emulator that ends it.
template <class Body>
void expect_end(const char* what, const char* words, const Body& body) {
  now_running("emulator", "emulated CUDA", what);
  int ends[2];
  if (pipe(ends) != 0) fail("no pipe");
  const pid_t child = fork();
  if (child < 0) fail("fork failed");
  if (child == 0) {
    alarm(60);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    body();
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char text[512];
  for (ssize_t n; (n = read(ends[0], text, sizeof text)) > 0;) said.append(text, text + n);
  close(ends[0]);
  int status = 0;
  if (waitpid(child, &status, 0) != child) fail("waitpid failed");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) fail("was not noticed");
  if (said.find(words) == std::string::npos) fail("ended with: " + said);
}

void planted_faults() {
  expect_end("half a warp waits at a block's barrier", "wait for others",
             [] { run(half_a_warp_at_the_barrier_kernel, 1, kThreads); });
  expect_end("half a warp has ended", "wait for others",
             [] { run(half_a_warp_ended_kernel, 1, kThreads); });
  expect_end("a shuffle of some lanes", "some lanes only",
             [] { run(some_lanes_kernel, 1, kThreads); });
  expect_end("a block that is not whole warps", "whole warps", [] { run(nothing_kernel, 1, 33); });
  expect_end("too much shared memory", "48 KiB", [] { run(huge_kernel, 1, kThreads); });
  for (const int offset : {1, 2, 3}) {
    expect_end("a wide load from an address of one element", "cannot take", [&] {
      alignas(16) static const float x[8] = {};
      run(load_kernel, 1, kThreads, x, offset);
    });
  }
  for (const int64_t at : {-1, 40}) {
    expect_end("a store beside a buffer", "", [&] {
      Memory memory({&emulated_kernels(), 1, Place::kHeap, 0, 0, false, 0});
      run(store_kernel, 1, kThreads, memory.output<float>("out", 40, Agreement::kBits), at);
      memory.finish();
    });
    expect_end("a store beside the workspace", "", [&] {
      Memory memory({&emulated_kernels(), 1, Place::kHeap, 0, 0, false, 0});
      run(store_kernel, 1, kThreads, static_cast<float*>(memory.workspace(160)), at);
      memory.finish();
    });
  }
#if defined(ALIGNZOO_ASAN)
  expect_end("a store beside the shared memory", "heap-buffer-overflow",
             [] { run(shared_store_kernel, 1, kThreads, static_cast<int>(sizeof(Room) / 4)); });
#endif
}

}  // namespace

void emulator_cases() {
  now_running("emulator", "emulated CUDA", "barriers and turns");
  if (!turns_agree(neighbour_kernel<true>, 3)) fail("turns disagree in spite of a barrier");
  if (turns_agree(neighbour_kernel<false>, 3)) fail("a missing barrier was not noticed");
  if (!turns_agree(lane_kernel<true>, 3)) fail("turns disagree in spite of a warp's barrier");
  if (turns_agree(lane_kernel<false>, 3)) fail("a missing barrier of a warp was not noticed");
  if (turns_agree(last_block_kernel, 7)) fail("blocks that race were not noticed");
  std::vector<float> x(kThreads), sums(kThreads);
  for (int i = 0; i < kThreads; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i);
  run(sum_kernel, 1, kThreads, x.data(), sums.data());
  for (const float sum : sums) {
    if (sum != kThreads * (kThreads - 1) / 2) fail("a block's sum is " + std::to_string(sum));
  }
  if (may_fork) planted_faults();
}

}  // namespace alignzoo::native
