# The sources of the CUDA core, for its library and for the emulator in tests/native.
set(ALIGNZOO_CUDA_SOURCES
  device.cu
  divergence.cu
  gather.cu
  losses.cu
  penalties.cu
  sampling.cu
  scans.cu
  softmax.cu
  statistics.cu
  table.cu
  td_targets.cu)
