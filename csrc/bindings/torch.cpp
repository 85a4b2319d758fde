// torch tensors, without torch's C++ library.
#include <strings.h>

#include <cstdlib>

#include "bindings/array.h"
#include "bindings/cuda.h"
#include "bindings/dlpack.h"
#include "cpu/kernels.h"
#include "cpu/pool.h"

namespace alignzoo::bindings {
namespace {

// What is needed of the torch module, looked up once, when the first tensor arrives.
struct Torch {
  py::object tensor, parameter, empty, get_num_threads;
  py::object dtypes[static_cast<int>(DType::kOther)];
  const DlpackExchange* exchange = nullptr;
};

Torch* load_torch() {
  PyObject* module = PyImport_GetModule(py::str("torch").ptr());
  if (module == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  py::object torch = py::reinterpret_steal<py::object>(module);
  if (!py::hasattr(torch, "Tensor") || !py::hasattr(torch, "empty")) return nullptr;
  auto found = std::make_unique<Torch>();
  found->tensor = torch.attr("Tensor");
  found->parameter = torch.attr("nn").attr("Parameter");
  found->empty = torch.attr("empty");
  found->get_num_threads = torch.attr("get_num_threads");
  for (int i = 0; i < static_cast<int>(DType::kOther); ++i) {
    const char* name = name_of(static_cast<DType>(i));
    if (py::hasattr(torch, name)) found->dtypes[i] = torch.attr(name);
  }
  py::object capsule = py::getattr(found->tensor, "__dlpack_c_exchange_api__", py::none());
  if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) {
    const auto* table = static_cast<const DlpackExchange*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (table->header.version.major == 1) found->exchange = table;
  }
  return found.release();
}

// torch's OpenMP runtime is loaded by now; its threads become ours too. Not where they sleep
// between torch's operations: there our own contend with nobody, and a late one of ours costs a
// block, while a team waits for all.
void share_threads() {
  const cpu::PoolSetting setting = cpu::pool_setting();
  const char* policy = std::getenv("OMP_WAIT_POLICY");
  const bool sleeping = policy != nullptr && strcasecmp(policy, "passive") == 0;
  if (setting == cpu::PoolSetting::kOwn || (setting == cpu::PoolSetting::kAuto && sleeping)) return;
  if (!cpu::adopt_openmp() && setting == cpu::PoolSetting::kTorch) {
    throw std::runtime_error(
        "ALIGNZOO_POOL is 'torch', but this torch has no OpenMP runtime that can be shared; use "
        "'auto' or 'own'");
  }
}

// Kept for the life of the process, like the module itself.
Torch* torch_if_loaded() {
  static Torch* torch = nullptr;
  if (torch == nullptr && (torch = load_torch()) != nullptr) share_threads();
  return torch;
}

DType dtype_of(const DlpackType& type) {
  if (type.lanes != 1) return DType::kOther;
  switch (type.code) {
    case kDlpackInt:
      return type.bits == 8    ? DType::kInt8
             : type.bits == 16 ? DType::kInt16
             : type.bits == 32 ? DType::kInt32
                               : DType::kInt64;
    case kDlpackUint:
      return type.bits == 8    ? DType::kUint8
             : type.bits == 16 ? DType::kUint16
             : type.bits == 32 ? DType::kUint32
                               : DType::kUint64;
    case kDlpackFloat:
      return type.bits == 16   ? DType::kFloat16
             : type.bits == 32 ? DType::kFloat32
             : type.bits == 64 ? DType::kFloat64
                               : DType::kOther;
    case kDlpackBfloat:
      return type.bits == 16 ? DType::kBfloat16 : DType::kOther;
    case kDlpackBool:
      return type.bits == 8 ? DType::kBool : DType::kOther;
    default:
      return DType::kOther;
  }
}

void describe(const DlpackTensor& from, Array& out) {
  out.dtype = dtype_of(from.dtype);
  out.data = static_cast<char*>(from.data) + from.byte_offset;
  out.shape.assign(from.shape, from.shape + from.ndim);
  if (from.strides != nullptr) {
    out.strides.assign(from.strides, from.strides + from.ndim);
  } else {
    out.strides.assign(from.ndim, 1);
    for (int i = from.ndim - 2; i >= 0; --i) {
      out.strides[i] = out.strides[i + 1] * out.shape[i + 1];
    }
  }
}

}  // namespace

bool is_torch(py::handle object) {
  Torch* torch = torch_if_loaded();
  if (torch == nullptr) return false;
  PyTypeObject* type = Py_TYPE(object.ptr());
  if (type == reinterpret_cast<PyTypeObject*>(torch->tensor.ptr())) return true;
  return PyObject_IsInstance(object.ptr(), torch->tensor.ptr()) == 1;
}

void take_torch(const Call& call, py::handle object, Array& out) {
  Torch* torch = torch_if_loaded();
  out.library = Library::kTorch;
  out.owner = py::reinterpret_borrow<py::object>(object);
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
  const bool exact = type == torch->tensor.ptr() || type == torch->parameter.ptr();
  DlpackTensor view;
  view.device = {-1, 0};
  if (exact && torch->exchange != nullptr && torch->exchange->view != nullptr) {
    if (torch->exchange->view(object.ptr(), &view) != 0) {
      PyErr_Clear();  // a device without memory to look at, such as meta
      view.device.type = -1;
    }
  } else {
    const std::string device = text_of(object.attr("device").attr("type"));
    if (device == "cuda" && cuda_library().empty()) {
      raise_no_cuda(call.function(), out.name, text_of(object.attr("device")));
    }
    if (device == "cpu" || device == "cuda") {
      py::object capsule = object.attr("detach")().attr("__dlpack__")();
      void* managed = PyCapsule_GetPointer(capsule.ptr(), "dltensor");
      if (managed == nullptr) throw py::error_already_set();
      view = *static_cast<DlpackTensor*>(managed);
      out.owner = capsule;  // its destructor frees what it still holds
    }
  }
  if (view.device.type == kDlpackCuda) {
    out.device = {true, view.device.id};
  } else if (view.device.type != kDlpackCpu) {
    throw std::runtime_error(call.function() + ": `" + out.name + "` lies on " +
                             text_of(object.attr("device")) +
                             "; expected the CPU or a CUDA device");
  } else if (host_is_cuda()) {
    out.device = {true, 0};
  }
  if (out.device.cuda && cuda_library().empty()) {
    raise_no_cuda(call.function(), out.name, text_of(out.device));
  }
  describe(view, out);
}

namespace {

Array taken_again(const Call& call, const Array& from, py::handle object) {
  Array out;
  out.name = from.name;
  take_torch(call, object, out);
  return out;
}

// What the tensor's methods are called on: the owner itself, or, where that is what a subclass
// exported, a tensor made of it.
py::object tensor_of(const Array& array) {
  if (!PyCapsule_CheckExact(array.owner.ptr())) return array.owner.attr("detach")();
  return py::module_::import("torch").attr("from_dlpack")(array.owner);
}

}  // namespace

Array torch_method(const Call& call, const Array& array, const char* method) {
  return taken_again(call, array, tensor_of(array).attr(method)());
}

Array torch_cast(const Call& call, const Array& array, DType dtype) {
  const py::object wanted = torch_if_loaded()->dtypes[static_cast<int>(dtype)];
  return taken_again(call, array, tensor_of(array).attr("to")(wanted));
}

Array torch_stable_order(const Call& call, const Array& keys) {
  const py::tuple sorted = tensor_of(keys).attr("sort")(py::arg("stable") = true);
  return taken_again(call, keys, sorted[1]);
}

std::string torch_device(const Device& device) {
  return device.cuda && !host_is_cuda() ? text_of(device) : "cpu";
}

void* torch_stream(int device) {
  const Torch* torch = torch_if_loaded();
  void* stream = nullptr;
  if (torch->exchange != nullptr && torch->exchange->current_stream != nullptr) {
    if (torch->exchange->current_stream(kDlpackCuda, device, &stream) != 0) {
      throw py::error_already_set();
    }
    return stream;
  }
  const py::object current =
      py::module_::import("torch").attr("cuda").attr("current_stream")(device);
  return reinterpret_cast<void*>(py::cast<uintptr_t>(current.attr("cuda_stream")));
}

namespace {

DlpackType dlpack_type_of(DType dtype) {
  const auto bits = static_cast<uint8_t>(8 * size_of(dtype));
  const auto code = dtype == DType::kInt64      ? kDlpackInt
                    : dtype == DType::kUint8    ? kDlpackUint
                    : dtype == DType::kBfloat16 ? kDlpackBfloat
                                                : kDlpackFloat;
  return {code, bits, 1};
}

// By torch's own allocator, without a Python call; false if it could not.
bool allocate(const DlpackExchange& exchange, const Device& device, DType dtype, const Shape& shape,
              Output& out) {
  DlpackTensor like{};
  const bool device_is_real = device.cuda && !host_is_cuda();
  like.device = {device_is_real ? kDlpackCuda : kDlpackCpu, device_is_real ? device.index : 0};
  like.ndim = static_cast<int32_t>(shape.size());
  like.dtype = dlpack_type_of(dtype);
  like.shape = const_cast<int64_t*>(shape.data());
  DlpackManaged* managed = nullptr;
  if (exchange.allocate(&like, &managed, nullptr, [](void*, const char*, const char*) {}) != 0) {
    PyErr_Clear();
    return false;
  }
  out.data = static_cast<char*>(managed->tensor.data) + managed->tensor.byte_offset;
  void* object = nullptr;
  if (exchange.import_managed(managed, &object) != 0) throw py::error_already_set();
  out.object = py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
  return true;
}

}  // namespace

Output make_torch_output(const Device& device, DType dtype, const Shape& shape) {
  Torch* torch = torch_if_loaded();
  Output out;
  if (torch->exchange != nullptr && torch->exchange->allocate != nullptr &&
      torch->exchange->import_managed != nullptr &&
      allocate(*torch->exchange, device, dtype, shape, out)) {
    return out;
  }
  py::tuple sizes(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) sizes[i] = py::int_(shape[i]);

  out.object = torch->empty(sizes, py::arg("dtype") = torch->dtypes[static_cast<int>(dtype)],
                            py::arg("device") = torch_device(device));
  DlpackTensor view;
  if (torch->exchange != nullptr && torch->exchange->view != nullptr) {
    if (torch->exchange->view(out.object.ptr(), &view) != 0) throw py::error_already_set();
    out.data = static_cast<char*>(view.data) + view.byte_offset;
  } else {
    out.data = reinterpret_cast<char*>(py::cast<uintptr_t>(out.object.attr("data_ptr")()));
  }
  return out;
}

int torch_num_threads() {
  Torch* torch = torch_if_loaded();
  return torch == nullptr ? 0 : py::cast<int>(torch->get_num_threads());
}

}  // namespace alignzoo::bindings
