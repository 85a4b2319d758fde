// The check of packed rows' offsets: they run from 0 to the number of all tokens and never fall.
// It is a launch of its own before the one that uses them, which asks offsets_are_bad.
#pragma once

#include <limits>

#include "cuda/runtime.h"
#include "cuda/scan_plan.h"

namespace alignzoo::cuda {

// Each block leaves a word in `checks`: whether it found a bad offset.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    check_offsets_kernel(Rows rows, uint32_t* checks, uint32_t* faults) {
  bool bad = false;
  for (int64_t b = blockIdx.x * int64_t{kThreads} + threadIdx.x; b <= rows.count;
       b += gridDim.x * int64_t{kThreads}) {
    const int64_t offset = rows.offsets[b];
    if (b == 0 && offset != 0) bad = true;
    if (b == rows.count && offset != rows.width) bad = true;
    if (b < rows.count && rows.offsets[b + 1] < offset) bad = true;
  }
  const bool any = __syncthreads_or(bad) != 0;
  if (threadIdx.x == 0) {
    checks[blockIdx.x] = any ? 1 : 0;
    if (any) note_fault(faults, kBadOffsets);
  }
}

// Puts the check on the queue; nothing for rows that are not packed.
inline Status check_offsets(const Queue& queue, const Rows& rows, uint32_t* checks,
                            uint32_t* faults) {
  return launch(queue, check_offsets_kernel<kOffsetCheckThreads>, offset_check_blocks(rows),
                kOffsetCheckThreads, rows, checks, faults);
}

// The same answer in every thread; all lanes of a warp must ask.
ALIGNZOO_DEVICE bool offsets_are_bad(const uint32_t* checks, int num_checks) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return __any_sync(kAllLanes, lane < num_checks && checks[lane] != 0) != 0;
}

template <class T>
struct NotANumber {
  static constexpr T kValue = std::numeric_limits<T>::quiet_NaN();
};

// NaN in all of `out`, by all threads of the grid together.
template <class T>
ALIGNZOO_DEVICE void fill_nan_by_grid(T* out, int64_t size) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < size;
       i += threads) {
    out[i] = NotANumber<T>::kValue;
  }
}

}  // namespace alignzoo::cuda
