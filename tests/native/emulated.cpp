#include "emulated.h"

#include <cmath>

#include "cuda/device.h"
#include "cuda/row_plan.h"
#include "cuda/sampling_plan.h"
#include "cuda/scan_plan.h"
#include "emulator/emulator.h"

namespace alignzoo::native {

uint32_t take_faults() {
  uint32_t faults = 0;
  expect_success(cuda::take_faults(kQueue, &faults));
  return faults;
}

void expect_faults(uint32_t expected) {
  const uint32_t faults = take_faults();
  if (faults != expected) {
    fail("noted the faults " + std::to_string(faults) + ", not " + std::to_string(expected));
  }
}

void expect_success(cuda::Status status) {
  if (status != 0) fail("a launch gave status " + std::to_string(status));
}

Rows device_rows(const Rows& rows) {
  return {rows.count, rows.offsets ? rows.offsets[rows.count] : rows.width, rows.offsets};
}

void take_turns(int turn) {
  using emulator::Order;
  const Order orders[] = {Order::kForwards, Order::kBackwards, Order::kShuffled};
  emulator::set_order(orders[turn]);
}

namespace {

// Alone they need not be given more than once.
bool is_first_turn() { return Memory::current().setting().turn == 0; }

std::vector<int64_t> some_rows(int64_t count) {
  if (count == 0) return {};
  if (count == 1) return {0};
  return {count / 2, count - 1};
}

template <class T>
void expect_same(const char* name, int64_t row, int64_t count, const T* together, const T* alone) {
  for (int64_t i = 0; together != nullptr && i < count; ++i) {
    if (same_bits(together[i], alone[i])) continue;
    fail("row " + std::to_string(row) + " alone has another " + name + ", at " + std::to_string(i));
  }
}

template <class P>
P* from(P* pointer, int64_t offset) {
  return pointer ? pointer + offset : nullptr;
}

// Row `row` of rows of tokens, as a batch of its own.
template <class T>
ScanArgs<T> alone(const ScanArgs<T>& args, int64_t row) {
  const int64_t begin = args.rows.begin(row);
  ScanArgs<T> one = args;
  one.rows = {1, args.rows.end(row) - begin, nullptr};
  for (const T** x :
       {&one.rewards, &one.values, &one.next_values, &one.log_probs, &one.old_log_probs}) {
    *x = from(*x, begin);
  }
  one.bootstrap = from(one.bootstrap, row);
  one.mask = from(one.mask, begin);
  one.terminated = from(one.terminated, one.terminated_per_row ? row : begin);
  one.truncated = from(one.truncated, one.truncated_per_row ? row : begin);
  return one;
}

template <class T>
using ScanLaunch = cuda::Status (*)(const cuda::Queue&, const ScanArgs<T>&, void*);

template <class T, ScanLaunch<T> kLaunch>
ScanFaults scan(const ScanArgs<T>& given, int) {
  auto run = [](const ScanArgs<T>& args) {
    const int64_t bytes = cuda::scan_workspace_bytes(args.rows, sizeof(T));
    expect_success(kLaunch(kQueue, args, Memory::current().workspace(bytes)));
  };
  ScanArgs<T> args = given;
  args.rows = device_rows(given.rows);
  run(args);
  const uint32_t faults = take_faults();
  if (faults & ~(cuda::kMaskHole | cuda::kTruncatedWithoutValue)) {
    fail("noted the faults " + std::to_string(faults));
  }
  for (const int64_t row : is_first_turn() ? some_rows(args.rows.count) : std::vector<int64_t>()) {
    ScanArgs<T> one = alone(args, row);
    std::vector<T> advantages(static_cast<size_t>(one.rows.width)), returns(advantages);
    one.advantages = args.advantages ? advantages.data() : nullptr;
    one.returns = returns.data();
    run(one);
    const int64_t begin = args.rows.begin(row);
    expect_same("advantage", row, one.rows.width, from(args.advantages, begin), advantages.data());
    expect_same("return", row, one.rows.width, from(args.returns, begin), returns.data());
  }
  take_faults();
  return {faults & cuda::kMaskHole ? 0 : -1, faults & cuda::kTruncatedWithoutValue ? 0 : -1};
}

template <class T>
void td_targets(const TdTargetsArgs<T>& args, int) {
  expect_success(cuda::td_targets(kQueue, args));
  for (const int64_t row : is_first_turn() ? some_rows(args.rows.count) : std::vector<int64_t>()) {
    const int64_t begin = args.rows.begin(row), width = args.rows.width;
    TdTargetsArgs<T> one = args;
    one.rows.count = 1;
    one.rewards += begin;
    one.next_values += begin;
    one.terminated = from(one.terminated, begin);
    std::vector<T> targets(static_cast<size_t>(width));
    one.targets = targets.data();
    expect_success(cuda::td_targets(kQueue, one));
    expect_same("target", row, width, args.targets + begin, targets.data());
  }
  expect_faults(0);
}

template <class T>
void kl_penalty(const ElementwiseArgs<T>& args, int) {
  expect_success(cuda::kl_penalty(kQueue, args));
  expect_faults(0);
}

template <class T>
void huber(const ElementwiseArgs<T>& args, int) {
  expect_success(cuda::huber(kQueue, args));
  expect_faults(0);
}

// Logit row `row` as a batch of its own.
LogitRows one_row(const LogitRows& rows) {
  LogitRows one;
  one.count = 1;
  one.vocabulary = rows.vocabulary;
  return one;
}

template <class S, class T>
void token_log_probs(const TokenLogProbsArgs<S, T>& args, int) {
  auto run = [](const TokenLogProbsArgs<S, T>& given) {
    const int64_t bytes = cuda::token_log_probs_workspace_bytes(given.rows);
    expect_success(cuda::token_log_probs(kQueue, given, Memory::current().workspace(bytes)));
  };
  run(args);
  for (const int64_t row : is_first_turn() ? some_rows(args.rows.count) : std::vector<int64_t>()) {
    TokenLogProbsArgs<S, T> one = args;
    one.rows = one_row(args.rows);
    one.logits += args.rows.offset(row);
    one.targets += row;
    T log_prob, entropy;
    double saved[3];
    one.log_probs = &log_prob;
    one.entropy = args.entropy ? &entropy : nullptr;
    one.saved = args.saved ? saved : nullptr;
    run(one);
    expect_same("log-prob", row, 1, args.log_probs + row, &log_prob);
    expect_same("entropy", row, 1, from(args.entropy, row), &entropy);
    expect_same("saved number", row, 3, from(args.saved, 3 * row), saved);
  }
  expect_faults(0);
}

template <class S, class T>
void token_log_probs_backward(const TokenLogProbsBackwardArgs<S, T>& args, int) {
  const bool in_place = args.gradient == args.logits;
  expect_success(cuda::token_log_probs_backward(kQueue, args));
  for (const int64_t row :
       is_first_turn() && !in_place ? some_rows(args.rows.count) : std::vector<int64_t>()) {
    const int64_t vocabulary = args.rows.vocabulary;
    TokenLogProbsBackwardArgs<S, T> one = args;
    one.rows = one_row(args.rows);
    one.logits += args.rows.offset(row);
    one.targets += row;
    one.saved += 3 * row;
    one.up_log_probs = from(args.up_log_probs, row);
    one.up_entropy = from(args.up_entropy, row);
    std::vector<S> gradient(static_cast<size_t>(vocabulary));
    one.gradient = gradient.data();
    expect_success(cuda::token_log_probs_backward(kQueue, one));
    expect_same("gradient", row, vocabulary, args.gradient + row * vocabulary, gradient.data());
  }
  expect_faults(0);
}

template <class S, class T>
void sample_tokens(SampleArgs<S, T>& args, int) {
  auto run = [](const SampleArgs<S, T>& given) {
    const bool cuts = given.inverse_temperature != 0 &&
                      ((given.top_k > 0 && given.top_k < given.rows.vocabulary) || given.top_p < 1);
    const int64_t bytes = cuda::sample_workspace_bytes(given.rows, sizeof(S), cuts);
    expect_success(cuda::sample_tokens(kQueue, given, Memory::current().workspace(bytes)));
  };
  run(args);
  const uint32_t faults = take_faults();
  if (faults & ~cuda::kNoDistribution) fail("noted the faults " + std::to_string(faults));
  for (const int64_t row : is_first_turn() ? some_rows(args.rows.count) : std::vector<int64_t>()) {
    SampleArgs<S, T> one = args;
    one.rows = one_row(args.rows);
    one.logits += args.rows.offset(row);
    const int64_t number = args.row_ids ? args.row_ids[row] : row;
    one.row_ids = &number;
    int64_t id;
    T log_prob;
    one.ids = &id;
    one.log_probs = &log_prob;
    run(one);
    expect_same("id", row, 1, args.ids + row, &id);
    expect_same("log-prob", row, 1, args.log_probs + row, &log_prob);
  }
  take_faults();
  args.bad_row = -1;
  for (int64_t row = args.rows.count - 1; row >= 0; --row) {
    if (!std::isnan(static_cast<double>(args.log_probs[row]))) continue;
    args.bad_row = row;
    if (args.ids[row] != 0) fail("an id that is not 0 where there is no distribution");
  }
  if ((faults != 0) != (args.bad_row >= 0)) fail("noted the faults " + std::to_string(faults));
}

template <class S, class T>
void kl_divergence(const DivergenceArgs<S, T>& args, int) {
  auto run = [](const DivergenceArgs<S, T>& given) {
    const int64_t bytes = cuda::divergence_workspace_bytes(given.a_rows);
    expect_success(cuda::kl_divergence(kQueue, given, Memory::current().workspace(bytes)));
  };
  run(args);
  const int64_t count = args.a_rows.count;
  for (const int64_t row : is_first_turn() ? some_rows(count) : std::vector<int64_t>()) {
    DivergenceArgs<S, T> one = args;
    one.a_rows = one.b_rows = one_row(args.a_rows);
    one.a += args.a_rows.offset(row);
    one.b += args.b_rows.offset(row);
    T value;
    double saved[5];
    one.value = &value;
    one.saved = args.saved ? saved : nullptr;
    run(one);
    expect_same("value", row, 1, args.value + row, &value);
    expect_same("saved number", row, 5, from(args.saved, 5 * row), saved);
  }
  expect_faults(0);
}

template <class S, class T>
void kl_divergence_backward(const DivergenceBackwardArgs<S, T>& args, int) {
  expect_success(cuda::kl_divergence_backward(kQueue, args));
  const int64_t count = args.a_rows.count, vocabulary = args.a_rows.vocabulary;
  for (const int64_t row : is_first_turn() ? some_rows(count) : std::vector<int64_t>()) {
    DivergenceBackwardArgs<S, T> one = args;
    one.a_rows = one.b_rows = one_row(args.a_rows);
    one.a += args.a_rows.offset(row);
    one.b += args.b_rows.offset(row);
    one.saved += 5 * row;
    one.upstream += row;
    std::vector<S> a(static_cast<size_t>(vocabulary)), b(a);
    one.a_gradient = args.a_gradient ? a.data() : nullptr;
    one.b_gradient = args.b_gradient ? b.data() : nullptr;
    expect_success(cuda::kl_divergence_backward(kQueue, one));
    expect_same("gradient of a", row, vocabulary, from(args.a_gradient, row * vocabulary),
                a.data());
    expect_same("gradient of b", row, vocabulary, from(args.b_gradient, row * vocabulary),
                b.data());
  }
  expect_faults(0);
}

template <class S, class T>
void max_and_gather(const GatherArgs<S, T>& args, int) {
  auto run = [](const GatherArgs<S, T>& given) {
    const int64_t bytes = cuda::gather_workspace_bytes(given.rows);
    expect_success(cuda::max_and_gather(kQueue, given, Memory::current().workspace(bytes)));
  };
  run(args);
  for (const int64_t row : is_first_turn() ? some_rows(args.rows.count) : std::vector<int64_t>()) {
    GatherArgs<S, T> one = args;
    one.rows = one_row(args.rows);
    one.q += args.rows.offset(row);
    one.actions += row;
    T max, chosen;
    int64_t argmax;
    one.max = &max;
    one.argmax = &argmax;
    one.chosen = &chosen;
    run(one);
    expect_same("maximum", row, 1, args.max + row, &max);
    expect_same("argmax", row, 1, args.argmax + row, &argmax);
    expect_same("chosen value", row, 1, args.chosen + row, &chosen);
  }
  expect_faults(0);
}

// What the table of a device does not have in parts is driven whole, by device_cases.
template <class T>
constexpr cpu::TokenKernels<T> kTokens = {scan<T, cuda::gae<T>>,
                                          scan<T, cuda::td_lambda_returns<T>>,
                                          scan<T, cuda::vtrace<T>>,
                                          td_targets<T>,
                                          nullptr,
                                          nullptr,
                                          nullptr,
                                          nullptr,
                                          kl_penalty<T>,
                                          huber<T>};
template <class S, class T>
constexpr cpu::LogitKernels<S, T> kLogits = {
    token_log_probs<S, T>, token_log_probs_backward<S, T>, sample_tokens<S, T>,
    kl_divergence<S, T>,   kl_divergence_backward<S, T>,   max_and_gather<S, T>};

}  // namespace

const cpu::Kernels& emulated_kernels() {
  static constexpr cpu::Kernels table = {"emulated CUDA",          nullptr,
                                         kTokens<float>,           kTokens<double>,
                                         kLogits<float, float>,    kLogits<double, double>,
                                         kLogits<Bfloat16, float>, kLogits<Float16, float>};
  return table;
}

}  // namespace alignzoo::native
