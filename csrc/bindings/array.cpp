#include "bindings/array.h"

#include <sched.h>

#include <cmath>
#include <cstring>

#include "cpu/kernels.h"

namespace alignzoo::bindings {
namespace {

struct DTypeRow {
  const char* name;
  int size;
};
// In the order of DType.
constexpr DTypeRow kDTypes[] = {
    {"bool", 1},     {"int8", 1},    {"int16", 2},   {"int32", 4},          {"int64", 8},
    {"uint8", 1},    {"uint16", 2},  {"uint32", 4},  {"uint64", 8},         {"float16", 2},
    {"bfloat16", 2}, {"float32", 4}, {"float64", 8}, {"of another type", 0}};

DType numpy_dtype(const py::dtype& dtype) {
  if (dtype.byteorder() == '>') return DType::kOther;
  const auto size = dtype.itemsize();
  switch (dtype.kind()) {
    case 'b':
      return DType::kBool;
    case 'i':
      return size == 1   ? DType::kInt8
             : size == 2 ? DType::kInt16
             : size == 4 ? DType::kInt32
                         : DType::kInt64;
    case 'u':
      return size == 1   ? DType::kUint8
             : size == 2 ? DType::kUint16
             : size == 4 ? DType::kUint32
                         : DType::kUint64;
    case 'f':
      return size == 2   ? DType::kFloat16
             : size == 4 ? DType::kFloat32
             : size == 8 ? DType::kFloat64
                         : DType::kOther;
    default:
      return DType::kOther;
  }
}

void take_numpy(py::handle object, Array& out) {
  py::array array = py::reinterpret_borrow<py::array>(object);
  out.dtype = numpy_dtype(array.dtype());
  const auto itemsize = std::max<py::ssize_t>(1, array.itemsize());
  const auto alignment = static_cast<uintptr_t>(std::max(1, size_of(out.dtype)));
  bool regular = reinterpret_cast<uintptr_t>(array.data()) % alignment == 0;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) regular &= array.strides(i) % itemsize == 0;
  if (!regular) {  // fields of a record, or memory at an odd address
    array = py::module_::import("numpy").attr("array")(array, py::arg("order") = "C");
  }
  out.owner = array;
  out.data = static_cast<char*>(const_cast<void*>(array.data()));
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    out.shape.push_back(array.shape(i));
    out.strides.push_back(array.strides(i) / itemsize);
  }
}

std::string type_name(py::handle object) {
  return std::string("a ") + Py_TYPE(object.ptr())->tp_name;
}

}  // namespace

const char* name_of(DType dtype) { return kDTypes[static_cast<int>(dtype)].name; }
int size_of(DType dtype) { return kDTypes[static_cast<int>(dtype)].size; }
bool is_integer(DType dtype) { return dtype <= DType::kUint64; }

std::string text_of(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i ? ", " : "") + std::to_string(shape[i]);
  }
  return text + "]";
}

std::string text_of(py::handle object) { return std::string(py::str(object)); }

int64_t Array::size() const {
  int64_t size = 1;
  for (int64_t n : shape) size *= n;
  return size;
}

bool Array::contiguous() const {
  int64_t expected = 1;
  for (int i = ndim() - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[i] != expected) return size() == 0;
    expected *= shape[i];
  }
  return true;
}

std::string text_of(const Device& device) {
  return device.cuda ? "cuda:" + std::to_string(device.index) : "the CPU";
}

void make_contiguous(const Call& call, Array& array) {
  if (array.contiguous()) return;
  if (array.device.cuda) {
    array = torch_method(call, array, "contiguous");
    return;
  }
  const int64_t size = array.size(), item = size_of(array.dtype);
  const int ndim = array.ndim();
  std::shared_ptr<char[]> buffer(new char[static_cast<size_t>(size * item)]);
  std::vector<int64_t> index(array.shape.size(), 0);
  const int64_t inner = array.shape[ndim - 1], step = array.strides[ndim - 1] * item;
  char* to = buffer.get();
  for (int64_t done = 0; done < size; done += inner) {
    const char* from = array.data;
    for (int i = 0; i < ndim - 1; ++i) from += index[i] * array.strides[i] * item;
    for (int64_t i = 0; i < inner; ++i, to += item) {
      std::memcpy(to, from + i * step, static_cast<size_t>(item));
    }
    for (int i = ndim - 2; i >= 0 && ++index[i] == array.shape[i]; --i) index[i] = 0;
  }
  int64_t stride = 1;
  for (int i = ndim - 1; i >= 0; stride *= array.shape[i--]) array.strides[i] = stride;
  array.copied = buffer;
  array.data = buffer.get();
}

void Call::type_error(const std::string& what) const {
  throw py::type_error(function_ + ": " + what);
}
void Call::value_error(const std::string& what) const {
  throw py::value_error(function_ + ": " + what);
}

