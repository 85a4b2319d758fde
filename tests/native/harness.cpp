#include "harness.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "emulated.h"

namespace alignzoo::native {
namespace {

constexpr uint8_t kPattern = 0xc3;
constexpr size_t kGuard = 256;

char running[512] = "nothing yet";
int64_t checks = 0;

size_t page_size() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

double decoded(const Result& result, size_t i) {
  const uint8_t* bytes = result.bytes.data();
  if (result.kind == Kind::kDouble) {
    double x;
    memcpy(&x, bytes + i * sizeof x, sizeof x);
    return x;
  }
  if (result.kind == Kind::kInt64) {
    int64_t x;
    memcpy(&x, bytes + i * sizeof x, sizeof x);
    return static_cast<double>(x);
  }
  float x;
  if (result.kind == Kind::kFloat) {
    memcpy(&x, bytes + i * sizeof x, sizeof x);
    return static_cast<double>(x);
  }
  uint16_t half;
  memcpy(&half, bytes + i * sizeof half, sizeof half);
  if (result.kind == Kind::kBfloat16) {
    const uint32_t bits = uint32_t{half} << 16;
    memcpy(&x, &bits, sizeof x);
    return static_cast<double>(x);
  }
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  double size = exponent == 31  ? (mantissa ? std::nan("") : HUGE_VAL)
                : exponent == 0 ? std::ldexp(mantissa, -24)
                                : std::ldexp(mantissa + 1024, exponent - 25);
  return half & 0x8000 ? -size : size;
}

size_t element_size(Kind kind) {
  switch (kind) {
    case Kind::kFloat:
      return 4;
    case Kind::kDouble:
    case Kind::kInt64:
      return 8;
    default:
      return 2;
  }
}

std::string shown(double x) {
  char text[40];
  snprintf(text, sizeof text, "%.17g", x);
  return text;
}

// NaN has many bit patterns; which one comes out is no promise.
bool same_element(const Result& a, const Result& b, size_t i) {
  const size_t size = element_size(a.kind);
  if (memcmp(a.bytes.data() + i * size, b.bytes.data() + i * size, size) == 0) return true;
  return a.kind != Kind::kInt64 && std::isnan(decoded(a, i)) && std::isnan(decoded(b, i));
}

// bits: whatever the agreement says, they must be equal.
void compare(const std::vector<Result>& expected, const std::vector<Result>& got, bool bits,
             const char* with) {
  if (expected.size() != got.size()) fail(std::string("not as many results as ") + with);
  for (size_t r = 0; r < got.size(); ++r) {
    const Result &a = expected[r], &b = got[r];
    if (a.bytes.size() != b.bytes.size()) fail(b.name + " is not as long as " + with);
    if (!bits && b.agreement == Agreement::kNone) continue;
    const size_t count = b.bytes.size() / element_size(b.kind);
    double scale = 1;
    const bool near = !bits && b.agreement == Agreement::kNear;
    for (size_t i = 0; near && i < count; ++i) {
      const double x = std::fabs(decoded(a, i));
      if (x < HUGE_VAL && x > scale) scale = x;
    }
    for (size_t i = 0; i < count; ++i) {
      if (same_element(a, b, i)) continue;
      const double x = decoded(a, i), y = decoded(b, i);
      if (near && std::fabs(x - y) <= b.tolerance * scale) continue;
      fail(b.name + "[" + std::to_string(i) + "] is " + shown(y) + ", but " + shown(x) + " " +
           with);
    }
  }
}

// Mapped pages between two that may not be touched, kept for the next buffer of that size.
std::unordered_multimap<size_t, uint8_t*>& unused_walled() {
  static std::unordered_multimap<size_t, uint8_t*> unused;
  return unused;
}

uint8_t* take_walled(size_t size) {
  const auto found = unused_walled().find(size);
  if (found != unused_walled().end()) {
    uint8_t* out = found->second;
    unused_walled().erase(found);
    return out;
  }
  void* mapped = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) fail("out of memory");
  uint8_t* out = static_cast<uint8_t*>(mapped);
  const size_t page = page_size();
  if (size > 2 * page && mprotect(out + page, size - 2 * page, PROT_READ | PROT_WRITE) != 0) {
    fail("out of memory");
  }
  return out;
}

const char* place_name(Place place) {
  switch (place) {
    case Place::kHeap:
      return "heap";
    case Place::kBeforeWall:
      return "end at a wall";
    default:
      return "beginning at a wall";
  }
}

Memory* current_memory = nullptr;

std::vector<Setting> settings(const cpu::Kernels* kernels) {
  const double nan = std::nan(""), inf = HUGE_VAL;
  if (kernels == &emulated_kernels()) {
#if defined(ALIGNZOO_ASAN) || defined(ALIGNZOO_TSAN)
    const Place walled = Place::kHeap;
#else
    const Place walled = Place::kBeforeWall;
#endif
    if (quick) {
      return {{nullptr, 1, Place::kHeap, 0xff, nan, false, 0},
              {nullptr, 1, walled, 0x5a, inf, true, 2}};
    }
    return {{nullptr, 1, Place::kHeap, 0xff, nan, false, 0},
            {nullptr, 1, Place::kHeap, 0x5a, inf, true, 1},
            {nullptr, 1, walled, 0x00, -inf, false, 2}};
  }
  if (emulated) return {{nullptr, 1, Place::kHeap, 0xff, nan, false, 0}};
#if defined(ALIGNZOO_ASAN) || defined(ALIGNZOO_TSAN)
  return {{nullptr, 1, Place::kHeap, 0xff, nan, false, 0},
          {nullptr, 4, Place::kHeap, 0x5a, inf, false, 0}};
#else
  return {{nullptr, 1, Place::kHeap, 0xff, nan, false, 0},
          {nullptr, 4, Place::kBeforeWall, 0x5a, inf, false, 0},
          {nullptr, 1, Place::kAfterWall, 0x00, -inf, false, 0}};
#endif
}

// The results of the first setting; those of the others must be the same bits.
std::vector<Result> run_settings(const std::string& kernel, const std::string& shape,
                                 const Call& call, const cpu::Kernels* kernels) {
  std::vector<Result> first;
  bool any = false;
  if (kernel.rfind(only, 0) != 0) return first;
  for (Setting setting : settings(kernels)) {
    setting.kernels = kernels;
    now_running(kernel, kernels ? kernels->isa : "any",
                shape + ", threads " + std::to_string(setting.threads) + ", " +
                    place_name(setting.place) + (setting.shifted ? ", shifted" : "") + ", turn " +
                    std::to_string(setting.turn));
    Memory memory(setting);
    call(memory);
    std::vector<Result> results = memory.finish();
    ++checks;
    if (any) {
      compare(first, results, true, "with one thread, other turns, places and rubbish");
    } else {
      first = std::move(results);
      any = true;
    }
  }
  return first;
}

}  // namespace

