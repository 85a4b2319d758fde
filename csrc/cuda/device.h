// Questions to the CUDA runtime. None is asked at import: the driver must not be touched before a
// caller needs it, so that a process may still fork.
#pragma once

#include "cuda/kernels.h"

namespace alignzoo::cuda {

// Devices this process can use; 0 without a driver.
int device_count();

// Version of the runtime built in, as CUDA encodes it: 1000 * major + 10 * minor.
int runtime_version();

const char* describe(Status status);
Status take_faults(const Queue& queue, uint32_t* faults);

}  // namespace alignzoo::cuda
