// What reads rows of logits: log-probs, their gradient, sampling.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "harness.h"

namespace alignzoo::native {
namespace {

// The statistics' and the gradients' distance from generic's.
template <class S>
constexpr double kNearness = sizeof(S) == 8 ? 1e-12 : 2e-5;
template <class S>
constexpr double kGradientNearness = sizeof(S) == 2 ? 0x1p-7 : kNearness<S>;

template <class S>
S stored(double x) {
  return static_cast<S>(x);
}
template <>
Bfloat16 stored(double x) {
  const float narrow = static_cast<float>(x);
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  const bool nan = x != x;
  return {static_cast<uint16_t>(nan ? 0x7fc0u : bits >> 16)};
}
// Towards 0; below the smallest normal number 0.
template <>
Float16 stored(double x) {
  const float narrow = static_cast<float>(x);
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  uint32_t half = size < 0x38800000u ? 0 : (size - 0x38000000u) >> 13;
  if (size >= 0x47800000u) half = size > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return {static_cast<uint16_t>(sign | half)};
}

// Logit rows with their strides, on a buffer where what lies between rows is NaN.
template <class S>
struct Logits {
  LogitRows rows;
  std::vector<S> buffer;
  int64_t start = 0;  // index of row 0 in the buffer
  std::string shape;