bool quick = false;
std::string only;
bool emulated = false;
#if defined(ALIGNZOO_TSAN)
bool may_fork = false;  // it takes the threads that a fork leaves in the parent for the child's
#else
bool may_fork = true;
#endif

int64_t num_checks() { return checks; }

void now_running(const std::string& kernel, const std::string& isa, const std::string& shape) {
  snprintf(running, sizeof running, "%s, %s, %s", kernel.c_str(), isa.c_str(), shape.c_str());
}

const char* what_is_running() { return running; }

void fail(const std::string& why) {
  fprintf(stderr, "FAILED %s: %s\n", running, why.c_str());
  fflush(stderr);
  _exit(1);
}

const std::vector<const cpu::Kernels*>& instruction_sets() {
  static const std::vector<const cpu::Kernels*> sets = [] {
    std::vector<const cpu::Kernels*> out;
    if (emulated) return std::vector{cpu::kernels_for("generic"), &emulated_kernels()};
    for (const char* isa : {"generic", "avx2", "avx512"}) {
      if (const cpu::Kernels* found = cpu::kernels_for(isa)) out.push_back(found);
    }
    return out;
  }();
  return sets;
}

uint64_t Random::bits() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::vector<uint8_t> Random::flags(int64_t n, int64_t every) {
  std::vector<uint8_t> out(static_cast<size_t>(n));
  for (uint8_t& flag : out) flag = below(every) == 0 ? static_cast<uint8_t>(1 + below(255)) : 0;
  return out;
}

Memory::Memory(const Setting& setting) : setting_(setting) {
  current_memory = this;
  if (emulated) take_turns(setting.turn);
}

