// The one place that knows Python's arrays. NumPy arrays are read through NumPy's own structure
// (read-only ones too), torch tensors through DLPack: the C exchange table where torch has one,
// else `__dlpack__`. Results are allocated by the library the arguments came from.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace alignzoo::bindings {

namespace py = pybind11;

enum class Library { kNumpy, kTorch };
enum class DType {
  kBool,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kFloat16,
  kBfloat16,
  kFloat32,
  kFloat64,
  kOther
};
constexpr int kMaxDims = 8;

const char* name_of(DType dtype);
int size_of(DType dtype);
bool is_integer(DType dtype);  // bool included

using Shape = std::vector<int64_t>;
std::string text_of(const Shape& shape);  // "[4, 10]"
std::string text_of(py::handle object);   // str(object)

// Where an array lies: on the host, or a CUDA device.
struct Device {
  bool cuda = false;
  int index = 0;
  bool operator!=(const Device& other) const { return cuda != other.cuda || index != other.index; }
};
std::string text_of(const Device& device);  // "cuda:0"

// A caller's array: where it lies and what it looks like. Strides count elements.
struct Array {
  std::string name;
  Library library = Library::kNumpy;
  DType dtype = DType::kOther;
  Device device;
  char* data = nullptr;
  Shape shape, strides;
  py::object owner;                // keeps `data` alive
  std::shared_ptr<char[]> copied;  // or this does, after make_contiguous on the host

  int64_t size() const;
  bool contiguous() const;
  int ndim() const { return static_cast<int>(shape.size()); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

class Call;

// Copies the elements into memory of their own if they do not lie one after the other.
void make_contiguous(const Call& call, Array& array);

// A call of one of our functions: takes its arguments and names them in what it raises.
class Call {
 public:
  explicit Call(const char* function) : function_(function) {}
  const std::string& function() const { return function_; }

  [[noreturn]] void type_error(const std::string& what) const;
  [[noreturn]] void value_error(const std::string& what) const;

  // The first array decides library and number type; the others must agree (`like`).
  Array array(const char* name, py::handle object) const;
  Array floats(const char* name, py::handle object, bool half_too = false) const;
  Array floats_like(const char* name, py::handle object, const Array& like, const Shape& shape,
                    const char* wanted) const;
  Array integers(const char* name, py::handle object, const Array& like) const;
  void check_shape(const Array& array, const Array& like, const char* wanted) const;
  // Raises unless both are of one library and lie on one device.
  void check_company(const Array& array, const Array& like) const;

  double number(const char* name, py::handle object) const;
  double number_within(const char* name, py::handle object, double lowest, double highest) const;
  double number_above_0(const char* name, py::handle object) const;  // infinity included
  int64_t integer(const char* name, py::handle object, int64_t lowest) const;
  uint64_t unsigned_integer(const char* name, py::handle object) const;
  double temperature(py::handle object, bool zero_too) const;
  bool flag(const char* name, py::handle object) const;
  // Index of the string among the options.
  int choice(const char* name, py::handle object, std::initializer_list<const char*> options) const;

 private:
  std::string function_;
};

// Bytes that are 0 or 1, of a bool or integer array. Other values are a ValueError; on a device,
// where nobody looks before the kernel does, they count as 1.
struct Bytes {
  Array array;
  std::unique_ptr<uint8_t[]> converted;
  const uint8_t* data = nullptr;
};
Bytes bytes_of(const Call& call, Array array);
// None gives null.
Bytes optional_mask(const Call& call, const char* name, py::handle object, const Array& like,
                    const char* wanted);

std::vector<int64_t> int64s_of(const Array& array);
// The array as int64, contiguous, for an array on a device.
Array int64s_on_device(const Call& call, const Array& array);

// A new array, contiguous, and its memory.
struct Output {
  py::object object;
  char* data = nullptr;
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};
// None where nothing was made.
inline py::object object_or_none(const Output& out) {
  return out.object ? out.object : py::object(py::none());
}
// Of the library, and on the device, of `like`.
Output make_output(const Array& like, DType dtype, const Shape& shape);
// A 0-d array that holds the value, on the host.
Output make_scalar(const Array& like, DType dtype, double value);

// Threads to use for this many elements of work; 1 where a fork and join would not pay.
int threads_for(int64_t work);
int num_threads();

// Releases the GIL where the work is worth it.
class Unlocked {
 public:
  explicit Unlocked(int64_t work) {
    if (work > 8192) release_.reset(new py::gil_scoped_release);
  }

 private:
  std::unique_ptr<py::gil_scoped_release> release_;
};

// bindings/torch.cpp
bool is_torch(py::handle object);
void take_torch(const Call& call, py::handle object, Array& out);
Output make_torch_output(const Device& device, DType dtype, const Shape& shape);
// The result of one of the tensor's own methods, taken as an array again.
Array torch_method(const Call& call, const Array& array, const char* method);
Array torch_cast(const Call& call, const Array& array, DType dtype);
Array torch_stable_order(const Call& call, const Array& keys);  // indices that sort [N] keys
std::string torch_device(const Device& device);                 // its name, to allocate there
int torch_num_threads();                                        // 0 where torch is not loaded

}  // namespace alignzoo::bindings
