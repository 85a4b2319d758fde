// Guarded memory for a kernel's arguments, and the comparison of everything it returned: for each
// instruction set of this processor, several numbers of threads and several places in memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace alignzoo::native {

#if defined(__SANITIZE_ADDRESS__)
#define ALIGNZOO_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define ALIGNZOO_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ALIGNZOO_ASAN 1
#elif __has_feature(thread_sanitizer)
#define ALIGNZOO_TSAN 1
#endif
#endif

// Where a buffer lies: on the heap, or with its end or its beginning at a page that may not be
// touched. What is left beside it holds a pattern that must still be there afterwards.
enum class Place { kHeap, kBeforeWall, kAfterWall };

struct Setting {
  const cpu::Kernels* kernels;  // null for what does not depend on the instruction set
  int threads;
  Place place;
  uint8_t fill;    // what outputs hold before the call
  double rubbish;  // what floats under the mask hold
  bool shifted;    // buffers begin one element behind an address that wide loads can take
  int turn;        // in which order the emulator's threads run, see emulated.h
};

// How generic (no fused multiply-add) must agree with the others, whose bits are always equal.
enum class Agreement { kBits, kNear, kNone };

enum class Kind { kFloat, kDouble, kBfloat16, kFloat16, kInt64 };
template <class T>
constexpr Kind kind_of();
template <>
constexpr Kind kind_of<float>() {
  return Kind::kFloat;
}
template <>
constexpr Kind kind_of<double>() {
  return Kind::kDouble;
}
template <>
constexpr Kind kind_of<Bfloat16>() {
  return Kind::kBfloat16;
}
template <>
constexpr Kind kind_of<Float16>() {
  return Kind::kFloat16;
}
template <>
constexpr Kind kind_of<int64_t>() {
  return Kind::kInt64;
}

struct Result {
  std::string name;
  Kind kind;
  Agreement agreement;
  double tolerance;  // for kNear, relative to the larger of 1 and the largest finite value
  std::vector<uint8_t> bytes;
};

// Numbers from -1 to 1, and flags, from a seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits();
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  bool flip() { return (bits() & 1) != 0; }
  double number() { return static_cast<double>(bits() >> 11) * 0x1p-52 - 1.0; }
  template <class T>
  std::vector<T> numbers(int64_t n, double scale) {
    std::vector<T> out(static_cast<size_t>(n));
    for (T& x : out) x = static_cast<T>(scale * number());
    return out;
  }
  // One in `every` is not 0.
  std::vector<uint8_t> flags(int64_t n, int64_t every);

 private:
  uint64_t state_;
};

// The arguments of one call. Every pointer it hands out is freed with it.
class Memory {
 public:
  explicit Memory(const Setting& setting);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  const cpu::Kernels& kernels() const { return *setting_.kernels; }
  int threads() const { return setting_.threads; }
  const Setting& setting() const { return setting_; }
  // That of the running call.
  static Memory& current();

  // Memory to work in, as large as asked for and aligned as a device's allocator does; what it
  // holds is rubbish. Null where none is asked for.
  void* workspace(int64_t bytes);

  template <class T>
  const T* input(const std::vector<T>& values) {
    return static_cast<const T*>(
        copy(values.data(), values.size() * sizeof(T), Role::kInput, sizeof(T)));
  }
  // Null if not wanted.
  template <class T>
  const T* input_if(bool wanted, const std::vector<T>& values) {
    return wanted ? input(values) : nullptr;
  }
  // With rubbish wherever keep is 0; an empty keep keeps all.
  template <class T>
  const T* input_where(const std::vector<uint8_t>& keep, std::vector<T> values) {
    for (size_t i = 0; i < keep.size(); ++i) {
      if (!keep[i]) values[i] = static_cast<T>(setting_.rubbish);
    }
    return input(values);
  }
  // An output that holds `values` before the call.
  template <class T>
  T* in_out(const char* name, const std::vector<T>& values, Agreement agreement,
            double tolerance = 0) {
    T* data =
        static_cast<T*>(copy(values.data(), values.size() * sizeof(T), Role::kOutput, sizeof(T)));
    blocks_.back().result = {name, kind_of<T>(), agreement, tolerance, {}};
    return data;
  }
  template <class T>
  T* output(const char* name, int64_t n, Agreement agreement, double tolerance = 0) {
    T* data = static_cast<T*>(
        copy(nullptr, static_cast<size_t>(n) * sizeof(T), Role::kOutput, sizeof(T)));
    blocks_.back().result = {name, kind_of<T>(), agreement, tolerance, {}};
    return data;
  }
  template <class T>
  T* output_if(bool wanted, const char* name, int64_t n, Agreement agreement,
               double tolerance = 0) {
    return wanted ? output<T>(name, n, agreement, tolerance) : nullptr;
  }
  // What the kernel returned by value.
  void returned(const char* name, double value, Agreement agreement, double tolerance = 0);
  // The outputs so far mean nothing, as where the kernel found a fault; they are not compared.
  void forget_outputs() { forgotten_ = true; }