Memory& Memory::current() { return *current_memory; }

void* Memory::workspace(int64_t bytes) {
  if (bytes < 0) fail("a workspace of " + std::to_string(bytes) + " bytes");
  return bytes ? copy(nullptr, static_cast<size_t>(bytes), Role::kWorkspace, 1) : nullptr;
}

void* Memory::copy(const void* from, size_t size, Role role, size_t element) {
  // What a device's allocator promises, or the host's.
  const size_t aligned = emulated ? 256 : 16;
  Block block{};
  block.size = size;
  block.role = role;
  const bool is_workspace = role == Role::kWorkspace;
  if (setting_.place == Place::kHeap) {
#if !defined(ALIGNZOO_ASAN)  // its own zones begin at the very next byte
    block.before = block.after = kGuard;
#endif
    if (setting_.shifted && !is_workspace) block.before += element;
    const size_t whole = block.before + size + block.after;
    void* memory = nullptr;
    if (posix_memalign(&memory, aligned, whole) != 0) fail("out of memory");
    block.base = static_cast<uint8_t*>(memory);
  } else {
    const size_t page = page_size(), inside = (size + page - 1) / page * page;
    block.mapped = inside + 2 * page;
    block.base = take_walled(block.mapped) + page;
    block.before = setting_.place == Place::kBeforeWall ? inside - size : 0;
    if (is_workspace) block.before -= block.before % aligned;
    block.after = inside - size - block.before;
  }
  block.data = block.base + block.before;
  if (block.before) memset(block.base, kPattern, block.before);
  if (block.after) memset(block.data + size, kPattern, block.after);
  if (size > 0) {
    if (from != nullptr) {
      memcpy(block.data, from, size);
    } else {
      memset(block.data, setting_.fill, size);
    }
  }
  if (role == Role::kInput && size > 0) block.original.assign(block.data, block.data + size);
  blocks_.push_back(std::move(block));
  return blocks_.back().data;
}

void Memory::returned(const char* name, double value, Agreement agreement, double tolerance) {
  Result result{name, Kind::kDouble, agreement, tolerance, std::vector<uint8_t>(sizeof value)};
  memcpy(result.bytes.data(), &value, sizeof value);
  returned_.push_back(std::move(result));
}

std::vector<Result> Memory::finish() {
  std::vector<Result> results = returned_;
  for (Block& block : blocks_) {
    const std::string name = block.role == Role::kInput    ? "an input"
                             : block.role == Role::kOutput ? block.result.name
                                                           : "the workspace";
    for (size_t i = 0; i < block.before; ++i) {
      if (block.base[i] != kPattern) {
        fail(name + ": wrote " + std::to_string(block.before - i) + " bytes before its beginning");
      }
    }
    for (size_t i = 0; i < block.after; ++i) {
      if (block.data[block.size + i] != kPattern) {
        fail(name + ": wrote " + std::to_string(i + 1) + " bytes past its end");
      }
    }
    if (block.role == Role::kInput) {
      if (block.size && memcmp(block.data, block.original.data(), block.size) != 0) {
        fail("wrote to an input of " + std::to_string(block.size) + " bytes");
      }
    } else if (block.role == Role::kOutput && !forgotten_) {
      block.result.bytes.assign(block.data, block.data + block.size);
      results.push_back(block.result);
    }
  }
  return results;
}

Memory::~Memory() {
  for (Block& block : blocks_) {
    if (block.mapped) {
      unused_walled().emplace(block.mapped, block.base - page_size());
    } else {
      free(block.base);
    }
  }
}

void check(const std::string& kernel, const std::string& shape, const Call& call) {
  std::vector<Result> previous;
  const std::vector<const cpu::Kernels*>& sets = instruction_sets();
  for (size_t i = 0; i < sets.size(); ++i) {
    std::vector<Result> results = run_settings(kernel, shape, call, sets[i]);
    if (i > 0) {
      now_running(kernel, sets[i]->isa, shape);
      compare(previous, results, i > 1, i > 1 ? "with avx2" : "with generic");
    }
    previous = std::move(results);
  }
}

void check_host(const std::string& kernel, const std::string& shape, const Call& call) {
  run_settings(kernel, shape, call, nullptr);
}

void check_emulated(const std::string& kernel, const std::string& shape, const Call& call) {
  run_settings(kernel, shape, call, &emulated_kernels());
}

