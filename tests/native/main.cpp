// Calls every kernel of every instruction set this processor has; with --emulated those of
// csrc/cuda instead, on the emulator of a device. Exits with 0 if all is well, and otherwise says
// on one line which kernel failed, with what instruction set and on what shape.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "harness.h"

namespace alignzoo::native {
const char* what_is_running();
}

extern "C" {
__attribute__((weak)) void __sanitizer_set_death_callback(void (*)());
const char* __asan_default_options() { return "detect_stack_use_after_return=1"; }
const char* __tsan_default_options() { return "halt_on_error=1"; }
const char* __ubsan_default_options() { return "print_stacktrace=1"; }
}

namespace {

void say_what_ran() {
  const char* text = alignzoo::native::what_is_running();
  (void)!write(STDERR_FILENO, "FAILED ", 7);
  (void)!write(STDERR_FILENO, text, strlen(text));
  (void)!write(STDERR_FILENO, "\n", 1);
}

void on_signal(int number) {
  say_what_ran();
  signal(number, SIG_DFL);
  raise(number);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace alignzoo::native;
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (strcmp(argv[i], "--no-fork") == 0) {
      may_fork = false;  // for emulators of user programs, which few survive
    } else if (strcmp(argv[i], "--emulated") == 0) {
      emulated = true;
    } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else {
      fprintf(stderr, "usage: %s [--emulated] [--quick] [--no-fork] [--only PREFIX]\n", argv[0]);
      return 2;
    }
  }
  if (__sanitizer_set_death_callback) {
    __sanitizer_set_death_callback(say_what_ran);
  } else {
    for (int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) signal(number, on_signal);
  }
  signal(SIGALRM, on_signal);
  token_cases();
  loss_cases();
  logit_cases();
  if (emulated) {
    device_cases();
    token_fault_cases();
    row_fault_cases();
    plan_cases();
    emulator_cases();
  } else if (only.empty()) {
    concurrency_cases();
  }
  printf("%lld calls, instruction sets:", static_cast<long long>(num_checks()));
  for (const auto* kernels : instruction_sets()) printf(" %s", kernels->isa);
  printf("\n");
  return 0;
}
