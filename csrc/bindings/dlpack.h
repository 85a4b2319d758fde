// The parts of DLPack's binary interface (version 1) that we read; dmlc.github.io/dlpack. The
// layout is fixed by that specification.
#pragma once

#include <cstdint>

namespace alignzoo::bindings {

constexpr int32_t kDlpackCpu = 1, kDlpackCuda = 2;
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
// A tensor that owns its memory. Who holds it last calls `deleter`.
struct DlpackManaged {
  DlpackVersion version;
  void* manager;
  void (*deleter)(DlpackManaged* self);
  uint64_t flags;
  DlpackTensor tensor;
};
// The table behind a tensor type's `__dlpack_c_exchange_api__`. Functions return 0, or -1: the
// allocator having called `set_error`, the others with a Python exception set.
struct DlpackExchange {
  DlpackExchangeHeader header;
  int (*allocate)(DlpackTensor* like, DlpackManaged** out, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  void* export_managed;
  int (*import_managed)(DlpackManaged* managed, void** object);  // takes it over
  int (*view)(void* object, DlpackTensor* out);                  // borrowed
  int (*current_stream)(int32_t device_type, int32_t device_id, void** stream);
};

}  // namespace alignzoo::bindings
