// Advantages, returns, whitening and group statistics.
#include <algorithm>

#include "harness.h"

namespace alignzoo::native {
namespace {

template <class T>
constexpr double kNearness = sizeof(T) == 4 ? 2e-5 : 1e-12;

std::vector<uint8_t> both(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.empty()) return b;
  std::vector<uint8_t> out(a.size());
  for (size_t i = 0; i < a.size(); ++i) out[i] = a[i] && b[i];
  return out;
}

// The optional arguments of the scans.
struct ScanOptions {
  bool bootstrap, next_values, terminated, truncated, terminated_per_row, truncated_per_row;
  MaskMode mask_mode;
  std::string name;
};

std::vector<ScanOptions> scan_options() {
  return {
      {false, false, false, false, false, false, MaskMode::kCarry, "carry"},
      {true, false, false, false, false, false, MaskMode::kCarry, "carry, bootstrap"},
      {true, false, true, false, false, false, MaskMode::kCarry, "carry, terminated"},
      {true, true, true, true, false, false, MaskMode::kCarry, "carry, all flags"},
      {false, true, false, true, true, true, MaskMode::kCarry, "carry, truncated"},
      {true, false, true, true, true, true, MaskMode::kCarry, "carry, flags per row"},
      {true, false, false, false, false, false, MaskMode::kZero, "zero, bootstrap"},
      {true, true, true, true, false, true, MaskMode::kZero, "zero, all flags"},
      {true, false, false, false, false, false, MaskMode::kPrefix, "prefix, bootstrap"},
      {true, false, false, true, false, false, MaskMode::kPrefix, "prefix, truncated"},
  };
}

enum class Scan { kGae, kDiscountedReturns, kTdLambdaReturns, kVtrace };
constexpr const char* kScanNames[] = {"gae", "discounted_returns", "td_lambda_returns", "vtrace"};

template <class T>
ScanFaults run_scan(Scan scan, const Memory& memory, const ScanArgs<T>& args) {
  const cpu::TokenKernels<T>& kernels = memory.kernels().template tokens<T>();
  if (scan == Scan::kGae) return kernels.gae(args, memory.threads());
  if (scan == Scan::kVtrace) return kernels.vtrace(args, memory.threads());
  return kernels.td_lambda_returns(args, memory.threads());
}

template <class T>
void scan_cases(const Tokens& tokens, Random& random) {
  const int64_t n = tokens.size(), rows = tokens.count;
  const auto rewards = random.numbers<T>(n, 1), values = random.numbers<T>(n, 2),
             next_values = random.numbers<T>(n, 2), bootstrap = random.numbers<T>(rows, 2),
             log_probs = random.numbers<T>(n, 0.5);
  auto old_log_probs = random.numbers<T>(n, 0.5);
  for (size_t i = 5; i < old_log_probs.size(); i += 101) old_log_probs[i] = T(-30);
  const auto terminated = random.flags(n, 5), truncated = random.flags(n, 6);
  const auto row_terminated = random.flags(rows, 2), row_truncated = random.flags(rows, 2);
  const std::vector<uint8_t> live = tokens.live_rows(), mask = tokens.mask;
  for (const ScanOptions& options : scan_options()) {
    for (const Scan scan :
         {Scan::kGae, Scan::kDiscountedReturns, Scan::kTdLambdaReturns, Scan::kVtrace}) {
      const bool with_values = scan != Scan::kDiscountedReturns,
                 with_ratios = scan == Scan::kVtrace;
      const bool with_advantages = scan == Scan::kGae || scan == Scan::kVtrace;
      if (!with_values && options.next_values) continue;
      check(kScanNames[static_cast<int>(scan)] + std::string(type_name<T>()),
            tokens.shape + ", " + options.name, [&](Memory& memory) {
              ScanArgs<T> args{};
              args.rows = tokens.rows(memory);
              args.rewards = memory.input_where(mask, rewards);
              args.values = with_values ? memory.input_where(mask, values) : nullptr;
              args.mask = tokens.mask_in(memory);
              if (options.bootstrap) args.bootstrap = memory.input_where(live, bootstrap);
              if (options.next_values) {
                args.next_values =  // read where truncated only
                    options.truncated_per_row
                        ? memory.input_where(mask, next_values)
                        : memory.input_where(both(mask, truncated), next_values);
              }
              if (options.terminated) {
                args.terminated =
                    memory.input(options.terminated_per_row ? row_terminated : terminated);
              }
              if (options.truncated) {
                args.truncated =
                    memory.input(options.truncated_per_row ? row_truncated : truncated);
              }
              args.terminated_per_row = options.terminated_per_row;
              args.truncated_per_row = options.truncated_per_row;
              args.mask_mode = options.mask_mode;
              args.gamma = T(0.97);
              args.lambda = with_values ? T(0.9) : T(1);
              if (with_ratios) {
                args.log_probs = memory.input_where(mask, log_probs);
                args.old_log_probs = memory.input_where(mask, old_log_probs);
                args.clip_rho = T(1);
                args.clip_c = T(1.1);
                args.clip_pg_rho = T(2);
              }
              args.advantages = memory.output_if<T>(with_advantages, "advantages", n,
                                                    Agreement::kNear, kNearness<T>);
              args.returns = memory.output<T>("returns", n, Agreement::kNear, kNearness<T>);
              const ScanFaults faults = run_scan(scan, memory, args);
              const bool faulty = faults.hole_row >= 0 || faults.cut_row >= 0;
              memory.returned("faulty", faulty, Agreement::kBits);
              if (!emulated) {  // a device does not say which row it is
                memory.returned("hole_row", static_cast<double>(faults.hole_row), Agreement::kBits);
                memory.returned("cut_row", static_cast<double>(faults.cut_row), Agreement::kBits);
              }
              if (faulty) {
                memory.forget_outputs();
                return;
              }
              expect_zero_under_mask("advantages", tokens, args.advantages);
              expect_zero_under_mask("returns", tokens, args.returns);
            });
    }
  }
}

// What has neither mask nor offsets: every padded layout once.
template <class T>
void td_target_cases(const Tokens& tokens, Random& random) {
  if (tokens.masked || !tokens.offsets.empty()) return;
  const int64_t n = tokens.size();
  const auto rewards = random.numbers<T>(n, 1), next_values = random.numbers<T>(n, 2);
  const auto terminated = random.flags(n, 9);
  for (const int64_t n_step : {1, 2, 5, 16, 17, 1000}) {
    for (const bool flags : {false, true}) {
      check(std::string("td_targets") + type_name<T>(),
            tokens.shape + ", n_step " + std::to_string(n_step) + (flags ? ", terminated" : ""),
            [&](Memory& memory) {
              TdTargetsArgs<T> args{};
              args.rows = tokens.rows(memory);
              args.rewards = memory.input(rewards);
              args.next_values = memory.input(next_values);
              args.terminated = memory.input_if(flags, terminated);
              args.gamma = T(0.97);
              args.n_step = n_step;
              args.targets = memory.output<T>("targets", n, Agreement::kNear, kNearness<T>);
              memory.kernels().template tokens<T>().td_targets(args, memory.threads());
            });
    }
  }
}

template <class T>
void whiten_cases(const Tokens& tokens, Random& random) {
  if (emulated) return;  // see device_cases
  const int64_t n = tokens.size();
  const auto x = random.numbers<T>(n, 3);
  check(std::string("moments") + type_name<T>(), tokens.shape, [&](Memory& memory) {
    const Rows rows = tokens.rows(memory);
    const T* data = memory.input_where(tokens.mask, x);
    const Moments moments = memory.kernels().template tokens<T>().moments(
        rows, data, tokens.mask_in(memory), memory.threads());
    if (moments.count != static_cast<double>(tokens.num_kept())) fail("count is wrong");
    memory.returned("mean", moments.mean, Agreement::kNear, 1e-12);
    memory.returned("m2", moments.m2, Agreement::kNear, 1e-12);
  });
  check(std::string("whiten") + type_name<T>(), tokens.shape, [&](Memory& memory) {
    WhitenArgs<T> args{};
    args.rows = tokens.rows(memory);
    args.x = memory.input_where(tokens.mask, x);
    args.mask = tokens.mask_in(memory);
    args.out = memory.output<T>("whitened", n, Agreement::kNear, kNearness<T>);
    args.shift = 0.3;
    args.scale = 1.7;
    args.offset = 0.1;
    memory.kernels().template tokens<T>().whiten(args, memory.threads());
    expect_zero_under_mask("whitened", tokens, args.out);
  });
}

template <class T>
void group_cases() {
  Random random(7);
  for (const int64_t size : {0, 1, 2, 16, 17, 257}) {
    auto scores = random.numbers<T>(size, 4);
    std::vector<int64_t> ids(static_cast<size_t>(size));
    for (int64_t& id : ids) id = random.below(size / 4 + 1) - 2;
    for (int64_t i = 0; i < size; i += 5) {
      scores[static_cast<size_t>(i)] = i % 2 ? static_cast<T>(__builtin_nan("")) : T(1);
    }
    for (const auto mode :
         {GroupMode::kGrpo, GroupMode::kDrGrpo, GroupMode::kRloo, GroupMode::kBatchStd}) {
      const std::string shape =
          "[" + std::to_string(size) + "], mode " + std::to_string(static_cast<int>(mode));
      check_host(std::string("group_advantages") + type_name<T>(), shape, [&](Memory& memory) {
        GroupArgs<T> args{};
        args.size = size;
        args.scores = memory.input(scores);
        args.group_ids = memory.input(ids);
        args.mode = mode;
        args.eps = 1e-6;
        args.ddof = 1;
        args.advantages = memory.output<T>("advantages", size, Agreement::kBits);
        cpu::group_advantages(args);
      });
    }
  }
}

template <class T>
void cases_of() {
  for_each_tokens([](const Tokens& tokens, Random& random) {
    scan_cases<T>(tokens, random);
    td_target_cases<T>(tokens, random);
    whiten_cases<T>(tokens, random);
  });
  if (!emulated) group_cases<T>();
}

}  // namespace

void token_cases() {
  for_each_tokens([](const Tokens& tokens, Random&) {
    if (emulated) return;
    check("count_mask", tokens.shape, [&](Memory& memory) {
      const Rows rows = tokens.rows(memory);
      const MaskCounts counts = memory.kernels().count_mask(rows, tokens.mask_in(memory));
      const std::vector<uint8_t> live = tokens.live_rows();
      if (counts.tokens != tokens.num_kept()) fail("tokens is wrong");
      if (counts.rows != std::count(live.begin(), live.end(), 1)) fail("rows is wrong");
    });
  });
  cases_of<float>();
  cases_of<double>();
}

}  // namespace alignzoo::native
