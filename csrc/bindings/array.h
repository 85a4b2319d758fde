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

// A caller's array: where it lies and what it looks like. Strides count elements.
struct Array {
  std::string name;
  Library library = Library::kNumpy;
  DType dtype = DType::kOther;
  char* data = nullptr;
  Shape shape, strides;
  py::object owner;                // keeps `data` alive
  std::shared_ptr<char[]> copied;  // or this does, after make_contiguous

  int64_t size() const;
  bool contiguous() const;
  int ndim() const { return static_cast<int>(shape.size()); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

// Copies the elements into a buffer of its own if they do not lie one after the other.
void make_contiguous(Array& array);

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

// Bytes that are 0 or 1, of a bool or integer array; other values are a ValueError.
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

// A new array of the library, contiguous, and its memory.
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
Output make_output(Library library, DType dtype, const Shape& shape);
Output make_scalar(Library library, DType dtype, double value);

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
Output make_torch_output(DType dtype, const Shape& shape);
int torch_num_threads();  // 0 where torch is not loaded

}  // namespace alignzoo::bindings
