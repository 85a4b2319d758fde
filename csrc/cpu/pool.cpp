#include "cpu/pool.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>

namespace alignzoo::cpu {
namespace {

struct Job {
  void (*body)(void*, int64_t);
  void* context;
  int64_t blocks;
  std::atomic<int64_t> next{0};

  void work() {
    for (int64_t block; (block = next.fetch_add(1, std::memory_order_relaxed)) < blocks;) {
      body(context, block);
    }
  }
};

// Workers sleep between jobs. One job at a time: a second caller does its blocks alone.
class Pool {
 public:
  void run(Job& job, int helpers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (size_.load() < helpers && start_worker()) {
      }
      job_ = &job;
      openings_ = helpers;
    }
    if (helpers == 1) {
      wake_.notify_one();
    } else {
      wake_.notify_all();
    }
    job.work();
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;
    openings_ = 0;
    done_.wait(lock, [this] { return busy_ == 0; });
  }

  std::mutex turn;  // held by the caller whose job is running

 private:
  // False where the system refuses: the caller then does without.
  bool start_worker() {
    try {
      std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      return false;
    }
    size_.fetch_add(1);
    return true;
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return job_ != nullptr && openings_ > 0; });
      Job* job = job_;
      --openings_;
      ++busy_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int openings_ = 0, busy_ = 0;
  std::atomic<int> size_{0};
};

// A forked child has none of its parent's threads, and locks in any state: it gets a new pool, and
// the parent's is left behind. Pools are never destroyed, because detached workers hold on to them.
// The child leaves an adopted team alone too, whose threads it does not have either.
std::atomic<Pool*> the_pool{nullptr};

// GOMP_parallel(body, argument, threads, flags) of libgomp, which libomp and libiomp have as well.
using TeamRunner = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<TeamRunner> the_team{nullptr};

void forget_threads_after_fork() {
  static std::once_flag once;
  std::call_once(once, [] {
    pthread_atfork(nullptr, nullptr, [] {
      the_pool.store(nullptr);
      the_team.store(nullptr);
    });
  });
}

Pool& pool() {
  Pool* current = the_pool.load();
  if (current == nullptr) {
    forget_threads_after_fork();
    Pool* fresh = new Pool;
    if (the_pool.compare_exchange_strong(current, fresh)) {
      current = fresh;
    } else {
      delete fresh;
    }
  }
  return *current;
}

// The OpenMP runtime that is loaded already, by whatever name; libraries loaded by Python are not
// in the global scope, so it is looked for among all of them.
int find_team(dl_phdr_info* info, size_t, void* found) {
  const char* name = info->dlpi_name;
  if (std::strstr(name, "libgomp") == nullptr && std::strstr(name, "libiomp") == nullptr &&
      std::strstr(name, "libomp") == nullptr) {
    return 0;
  }
  void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return 0;
  void* symbol = dlsym(library, "GOMP_parallel");
  std::memcpy(found, &symbol, sizeof symbol);
  dlclose(library);
  return symbol != nullptr;
}

}  // namespace

bool adopt_openmp() {
  TeamRunner found = nullptr;
  dl_iterate_phdr(find_team, &found);
  if (found != nullptr) {
    forget_threads_after_fork();
    the_team.store(found);
  }
  return found != nullptr;
}

bool has_openmp() { return the_team.load() != nullptr; }

void run_blocks(int64_t blocks, int threads, void (*body)(void*, int64_t), void* context) {
  const int helpers = static_cast<int>(std::min<int64_t>(threads, blocks)) - 1;
  if (helpers > 0) {
    Pool& shared = pool();
    std::unique_lock<std::mutex> turn(shared.turn, std::try_to_lock);
    if (turn.owns_lock()) {
      Job job{body, context, blocks};
      if (const TeamRunner team = the_team.load()) {
        // As many as ever, for a team that changes its size starts and stops threads.
        team([](void* argument) { static_cast<Job*>(argument)->work(); }, &job,
             static_cast<unsigned>(threads), 0);
      } else {
        shared.run(job, helpers);
      }
      return;
    }
  }
  for (int64_t block = 0; block < blocks; ++block) body(context, block);
}

}  // namespace alignzoo::cpu