int64_t Tokens::num_kept() const {
  int64_t kept_so_far = 0;
  for (int64_t t = 0; t < size(); ++t) kept_so_far += kept(t);
  return kept_so_far;
}

std::vector<uint8_t> Tokens::live_rows() const {
  std::vector<uint8_t> out(static_cast<size_t>(count));
  const Rows all = rows();
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t t = all.begin(row); t < all.end(row); ++t) {
      if (kept(t)) out[static_cast<size_t>(row)] = 1;
    }
  }
  return out;
}

namespace {

std::vector<Tokens> layouts() {
  std::vector<Tokens> out;
  auto padded = [&](int64_t count, int64_t width) {
    Tokens tokens;
    tokens.count = count;
    tokens.width = width;
    tokens.shape = "[" + std::to_string(count) + ", " + std::to_string(width) + "]";
    out.push_back(tokens);
  };
  auto packed = [&](const std::vector<int64_t>& lengths) {
    Tokens tokens;
    tokens.count = static_cast<int64_t>(lengths.size());
    tokens.offsets.push_back(0);
    tokens.shape = "packed";
    for (int64_t length : lengths) {
      tokens.offsets.push_back(tokens.offsets.back() + length);
      tokens.width = length > tokens.width ? length : tokens.width;
      if (tokens.shape.size() < 60) tokens.shape += " " + std::to_string(length);
    }
    out.push_back(tokens);
  };
  padded(0, 0);
  padded(0, 5);
  padded(3, 0);
  padded(1, 1);
  padded(1, 15);
  padded(1, 16);
  padded(1, 17);
  padded(3, 31);
  padded(5, 33);
  padded(15, 1);
  padded(16, 16);
  padded(17, 64);
  padded(31, 13);
  padded(33, 61);
  padded(2, 127);
  padded(1, 509);
  packed({});
  packed({0});
  packed({0, 0, 0});
  packed({5, 0, 3});
  packed({0, 16, 0, 0, 17, 1, 0});
  packed({33, 0, 31, 15, 61, 0});
  std::vector<int64_t> many;
  for (int64_t i = 0; i < 70; ++i) many.push_back(i * 37 % 41);
  packed(many);
  // More than one block of work, and rows of more than one tile.
  if (quick) {
    padded(17, 1031);
    packed({16384 + 16, 0, 7, 1});
  } else {
    padded(37, 1031);
    padded(2, 16384 + 17);
    packed({16384 + 16, 0, 7, 20011, 0, 1});
    padded(4099, 9);
    padded(1, 3 * 16384 + 1);
    packed({1, 40009, 0, 16384, 15});
  }
  return out;
}

std::vector<uint8_t> holes(int64_t n, Random& random) {
  std::vector<uint8_t> mask = random.flags(n, 4);
  for (uint8_t& bit : mask) bit = bit == 0;
  return mask;
}

}  // namespace

void for_each_tokens(const std::function<void(const Tokens&, Random&)>& body) {
  uint64_t seed = 1;
  for (const Tokens& layout : layouts()) {
    Random random(seed++);
    const int64_t n = layout.size();
    auto with_mask = [&](const char* name, std::vector<uint8_t> mask) {
      Tokens tokens = layout;
      tokens.masked = true;
      tokens.mask = std::move(mask);
      tokens.shape += std::string(", ") + name;
      body(tokens, random);
    };
    if (!quick || n < 10000) body(layout, random);
    if (quick) {
      with_mask("mask with holes", holes(n, random));
      continue;
    }
    with_mask("mask of ones", std::vector<uint8_t>(static_cast<size_t>(n), 1));
    with_mask("mask of zeros", std::vector<uint8_t>(static_cast<size_t>(n), 0));
    with_mask("mask with holes", holes(n, random));
    std::vector<uint8_t> prefix(static_cast<size_t>(n), 0);
    const Rows rows = layout.rows();
    for (int64_t row = 0; row < rows.count; ++row) {
      const int64_t length = rows.end(row) - rows.begin(row);
      const int64_t kept = random.below(length + 1);
      for (int64_t t = 0; t < kept; ++t) prefix[static_cast<size_t>(rows.begin(row) + t)] = 200;
    }
    with_mask("mask of prefixes", prefix);
  }
}

}  // namespace alignzoo::native