Array Call::array(const char* name, py::handle object) const {
  Array out;
  out.name = name;
  if (py::isinstance<py::array>(object)) {
    take_numpy(object, out);
  } else if (is_torch(object)) {
    take_torch(*this, object, out);
  } else {
    type_error("`" + out.name + "` is " + (object.is_none() ? "None" : type_name(object)) +
               "; expected a NumPy array or a torch tensor");
  }
  return out;
}

Array Call::floats(const char* name, py::handle object, bool half_too) const {
  Array out = array(name, object);
  const bool half = out.dtype == DType::kFloat16 || out.dtype == DType::kBfloat16;
  if (out.dtype == DType::kFloat32 || out.dtype == DType::kFloat64 || (half && half_too))
    return out;
  std::string given = name_of(out.dtype);
  if (out.dtype == DType::kOther) given = text_of(object.attr("dtype"));
  type_error("`" + out.name + "` is " + given + "; expected float32 or float64" +
             (half_too ? ", bfloat16 or float16" : ""));
}

Array Call::floats_like(const char* name, py::handle object, const Array& like, const Shape& shape,
                        const char* wanted) const {
  Array out = floats(name, object, like.dtype == DType::kFloat16 || like.dtype == DType::kBfloat16);
  check_company(out, like);
  if (out.dtype != like.dtype) {
    type_error("`" + out.name + "` is " + name_of(out.dtype) + " but `" + like.name + "` is " +
               name_of(like.dtype) + "; both must have one dtype");
  }
  if (out.shape != shape) {
    value_error("`" + out.name + "` is " + text_of(out.shape) + " but `" + like.name + "` is " +
                text_of(like.shape) + "; " + wanted);
  }
  make_contiguous(*this, out);
  return out;
}

Array Call::integers(const char* name, py::handle object, const Array& like) const {
  Array out = array(name, object);
  check_company(out, like);
  if (!is_integer(out.dtype)) {
    type_error("`" + out.name + "` is " + name_of(out.dtype) + "; expected integers");
  }
  make_contiguous(*this, out);
  return out;
}

void Call::check_company(const Array& array, const Array& like) const {
  const std::string both = "`" + array.name + "` and `" + like.name + "` ";
  if (array.library != like.library) {
    type_error(both + "come from different libraries; both must be NumPy arrays or torch tensors");
  }
  if (array.device != like.device) {
    value_error("`" + array.name + "` lies on " + text_of(array.device) + " but `" + like.name +
                "` on " + text_of(like.device) + "; both must lie on one device");
  }
}

void Call::check_shape(const Array& array, const Array& like, const char* wanted) const {
  if (array.shape == like.shape) return;
  value_error("`" + array.name + "` is " + text_of(array.shape) + " but `" + like.name + "` is " +
              text_of(like.shape) + "; " + wanted);
}

double Call::number(const char* name, py::handle object) const {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    type_error(std::string("`") + name + "` is " + (object.is_none() ? "None" : type_name(object)) +
               "; expected a number");
  }
  if (std::isnan(value)) value_error(std::string("`") + name + "` is nan; expected a number");
  return value;
}

double Call::number_within(const char* name, py::handle object, double lowest,
                           double highest) const {
  const double value = number(name, object);
  if (value >= lowest && value <= highest) return value;
  const std::string low = text_of(py::float_(lowest)), high = text_of(py::float_(highest));
  value_error(std::string("`") + name + "` is " + text_of(object) + "; expected a number " +
              (std::isinf(highest) ? "of at least " + low : "from " + low + " to " + high));
}

double Call::number_above_0(const char* name, py::handle object) const {
  const double value = number(name, object);
  if (value > 0) return value;
  value_error(std::string("`") + name + "` is " + text_of(object) + "; expected a number above 0");
}

int64_t Call::integer(const char* name, py::handle object, int64_t lowest) const {
  py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    PyErr_Clear();
    type_error(std::string("`") + name + "` is " + (object.is_none() ? "None" : type_name(object)) +
               "; expected an integer");
  }
  const int64_t value = PyLong_AsLongLong(index.ptr());
  if ((value == -1 && PyErr_Occurred()) || value < lowest) {
    PyErr_Clear();
    value_error(std::string("`") + name + "` is " + text_of(object) +
                "; expected an integer of at least " + std::to_string(lowest));
  }
  return value;
}

uint64_t Call::unsigned_integer(const char* name, py::handle object) const {
  py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    PyErr_Clear();
    type_error(std::string("`") + name + "` is " + (object.is_none() ? "None" : type_name(object)) +
               "; expected an integer");
  }
  const uint64_t value = PyLong_AsUnsignedLongLong(index.ptr());
  if (value == ~uint64_t{0} && PyErr_Occurred()) {
    PyErr_Clear();
    value_error(std::string("`") + name + "` is " + text_of(object) +
                "; expected an integer from 0 to 2**64 - 1");
  }
  return value;
}

