// The parts of DLPack's binary interface (version 1) that we read; dmlc.github.io/dlpack. The
// layout is fixed by that specification.
#pragma once

#include <cstdint>

namespace alignzoo::bindings {

constexpr int32_t kDlpackCpu = 1;
constexpr uint8_t kDlpackInt = 0, kDlpackUint = 1, kDlpackFloat = 2, kDlpackBfloat = 4,
                  kDlpackBool = 6;

struct DlpackDevice {
  int32_t type, id;
};
struct DlpackType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DlpackTensor {
  void* data;
  DlpackDevice device;
  int32_t ndim;
  DlpackType dtype;
  int64_t *shape, *strides;  // in elements; no strides means row-major
  uint64_t byte_offset;
};

struct DlpackVersion {
  uint32_t major, minor;
};
struct DlpackExchangeHeader {
  DlpackVersion version;
  DlpackExchangeHeader* previous;
};
// The table behind a tensor type's `__dlpack_c_exchange_api__`. We only take views.
struct DlpackExchange {
  DlpackExchangeHeader header;
  void* allocate;
  void* export_managed;
  void* import_managed;
  int (*view)(void* object, DlpackTensor* out);  // borrowed; -1 with a Python exception set
  void* current_stream;
};

}  // namespace alignzoo::bindings