  const S* in(Memory& memory) const { return memory.input(buffer) + start; }
  S& at(int64_t row, int64_t j) {
    return buffer[static_cast<size_t>(start + rows.offset(row) + j)];
  }
  void fill_row(int64_t row, double x) {
    for (int64_t j = 0; j < rows.vocabulary; ++j) at(row, j) = stored<S>(x);
  }
};

enum class Strides { kContiguous, kPadded, kTwoLevels, kBackwards, kRepeated };
constexpr const char* kStrideNames[] = {"contiguous", "padded", "two levels", "backwards",
                                        "repeated"};

template <class S>
Logits<S> make_logits(int64_t count, int64_t vocabulary, Strides strides, Random& random) {
  Logits<S> out;
  out.rows.count = count;
  out.rows.vocabulary = vocabulary;
  out.rows.inner = count > 0 ? count : 1;
  out.rows.inner_stride = vocabulary;
  int64_t extent = count * vocabulary;
  if (count == 0) {
    out.rows.inner_stride = 0;
  } else if (strides == Strides::kPadded) {
    out.rows.inner_stride = vocabulary + 3;
    extent = (count - 1) * (vocabulary + 3) + vocabulary;
  } else if (strides == Strides::kTwoLevels) {
    out.rows.inner = 2;
    out.rows.inner_stride = vocabulary + 1;
    out.rows.outer_stride = 2 * vocabulary + 7;
    extent = out.rows.offset(count - 1) + vocabulary;
    if (count > 1) extent = std::max(extent, out.rows.offset(count - 2) + vocabulary);
  } else if (strides == Strides::kBackwards) {
    out.rows.inner_stride = -vocabulary;
    out.start = (count - 1) * vocabulary;
  } else if (strides == Strides::kRepeated) {
    out.rows.inner_stride = 0;
    extent = vocabulary;
  }
  out.buffer.assign(static_cast<size_t>(extent), stored<S>(__builtin_nan("")));
  for (int64_t row = 0; row < count; ++row) {
    const double scale = row % 5 == 4 ? 300 : 4;
    for (int64_t j = 0; j < vocabulary; ++j) out.at(row, j) = stored<S>(scale * random.number());
  }
  out.shape = "[" + std::to_string(count) + ", " + std::to_string(vocabulary) + "] " +
              kStrideNames[static_cast<int>(strides)];
  return out;
}

template <class S>
void for_each_logits(Random& random, const std::function<void(Logits<S>&)>& body) {
  std::vector<int64_t> counts{0, 1, 3, 7},
      vocabularies{1, 2, 15, 16, 17, 31, 33, 61, 64, 127, 1023, 1025, 2053};
  if (quick) {
    counts = {0, 7};
    vocabularies = {1, 15, 16, 33, 1025};
    if (emulated) vocabularies = {1, 17, 1025};
  }
  for (const int64_t count : counts) {
    for (const int64_t vocabulary : vocabularies) {
      Logits<S> logits = make_logits<S>(count, vocabulary, Strides::kContiguous, random);
      body(logits);
    }
  }
  for (const auto strides :
       {Strides::kPadded, Strides::kTwoLevels, Strides::kBackwards, Strides::kRepeated}) {
    for (const int64_t vocabulary : {17, 131}) {
      if (emulated && quick && vocabulary == 17) continue;
      Logits<S> logits = make_logits<S>(5, vocabulary, strides, random);
      body(logits);
    }
  }
  // More than one block of work, and long rows.
  Logits<S> many = make_logits<S>(emulated && quick ? 12
                                  : quick           ? 70
                                                    : 150,
                                  1031, Strides::kPadded, random);
  body(many);
  Logits<S> longer = make_logits<S>(2, quick ? 33001 : 70001, Strides::kContiguous, random);
  body(longer);
}

// Rows that are hard: nothing but one logit, all equal, one far above the rest.
template <class S>
void harden(Logits<S>& logits, Random& random) {
  const double inf = __builtin_inf();
  const int64_t vocabulary = logits.rows.vocabulary;
  for (int64_t row = 0; row < logits.rows.count; ++row) {
    switch (row % 7) {
      case 1:
        logits.fill_row(row, -inf);
        logits.at(row, random.below(vocabulary)) = stored<S>(1.5);
        break;
      case 2:
        logits.fill_row(row, -2);
        break;
      case 3:
        for (int64_t j = 0; j < vocabulary; j += 3) logits.at(row, j) = stored<S>(-inf);
        logits.at(row, vocabulary - 1) = stored<S>(60);
        break;
      default:
        break;
    }
  }
}

template <class S, class T>
void log_prob_cases(Logits<S>& logits, Random& random) {
  const int64_t count = logits.rows.count, vocabulary = logits.rows.vocabulary;
  harden(logits, random);
  if (count > 6) logits.fill_row(6, -__builtin_inf());  // no distribution: NaN comes out
  std::vector<int64_t> targets(static_cast<size_t>(count));
  for (int64_t row = 0; row < count; ++row) {
    targets[static_cast<size_t>(row)] = row % 6 == 5 ? -1 : random.below(vocabulary);
  }
  auto up_log_probs = random.numbers<T>(count, 1), up_entropy = random.numbers<T>(count, 1);
  // A row without upstream gradient is not read, so NaN may lie there.
  if (count > 1) up_log_probs[0] = up_entropy[0] = T(0);
  for (const double inverse_temperature : {1.0, 1.0 / 0.7}) {
    if (quick && inverse_temperature == 1) continue;
    for (int options = 0; options < 4; ++options) {
      const bool entropy = options & 1, save = options & 2;
      const std::string shape = logits.shape + (entropy ? ", entropy" : "") +
                                (save ? ", saved" : "") +
                                (inverse_temperature == 1 ? "" : ", temperature");
      check(std::string("token_log_probs") + type_name<S>(), shape, [&](Memory& memory) {
        TokenLogProbsArgs<S, T> args{};
        args.rows = logits.rows;
        args.logits = logits.in(memory);
        args.targets = memory.input(targets);
        args.inverse_temperature = inverse_temperature;
        args.log_probs = memory.output<T>("log_probs", count, Agreement::kNear, kNearness<S>);
        args.entropy =
            memory.output_if<T>(entropy, "entropy", count, Agreement::kNear, kNearness<S>);
        args.saved =
            memory.output_if<double>(save, "saved", 3 * count, Agreement::kNear, kNearness<S>);
        memory.kernels().template logits<S, T>().token_log_probs(args, memory.threads());
      });
    }
    for (int options = 0; options < 4; ++options) {
      const bool with_log_probs = options != 1, with_entropy = options & 1, in_place = options == 3;
      if (in_place && logits.shape.find("contiguous") == std::string::npos) continue;
      const std::string shape = logits.shape + (with_log_probs ? ", log-probs" : "") +
                                (with_entropy ? ", entropy" : "") + (in_place ? ", in place" : "");
      check(std::string("token_log_probs_backward") + type_name<S>(), shape, [&](Memory& memory) {
        std::vector<T> log_probs(static_cast<size_t>(count)), entropy(log_probs);
        std::vector<double> saved(static_cast<size_t>(3 * count));
        TokenLogProbsArgs<S, T> forward{};
        forward.rows = logits.rows;
        forward.logits = logits.buffer.data() + logits.start;
        forward.targets = targets.data();
        forward.inverse_temperature = inverse_temperature;
        forward.log_probs = log_probs.data();
        forward.entropy = with_entropy ? entropy.data() : nullptr;
        forward.saved = saved.data();
        memory.kernels().template logits<S, T>().token_log_probs(forward, 1);

        TokenLogProbsBackwardArgs<S, T> args{};
        args.rows = logits.rows;
        args.targets = memory.input(targets);
        args.inverse_temperature = inverse_temperature;
        args.saved = memory.input(saved);
        args.up_log_probs = memory.input_if(with_log_probs, up_log_probs);
        args.up_entropy = memory.input_if(with_entropy, up_entropy);
        Logits<S> poisoned = logits;
        if (count > 1 && logits.rows.inner_stride != 0) poisoned.fill_row(0, __builtin_nan(""));
        if (in_place) {
          args.gradient =
              memory.in_out("gradient", poisoned.buffer, Agreement::kNear, kGradientNearness<S>);
          args.logits = args.gradient;
        } else {
          args.logits = poisoned.in(memory);
          args.gradient = memory.output<S>("gradient", count * vocabulary, Agreement::kNear,
                                           kGradientNearness<S>);
        }
        memory.kernels().template logits<S, T>().token_log_probs_backward(args, memory.threads());
      });
    }
  }
}

template <class S, class T>
void sample_cases(Logits<S>& logits, Random& random) {
  const int64_t count = logits.rows.count, vocabulary = logits.rows.vocabulary;
  harden(logits, random);
  std::vector<int64_t> row_ids(static_cast<size_t>(count));
  for (int64_t& id : row_ids) id = static_cast<int64_t>(random.bits() >> 1);
  struct Options {
    double inverse_temperature;
    int64_t top_k;
    double top_p;
    bool row_ids;
  };
  const Options all[] = {{1, 0, 1, false},   {1 / 0.7, 0, 1, true},    {0, 0, 1, false},
                         {0, 3, 0.5, true},  {1, 1, 1, false},         {1, 5, 1, true},
                         {1, 0, 0.9, false}, {1 / 1.3, 40, 0.3, true}, {1, 1 << 30, 1e-9, false}};
  // Draws in float may fall on either side of a cut that rounding moved.
  const Agreement agreement = sizeof(S) == 8 ? Agreement::kNear : Agreement::kNone;
  static int64_t turn = 0;
  for (const Options& options : all) {
    if (emulated && quick && turn++ % 4 != 0) continue;  // over the shapes, all have their turn
    char described[96];
    snprintf(described, sizeof described, ", 1/t %g, top_k %lld, top_p %g",
             options.inverse_temperature, static_cast<long long>(options.top_k), options.top_p);
    for (const bool bad : {false, true}) {
      Logits<S> given = logits;
      if (bad) {
        if (count < 3) continue;
        given.at(count - 1, random.below(vocabulary)) = stored<S>(__builtin_nan(""));
        given.at(count - 2, random.below(vocabulary)) = stored<S>(__builtin_inf());
      }
      check(std::string("sample_tokens") + type_name<S>(),
            logits.shape + described + (bad ? ", bad row" : ""), [&](Memory& memory) {
              SampleArgs<S, T> args{};
              args.rows = logits.rows;
              args.logits = given.in(memory);
              args.inverse_temperature = options.inverse_temperature;
              args.top_k = options.top_k;
              args.top_p = options.top_p;
              args.seed = 5;
              args.offset = 1ull << 40;
              args.row_ids = memory.input_if(options.row_ids, row_ids);
              args.ids = memory.output<int64_t>("ids", count, agreement);
              args.log_probs = memory.output<T>("log_probs", count, agreement, kNearness<S>);
              memory.kernels().template logits<S, T>().sample_tokens(args, memory.threads());
              memory.returned("bad_row", static_cast<double>(args.bad_row), Agreement::kBits);
              if (bad != (args.bad_row >= 0)) fail("bad_row is " + std::to_string(args.bad_row));
              if (bad) {
                memory.forget_outputs();
                return;
              }
              for (int64_t row = 0; row < count; ++row) {
                if (args.ids[row] < 0 || args.ids[row] >= vocabulary) fail("id out of range");
                if (!(args.log_probs[row] <= T(1e-5))) {
                  fail("log-prob is " + std::to_string(args.log_probs[row]));
                }
              }
            });
    }
  }
}

template <class S, class T>
void divergence_cases(Logits<S>& logits, Random& random) {
  const int64_t count = logits.rows.count, vocabulary = logits.rows.vocabulary;
  harden(logits, random);
  Logits<S> other = make_logits<S>(count, vocabulary, Strides::kPadded, random);
  for (int64_t row = 3; row < count; row += 7) other.at(row, 0) = stored<S>(-__builtin_inf());
  if (count > 4) logits.fill_row(4, -__builtin_inf());  // no distribution: NaN comes out
  auto upstream = random.numbers<T>(count, 1);
  if (count > 2) upstream[2] = T(0);
  const double inverse_temperature = 1 / 1.3;
  for (const bool save : {false, true}) {
    check(std::string("kl_divergence") + type_name<S>(), logits.shape + (save ? ", saved" : ""),
          [&](Memory& memory) {
            DivergenceArgs<S, T> args{};
            args.a_rows = logits.rows;
            args.b_rows = other.rows;
            args.a = logits.in(memory);
            args.b = other.in(memory);
            args.inverse_temperature = inverse_temperature;
            args.value = memory.output<T>("value", count, Agreement::kNear, kNearness<S>);
            args.saved =
                memory.output_if<double>(save, "saved", 5 * count, Agreement::kNear, kNearness<S>);
            memory.kernels().template logits<S, T>().kl_divergence(args, memory.threads());
          });
  }
  for (int wanted = 0; wanted < 4; ++wanted) {
    const bool a_wanted = wanted & 1, b_wanted = wanted & 2;
    check(std::string("kl_divergence_backward") + type_name<S>(),
          logits.shape + (a_wanted ? ", a" : "") + (b_wanted ? ", b" : ""), [&](Memory& memory) {
            std::vector<T> value(static_cast<size_t>(count));
            std::vector<double> saved(static_cast<size_t>(5 * count));
            DivergenceArgs<S, T> forward{};
            forward.a_rows = logits.rows;
            forward.b_rows = other.rows;
            forward.a = logits.buffer.data() + logits.start;
            forward.b = other.buffer.data();
            forward.inverse_temperature = inverse_temperature;
            forward.value = value.data();
            forward.saved = saved.data();
            memory.kernels().template logits<S, T>().kl_divergence(forward, 1);

            Logits<S> poisoned = logits;  // a row without upstream gradient is not read
            if (count > 2 && logits.rows.inner_stride != 0) {
              poisoned.fill_row(2, __builtin_nan(""));
            }
            DivergenceBackwardArgs<S, T> args{};
            args.a_rows = logits.rows;
            args.b_rows = other.rows;
            args.a = poisoned.in(memory);
            args.b = other.in(memory);
            args.inverse_temperature = inverse_temperature;
            args.saved = memory.input(saved);
            args.upstream = memory.input(upstream);
            args.a_gradient = memory.output_if<S>(a_wanted, "a_gradient", count * vocabulary,
                                                  Agreement::kNear, kGradientNearness<S>);
            args.b_gradient = memory.output_if<S>(b_wanted, "b_gradient", count * vocabulary,
                                                  Agreement::kNear, kGradientNearness<S>);
            memory.kernels().template logits<S, T>().kl_divergence_backward(args, memory.threads());
          });
  }
}

template <class S, class T>
void gather_cases(Logits<S>& logits, Random& random) {
  const int64_t count = logits.rows.count, vocabulary = logits.rows.vocabulary;
  harden(logits, random);
  if (count > 4) {
    logits.fill_row(4, -__builtin_inf());
    logits.at(0, random.below(vocabulary)) = stored<S>(__builtin_nan(""));
  }
  std::vector<int64_t> actions(static_cast<size_t>(count));
  for (int64_t& action : actions) action = random.below(vocabulary);
  check(std::string("max_and_gather") + type_name<S>(), logits.shape, [&](Memory& memory) {
    GatherArgs<S, T> args{};
    args.rows = logits.rows;
    args.q = logits.in(memory);
    args.actions = memory.input(actions);
    args.max = memory.output<T>("max", count, Agreement::kBits);
    args.argmax = memory.output<int64_t>("argmax", count, Agreement::kBits);
    args.chosen = memory.output<T>("chosen", count, Agreement::kBits);
    memory.kernels().template logits<S, T>().max_and_gather(args, memory.threads());
  });
}

template <class S, class T>
void cases_of() {
  Random random(3);
  for_each_logits<S>(random, [&](Logits<S>& logits) { log_prob_cases<S, T>(logits, random); });
  for_each_logits<S>(random, [&](Logits<S>& logits) { sample_cases<S, T>(logits, random); });
  for_each_logits<S>(random, [&](Logits<S>& logits) { divergence_cases<S, T>(logits, random); });
  for_each_logits<S>(random, [&](Logits<S>& logits) { gather_cases<S, T>(logits, random); });
}

}  // namespace

void logit_cases() {
  cases_of<float, float>();
  cases_of<double, double>();
  cases_of<Bfloat16, float>();
  cases_of<Float16, float>();
}

}  // namespace alignzoo::native
