// The runner of blocks, callers on several threads at once, and forks between and during them.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "cpu/pool.h"
#include "harness.h"

namespace alignzoo::native {
namespace {

// Every block runs exactly once, and all have run when the call returns.
void every_block_runs_once() {
  for (const int64_t blocks : {0, 1, 2, 3, 7, 100, 1000}) {
    for (const int threads : {1, 2, 3, 8}) {
      now_running("run_blocks", "any",
                  std::to_string(blocks) + " blocks, threads " + std::to_string(threads));
      std::vector<int> runs(static_cast<size_t>(blocks));
      auto body = [&](int64_t block) { ++runs[static_cast<size_t>(block)]; };
      for (int repeat = 1; repeat <= 20; ++repeat) {
        cpu::parallel_for(blocks, threads, body);
        for (int64_t block = 0; block < blocks; ++block) {
          if (runs[static_cast<size_t>(block)] != repeat) {
            fail("block " + std::to_string(block) + " did not run once");
          }
        }
      }
    }
  }
}

// Several blocks' worth of work for every instruction set, and what comes out of it.
class Work {
 public:
  Work() {
    Random random(17);
    rewards_ = random.numbers<float>(kRows * kWidth, 1);
    values_ = random.numbers<float>(kRows * kWidth, 1);
    logits_ = random.numbers<float>(kRows * kWidth, 5);
    for (int64_t i = 0; i < kRows; ++i) targets_.push_back(random.below(kWidth));
  }

  std::vector<float> run(const cpu::Kernels& kernels, int threads) const {
    std::vector<float> out(static_cast<size_t>(3 * kRows * kWidth + kRows));
    ScanArgs<float> gae{};
    gae.rows = {kRows, kWidth, nullptr};
    gae.rewards = rewards_.data();
    gae.values = values_.data();
    gae.gamma = 0.99f;
    gae.lambda = 0.95f;
    gae.advantages = out.data();
    gae.returns = out.data() + kRows * kWidth;
    kernels.f32.gae(gae, threads);
    ValueLossArgs<float> loss{};
    loss.rows = gae.rows;
    loss.values = values_.data();
    loss.returns = gae.returns;
    loss.gradient_scale = 1;
    loss.gradient = out.data() + 2 * kRows * kWidth;
    const double total = kernels.f32.value_loss(loss, threads).loss;
    TokenLogProbsArgs<float, float> log_probs{};
    log_probs.rows.count = log_probs.rows.inner = kRows;
    log_probs.rows.vocabulary = log_probs.rows.inner_stride = kWidth;
    log_probs.logits = logits_.data();
    log_probs.targets = targets_.data();
    log_probs.inverse_temperature = 1;
    log_probs.log_probs = out.data() + 3 * kRows * kWidth;
    kernels.logits_f32.token_log_probs(log_probs, threads);
    out.push_back(static_cast<float>(total));
    return out;
  }

 private:
  static constexpr int64_t kRows = 80, kWidth = 1100;
  std::vector<float> rewards_, values_, logits_;
  std::vector<int64_t> targets_;
};

bool equal(const std::vector<float>& a, const std::vector<float>& b) {
  return memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Callers at once, each asking for threads of its own.
void callers_at_once(const Work& work, int repeats) {
  for (const cpu::Kernels* kernels : instruction_sets()) {
    now_running("several callers", kernels->isa, "4 callers, threads 1 to 4");
    const std::vector<float> expected = work.run(*kernels, 1);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
      callers.emplace_back([&, caller] {
        for (int i = 0; i < repeats; ++i) {
          if (!equal(expected, work.run(*kernels, 1 + (caller + i) % 4))) ++wrong;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    if (wrong) fail("callers at once changed " + std::to_string(wrong.load()) + " results");
  }
}

void expect_good_child(const Work& work, const std::vector<float>& expected, int depth) {
  const pid_t child = fork();
  if (child < 0) fail("fork failed");
  if (child == 0) {
    alarm(60);
    const cpu::Kernels& kernels = *instruction_sets().back();
    for (int i = 0; i < 3; ++i) {
      if (!equal(expected, work.run(kernels, 4))) _exit(3);
    }
    if (depth > 1) expect_good_child(work, expected, depth - 1);
    _exit(0);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) fail("waitpid failed");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    fail(WIFEXITED(status) && WEXITSTATUS(status) == 3
             ? "a forked child got other results"
             : "a forked child ended with status " + std::to_string(status));
  }
}

// Children of a process whose workers are idle, and of one whose workers are busy.
void forks(const Work& work) {
  const cpu::Kernels& kernels = *instruction_sets().back();
  const std::vector<float> expected = work.run(kernels, 4);
  now_running("fork", kernels.isa, "idle workers");
  expect_good_child(work, expected, 2);
  now_running("fork", kernels.isa, "busy workers");
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) work.run(kernels, 4);
  });
  for (int i = 0; i < 20; ++i) expect_good_child(work, expected, 1);
  stop = true;
  busy.join();
  if (!equal(expected, work.run(kernels, 4))) fail("forking changed the parent's results");
}

}  // namespace

void concurrency_cases() {
  every_block_runs_once();
  const Work work;
  callers_at_once(work, quick ? 10 : 40);
  if (may_fork) forks(work);
#if !defined(ALIGNZOO_TSAN)  // it sees nothing of how an OpenMP runtime keeps its threads in step
  if (dlopen("libgomp.so.1", RTLD_NOW) == nullptr) return;
  now_running("adopt_openmp", "any", "libgomp");
  if (!cpu::adopt_openmp()) fail("did not find the OpenMP runtime that is loaded");
  every_block_runs_once();
  callers_at_once(work, quick ? 10 : 40);
  if (may_fork) forks(work);
#endif
}

}  // namespace alignzoo::native