  // Checks that nothing beside the buffers and nothing in the inputs changed.
  std::vector<Result> finish();

 private:
  enum class Role { kInput, kOutput, kWorkspace };
  struct Block {
    uint8_t *base, *data;
    size_t mapped, size, before, after;
    Role role;
    std::vector<uint8_t> original;
    Result result;
  };
  void* copy(const void* from, size_t size, Role role, size_t element);

  Setting setting_;
  std::vector<Block> blocks_;
  std::vector<Result> returned_;
  bool forgotten_ = false;
};

using Call = std::function<void(Memory&)>;

// Runs the call for every setting; whatever is wrong is reported and ends the program.
void check(const std::string& kernel, const std::string& shape, const Call& call);
// The same, for what has no instruction set.
void check_host(const std::string& kernel, const std::string& shape, const Call& call);
// The same, for what is the emulated device's alone.
void check_emulated(const std::string& kernel, const std::string& shape, const Call& call);

// Names what is running, for the message of whatever ends the program.
void now_running(const std::string& kernel, const std::string& isa, const std::string& shape);
[[noreturn]] void fail(const std::string& why);

// What is driven: the CPU's kernels, or those of csrc/cuda in the emulator against the CPU's.
extern bool emulated;
// This processor's instruction sets, generic first; generic and the emulator's table if `emulated`.
const std::vector<const cpu::Kernels*>& instruction_sets();

// Fewer and smaller cases: for emulators, and sanitizers that are slow.
extern bool quick;
// Kernels whose names begin so, and no others.
extern std::string only;
extern bool may_fork;
int64_t num_checks();

template <class T>
constexpr const char* type_name() {
  switch (kind_of<T>()) {
    case Kind::kFloat:
      return "<float>";
    case Kind::kDouble:
      return "<double>";
    case Kind::kBfloat16:
      return "<bfloat16>";
    default:
      return "<float16>";
  }
}

// Rows of tokens, padded or packed, with a mask or none.
struct Tokens {
  int64_t count = 0, width = 0;
  std::vector<int64_t> offsets;  // empty: padded
  std::vector<uint8_t> mask;     // empty and !masked: none
  bool masked = false;
  std::string shape;

  int64_t size() const { return offsets.empty() ? count * width : offsets.back(); }
  Rows rows(Memory& memory) const {
    return {count, width, offsets.empty() ? nullptr : memory.input(offsets)};
  }
  Rows rows() const { return {count, width, offsets.empty() ? nullptr : offsets.data()}; }
  const uint8_t* mask_in(Memory& memory) const { return memory.input_if(masked, mask); }
  bool kept(int64_t t) const { return !masked || mask[static_cast<size_t>(t)] != 0; }
  int64_t num_kept() const;
  // Which rows have an unmasked token.
  std::vector<uint8_t> live_rows() const;
};

// Every layout with every kind of mask.
void for_each_tokens(const std::function<void(const Tokens&, Random&)>& body);

// 0 wherever the mask is.
template <class T>
void expect_zero_under_mask(const char* name, const Tokens& tokens, const T* values) {
  if (values == nullptr || !tokens.masked) return;
  for (int64_t t = 0; t < tokens.size(); ++t) {
    if (!tokens.kept(t) && !(values[t] == T(0))) {
      fail(std::string(name) + " is not 0 under the mask, at " + std::to_string(t));
    }
  }
}

template <class T>
bool same_bits(T a, T b) {
  return memcmp(&a, &b, sizeof(T)) == 0 || (a != a && b != b);
}
inline bool same_bits(Bfloat16 a, Bfloat16 b) { return a.bits == b.bits; }
inline bool same_bits(Float16 a, Float16 b) { return a.bits == b.bits; }

void token_cases();
void loss_cases();
void logit_cases();
void concurrency_cases();
// What is the device's own: whole functions, faults, plans, and the emulator itself.
void device_cases();
void token_fault_cases();
void row_fault_cases();
void plan_cases();
void emulator_cases();

}  // namespace alignzoo::native
