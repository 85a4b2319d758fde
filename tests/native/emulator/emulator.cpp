#include "emulator.h"

#include <cstdio>
#include <memory>
#include <mutex>
#include <numeric>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

Dimensions threadIdx, blockIdx, blockDim, gridDim;

namespace alignzoo::emulator {
namespace {

constexpr size_t kStack = size_t{128} << 10;
constexpr int kWarp = 32;

// Machine contexts: where a fiber stands when it does not run.
#if defined(__x86_64__)
struct Context {
  void* stack = nullptr;
};
// Saves the registers that a call keeps, and goes on where `to` was saved.
extern "C" void alignzoo_emulator_switch(void** from, void* to);
asm(R"(
.text
.type alignzoo_emulator_switch, @function
.hidden alignzoo_emulator_switch
.globl alignzoo_emulator_switch
alignzoo_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size alignzoo_emulator_switch, .-alignzoo_emulator_switch
)");
void prepare(Context& context, char* stack, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(stack + kStack);
  *--top = nullptr;  // the entry's return address: it never returns
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context.stack = top;
}
void change(Context& from, Context& to) { alignzoo_emulator_switch(&from.stack, to.stack); }
#else
struct Context {
  ucontext_t state;
};
void prepare(Context& context, char* stack, void (*entry)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = stack;
  context.state.uc_stack.ss_size = kStack;
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
}
void change(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
#endif

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  State state = State::kDone;
  void* fake_stack = nullptr;  // AddressSanitizer's
};
struct Warp {
  uint64_t given[kWarp];
  int waiting = 0;
};

// One launch at a time.
std::mutex running;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<int> turns;
Fiber scheduler;
Fiber* current = nullptr;
const std::function<void()>* body = nullptr;
int num_threads = 0, at_block_barrier = 0, done = 0, votes = 0, votes_seen = 0;
std::unique_ptr<char[]> shared;
size_t shared_size = 0;
Order order = Order::kForwards;
uint64_t shuffle_state = 1;

#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
size_t scheduler_stack_size = 0;
void leave(Fiber& from, const void* stack, size_t size, bool for_good) {
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, stack, size);
}
void arrive(Fiber& to, bool from_scheduler) {
  const void* stack;
  size_t size;
  __sanitizer_finish_switch_fiber(to.fake_stack, &stack, &size);
  if (from_scheduler) scheduler_stack = stack, scheduler_stack_size = size;
}
#endif

// From the running fiber to the scheduler, and back when its turn has come.
void yield() {
  Fiber& mine = *current;
#if defined(__SANITIZE_ADDRESS__)
  leave(mine, scheduler_stack, scheduler_stack_size, mine.state == State::kDone);
#endif
  change(mine.context, scheduler.context);
#if defined(__SANITIZE_ADDRESS__)
  arrive(mine, true);
#endif
}

void thread_entry() {
#if defined(__SANITIZE_ADDRESS__)
  arrive(*current, true);
#endif
  (*body)();
  current->state = State::kDone;
  ++done;
  yield();
  std::abort();  // a finished fiber has no turn
}

void resume(int thread) {
  current = &fibers[static_cast<size_t>(thread)];
  threadIdx = {static_cast<unsigned>(thread), 0, 0};
#if defined(__SANITIZE_ADDRESS__)
  leave(scheduler, current->stack.get(), kStack, false);
#endif
  change(scheduler.context, current->context);
#if defined(__SANITIZE_ADDRESS__)
  arrive(scheduler, false);
#endif
}

uint64_t random_bits() {
  shuffle_state ^= shuffle_state << 13;
  shuffle_state ^= shuffle_state >> 7;
  shuffle_state ^= shuffle_state << 17;
  return shuffle_state;
}

void put_in_order(std::vector<int>& numbers) {
  std::iota(numbers.begin(), numbers.end(), 0);
  const size_t n = numbers.size();
  if (order == Order::kBackwards) {
    for (size_t i = 0; i < n; ++i) numbers[i] = static_cast<int>(n - 1 - i);
  } else if (order == Order::kShuffled) {
    for (size_t i = n; i > 1; --i) std::swap(numbers[i - 1], numbers[random_bits() % i]);
  }
}

void open_block_barrier() {
  at_block_barrier = 0;
  votes_seen = votes;
  votes = 0;
  for (Fiber& fiber : fibers) {
    if (fiber.state == State::kAtBlockBarrier) fiber.state = State::kReady;
  }
}

void run_block() {
  at_block_barrier = done = votes = 0;
  shared.reset();
  shared_size = 0;
  for (Warp& warp : warps) warp.waiting = 0;
  for (Fiber& fiber : fibers) {
    if (!fiber.stack) fiber.stack.reset(new char[kStack]);
    prepare(fiber.context, fiber.stack.get(), thread_entry);
    fiber.state = State::kReady;
    fiber.fake_stack = nullptr;
  }
  while (done < num_threads) {
    put_in_order(turns);
    bool moved = false;
    for (int thread : turns) {
      if (fibers[static_cast<size_t>(thread)].state != State::kReady) continue;
      moved = true;
      resume(thread);
    }
    // Threads that have ended count as arrived, as on a device.
    if (at_block_barrier > 0 && at_block_barrier + done == num_threads) {
      open_block_barrier();
      moved = true;
    }
    if (!moved) fail("threads wait for others that never arrive");
  }
}

}  // namespace

