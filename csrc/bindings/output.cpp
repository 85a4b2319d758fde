// New arrays of the caller's library.
#include <sys/mman.h>

#include "bindings/array.h"
#include "bindings/functions.h"

namespace alignzoo::bindings {

namespace {

// Large new memory costs more in page faults than in work: 33 MB of small pages take eight times
// as long to touch first as the same in huge ones.
void advise_huge_pages(char* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr size_t kWorthIt = size_t{4} << 20, kPage = 4096;
  if (bytes < kWorthIt) return;
  const size_t before = (kPage - reinterpret_cast<uintptr_t>(data) % kPage) % kPage;
  madvise(data + before, bytes - before, MADV_HUGEPAGE);  // a wish: its failure changes nothing
#else
  (void)data, (void)bytes;
#endif
}

Output make_numpy_output(DType dtype, const Shape& shape) {
  Output out;
  const py::dtype number = dtype == DType::kFloat32   ? py::dtype::of<float>()
                           : dtype == DType::kFloat64 ? py::dtype::of<double>()
                                                      : py::dtype::of<int64_t>();
  py::array array(number, std::vector<py::ssize_t>(shape.begin(), shape.end()));
  out.data = static_cast<char*>(array.mutable_data());
  out.object = array;
  return out;
}

}  // namespace

Output make_output(const Array& like, DType dtype, const Shape& shape) {
  Output out = like.library == Library::kTorch ? make_torch_output(like.device, dtype, shape)
                                               : make_numpy_output(dtype, shape);
  if (like.device.cuda) return out;
  size_t bytes = static_cast<size_t>(size_of(dtype));
  for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
  advise_huge_pages(out.data, bytes);
  return out;
}

py::object empty_like(py::object array) {
  const Array like = Call("empty_like").array("array", array);
  return make_output(like, like.dtype, like.shape).object;
}

Output make_scalar(const Array& like, DType dtype, double value) {
  Output out = make_output(like, dtype, {});
  if (dtype == DType::kFloat32) {
    *out.as<float>() = static_cast<float>(value);
  } else {
    *out.as<double>() = value;
  }
  return out;
}

}  // namespace alignzoo::bindings
