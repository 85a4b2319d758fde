// The kernels of csrc/cuda, run by the emulator, as one more table for the cases that drive the
// CPU's. Each call gets a workspace of its own, exactly as large as the plan says, fails on a
// status or a fault that its table has no word for, and gives some of its rows again, alone and
// padded: their bits may not change.
#pragma once

#include "cuda/launches.h"
#include "harness.h"

namespace alignzoo::native {

const cpu::Kernels& emulated_kernels();

// Turn 0, 1 or 2: threads and blocks from the first on, from the last on, or shuffled.
void take_turns(int turn);

inline constexpr cuda::Queue kQueue{0, nullptr};

// The faults noted since it was last asked.
uint32_t take_faults();
void expect_faults(uint32_t expected);
void expect_success(cuda::Status status);
// Where packed, `width` is the number of all tokens on a device.
Rows device_rows(const Rows& rows);

template <class T>
void expect_nan(const char* name, int64_t begin, int64_t end, const T* values) {
  for (int64_t i = begin; values != nullptr && i < end; ++i) {
    if (values[i] == values[i]) fail(std::string(name) + " is no NaN, at " + std::to_string(i));
  }
}
template <class T>
void expect_equal(const char* name, int64_t begin, int64_t end, const T* values, const T* clean) {
  for (int64_t i = begin; values != nullptr && i < end; ++i) {
    if (!same_bits(values[i], clean[i])) {
      fail(std::string(name) + " changed beside a fault, at " + std::to_string(i));
    }
  }
}

}  // namespace alignzoo::native