void fail(const char* why) {
  std::fprintf(stderr, "emulated CUDA, block %u of %u, thread %u of %u: %s\n", blockIdx.x,
               gridDim.x, threadIdx.x, blockDim.x, why);
  std::abort();
}

void set_order(Order wanted) { order = wanted; }

void run(int64_t blocks, int threads, const std::function<void()>& thread) {
  const std::lock_guard<std::mutex> lock(running);
  if (threads < kWarp || threads > 1024 || threads % kWarp != 0) {
    fail("a block has from 32 to 1024 threads, in whole warps");
  }
  num_threads = threads;
  body = &thread;
  fibers.resize(static_cast<size_t>(threads));
  warps.resize(static_cast<size_t>(threads / kWarp));
  turns.resize(static_cast<size_t>(threads));
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  std::vector<int> block_order(static_cast<size_t>(blocks));
  put_in_order(block_order);
  for (int block : block_order) {
    blockIdx = {static_cast<unsigned>(block), 0, 0};
    run_block();
  }
}

void* shared_memory(size_t size) {
  if (!shared) {
    if (size > (size_t{48} << 10)) fail("more than 48 KiB of shared memory");
    shared.reset(new char[size]);
    std::memset(shared.get(), 0xCD, size);
    shared_size = size;
  }
  if (size != shared_size) fail("shared memory is declared twice");
  return shared.get();
}

const uint64_t* exchange(uint32_t mask, uint64_t mine) {
  if (mask != 0xffffffffu) fail("a warp operation of some lanes only");
  Warp& warp = warps[threadIdx.x / kWarp];
  warp.given[lane()] = mine;
  __syncwarp();
  // A copy, since a lane that runs on may give its next number before others have read this one.
  static uint64_t seen[kWarp];
  uint64_t own[kWarp];
  std::memcpy(own, warp.given, sizeof own);
  __syncwarp();
  std::memcpy(seen, own, sizeof seen);
  return seen;
}

}  // namespace alignzoo::emulator

using alignzoo::emulator::State;

void __syncwarp(uint32_t mask) {
  using namespace alignzoo::emulator;
  if (mask != 0xffffffffu) fail("a warp barrier of some lanes only");
  const size_t first = threadIdx.x / kWarp * kWarp;
  Warp& warp = warps[threadIdx.x / kWarp];
  if (++warp.waiting == kWarp) {
    warp.waiting = 0;
    for (size_t i = first; i < first + kWarp; ++i) fibers[i].state = State::kReady;
    return;
  }
  current->state = State::kAtWarpBarrier;
  yield();
}

void __syncthreads() {
  using namespace alignzoo::emulator;
  current->state = State::kAtBlockBarrier;
  ++at_block_barrier;
  yield();
}

int __syncthreads_count(int vote) {
  alignzoo::emulator::votes += vote != 0;
  __syncthreads();
  return alignzoo::emulator::votes_seen;
}
int __syncthreads_or(int vote) { return __syncthreads_count(vote) != 0; }