double Call::temperature(py::handle object, bool zero_too) const {
  const double value = number("temperature", object);
  if (zero_too && value == 0) return value;
  // Beyond these the inverse leaves the range of float32.
  if (value >= 1e-30 && value <= 1e30) return value;
  value_error("`temperature` is " + text_of(object) + "; expected a number above 0" +
              (zero_too ? ", or 0 for the largest logit" : ""));
}

bool Call::flag(const char* name, py::handle object) const {
  if (PyBool_Check(object.ptr())) return object.ptr() == Py_True;
  const bool numpy_bool = std::strncmp(Py_TYPE(object.ptr())->tp_name, "numpy.bool", 10) == 0;
  py::object index =
      py::reinterpret_steal<py::object>(numpy_bool ? nullptr : PyNumber_Index(object.ptr()));
  const long truth = numpy_bool ? PyObject_IsTrue(object.ptr())
                     : index    ? PyLong_AsLong(index.ptr())
                                : -1;
  if (truth == 0 || truth == 1) return truth == 1;
  PyErr_Clear();
  type_error(std::string("`") + name + "` is " + std::string(py::repr(object)) +
             "; expected True or False");
}

int Call::choice(const char* name, py::handle object,
                 std::initializer_list<const char*> options) const {
  const bool text = PyUnicode_Check(object.ptr());
  int index = 0;
  std::string known;
  for (const char* option : options) {
    if (text && PyUnicode_CompareWithASCIIString(object.ptr(), option) == 0) return index;
    known += (index == 0 ? "" : index + 1 == static_cast<int>(options.size()) ? " or " : ", ");
    known += std::string("'") + option + "'";
    ++index;
  }
  const std::string what =
      std::string("`") + name + "` is " + std::string(py::repr(object)) + "; expected " + known;
  if (!text) type_error(what);
  value_error(what);
}

namespace {

// Calls body with the array's elements in their own type.
template <class Body>
auto by_integer(const Array& array, Body body) {
  switch (array.dtype) {
    case DType::kBool:
    case DType::kUint8:
      return body(array.as<const uint8_t>());
    case DType::kInt8:
      return body(array.as<const int8_t>());
    case DType::kInt16:
      return body(array.as<const int16_t>());
    case DType::kUint16:
      return body(array.as<const uint16_t>());
    case DType::kInt32:
      return body(array.as<const int32_t>());
    case DType::kUint32:
      return body(array.as<const uint32_t>());
    default:
      return body(array.as<const int64_t>());
  }
}

}  // namespace

std::vector<int64_t> int64s_of(const Array& array) {
  return by_integer(
      array, [&](const auto* from) { return std::vector<int64_t>(from, from + array.size()); });
}

Array int64s_on_device(const Call& call, const Array& array) {
  return array.dtype == DType::kInt64 ? array : torch_cast(call, array, DType::kInt64);
}

Bytes bytes_of(const Call& call, Array array) {
  Bytes out;
  if (array.device.cuda && size_of(array.dtype) > 1) array = torch_cast(call, array, DType::kBool);
  out.array = array;
  out.data = array.as<const uint8_t>();
  if (array.dtype == DType::kBool || array.device.cuda) return out;
  const int64_t size = array.size();
  out.converted.reset(new uint8_t[static_cast<size_t>(size) + 1]);  // never null, even when empty
  by_integer(array, [&](const auto* from) {
    // Whether all are 0 or 1 is asked once, after a loop that vectorises.
    std::decay_t<decltype(*from)> others = 0;
    for (int64_t i = 0; i < size; ++i) {
      others |= static_cast<decltype(others)>(from[i] & ~decltype(others){1});
      out.converted[i] = static_cast<uint8_t>(from[i]);
    }
    if (others == 0) return;
    for (int64_t i = 0; i < size; ++i) {
      if (from[i] == 0 || from[i] == 1) continue;
      call.value_error("`" + array.name + "` holds " + std::to_string(from[i]) +
                       "; expected bool, or integers 0 and 1");
    }
  });
  out.data = out.converted.get();
  return out;
}

Bytes optional_mask(const Call& call, const char* name, py::handle object, const Array& like,
                    const char* wanted) {
  if (object.is_none()) return {};
  Array array = call.integers(name, object, like);
  call.check_shape(array, like, wanted);
  return bytes_of(call, array);
}

int num_threads() {
  const int fixed = cpu::num_threads_setting();
  if (fixed > 0) return fixed;
  const int torch = torch_num_threads();
  if (torch > 0) return torch;
  cpu_set_t allowed;
  const int here = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  return here > 0 ? here : 1;
}

int threads_for(int64_t work) { return work < 65536 ? 1 : num_threads(); }

}  // namespace alignzoo::bindings
