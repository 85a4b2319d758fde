// What a device computes whole, with its counts and denominators found there: whitening, group
// statistics and losses, against what the bindings make of the CPU's kernels.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "cuda/loss_plan.h"
#include "cuda/statistics_plan.h"
#include "emulated.h"

namespace alignzoo::native {
namespace {

template <class T>
constexpr double kNearness = sizeof(T) == 4 ? 1e-5 : 1e-12;
template <class T>
constexpr double kSumNearness = sizeof(T) == 4 ? 2e-6 : 1e-12;

const double kNan = std::nan("");

bool on_device(const Memory& memory) { return memory.setting().kernels == &emulated_kernels(); }

template <class T>
void whiten(Memory& memory, cuda::WhitenCall<T> call) {
  if (on_device(memory)) {
    call.rows = device_rows(call.rows);
    void* workspace = memory.workspace(cuda::whiten_workspace_bytes(call.rows));
    expect_success(cuda::masked_whiten(kQueue, call, workspace));
    return;
  }
  const cpu::TokenKernels<T>& kernels = memory.kernels().template tokens<T>();
  if (!call.moments_given) {
    const Moments moments = kernels.moments(call.rows, call.x, call.mask, 1);
    call.moments[0] = moments.count;
    call.moments[1] = moments.mean;
    call.moments[2] = moments.m2;
  }
  const double freedom = call.moments[0] - static_cast<double>(call.ddof);
  const double scale = freedom > 0 ? 1 / std::sqrt(call.moments[2] / freedom + call.eps) : 0;
  const double offset = call.shift_mean || freedom <= 0 ? 0 : call.moments[1];
  kernels.whiten({call.rows, call.x, call.mask, call.out, call.moments[1], scale, offset}, 1);
}

template <class T>
void whiten_cases(const Tokens& tokens, Random& random) {
  const int64_t n = tokens.size();
  const auto x = random.numbers<T>(n, 3);
  for (int options = 0; options < 4; ++options) {
    const bool given = options & 1, shift = options & 2;
    if (quick && n > 5000 && options != 2) continue;
    check(std::string("masked_whiten") + type_name<T>(),
          tokens.shape + (given ? ", moments" : "") + (shift ? ", shift" : ""),
          [&](Memory& memory) {
            cuda::WhitenCall<T> call{};
            call.rows = tokens.rows(memory);
            call.x = memory.input_where(tokens.mask, x);
            call.mask = tokens.mask_in(memory);
            call.moments_given = given;
            call.shift_mean = shift;
            call.ddof = 1;
            call.eps = 1e-8;
            call.moments = given ? const_cast<double*>(memory.input(
                                       std::vector<double>{static_cast<double>(n), 0.25, 7.5}))
                                 : memory.output<double>("moments", 3, Agreement::kNear, 1e-12);
            call.out = memory.output<T>("whitened", n, Agreement::kNear, kNearness<T>);
            whiten(memory, call);
            if (on_device(memory)) expect_faults(0);
            expect_zero_under_mask("whitened", tokens, call.out);
          });
  }
}

template <class T>
void group_cases() {
  Random random(7);
  std::vector<int64_t> sizes{0, 1, 2, 16, 17, 33, 257};
  if (!quick) sizes.insert(sizes.end(), {1025, 40009});
  for (const int64_t size : sizes) {
    for (const int64_t num_groups : {int64_t{1}, size / 4 + 1, int64_t{1} << 40}) {
      auto scores = random.numbers<T>(size, 4);
      std::vector<int64_t> ids(static_cast<size_t>(size)), order(ids);
      for (int64_t& id : ids) id = random.below(num_groups) - 2;
      for (int64_t i = 0; i < size; i += 5) {
        scores[static_cast<size_t>(i)] = i % 2 ? static_cast<T>(kNan) : T(1);
      }
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return ids[static_cast<size_t>(a)] < ids[static_cast<size_t>(b)];
      });
      for (const auto mode :
           {GroupMode::kGrpo, GroupMode::kDrGrpo, GroupMode::kRloo, GroupMode::kBatchStd}) {
        check(std::string("group_advantages") + type_name<T>(),
              "[" + std::to_string(size) + "], groups " + std::to_string(num_groups) + ", mode " +
                  std::to_string(static_cast<int>(mode)),
              [&](Memory& memory) {
                GroupArgs<T> args{};
                args.size = size;
                args.scores = memory.input(scores);
                args.group_ids = memory.input(ids);
                args.mode = mode;
                args.eps = 1e-6;
                args.ddof = 1;
                args.advantages =
                    memory.output<T>("advantages", size, Agreement::kNear, kNearness<T>);
                if (!on_device(memory)) return cpu::group_advantages(args);
                void* workspace = memory.workspace(cuda::group_workspace_bytes(size));
                expect_success(
                    cuda::group_advantages<T>(kQueue, {args, memory.input(order)}, workspace));
                expect_faults(0);
              });
      }
    }
  }
}

// Where the scalar results of a loss go; null where it is left out.
template <class T>
T* scalar(Memory& memory, bool wanted, const char* name, double nearness) {
  return memory.output_if<T>(wanted, name, 1, Agreement::kNear, nearness);
}
template <class T>
void put(T* to, double value) {
  if (to) *to = static_cast<T>(value);
}

// What the sum is divided by: the caller's number, one on the device, or the batch's own count.
enum class Divisor { kOwn, kNumber, kOnDevice };

template <class Call>
void set_divisor(Memory& memory, Divisor divisor, Call& call) {
  call.denominator_given = divisor != Divisor::kOwn;
  call.given_denominator = divisor == Divisor::kNumber ? 2.7 : kNan;
  call.denominator =
      divisor == Divisor::kOnDevice ? memory.input(std::vector<double>{2.7}) : nullptr;
}

template <class T>
void policy_loss(Memory& memory, cuda::PolicyLossCall<T> call) {
  PolicyLossArgs<T>& args = call.args;
  if (on_device(memory)) {
    args.rows = device_rows(args.rows);
    args.gradient_scale = kNan;  // not read
    void* workspace =
        memory.workspace(cuda::policy_loss_workspace_bytes(args.rows, args.level, args.row_means));
    expect_success(cuda::policy_loss(kQueue, call, workspace));
    expect_faults(0);
    return;
  }
  const MaskCounts counts = memory.kernels().count_mask(args.rows, args.mask);
  const double tokens = static_cast<double>(counts.tokens);
  double divisor = call.aggregate == Aggregate::kTokenMean      ? tokens
                   : call.aggregate == Aggregate::kSequenceMean ? static_cast<double>(counts.rows)
                                                                : 1;
  if (counts.tokens == 0) divisor = kNan;  // a ValueError of the bindings
  if (call.denominator_given) divisor = 2.7;
  args.gradient_scale = 1 / divisor;
  const LossSums sums = memory.kernels().template tokens<T>().policy_loss(args, 1);
  const double some = counts.tokens > 0 ? tokens : 1;
  put(call.loss, sums.loss / divisor);
  put(call.clip_frac, sums.clipped / some);
  put(call.approx_kl, sums.kl / some);
  put(call.ratio_max, sums.ratio_max);
  put(call.ess, counts.tokens > 0 ? sums.ratio * sums.ratio / (some * sums.ratio_squared) : 0);
}

template <class T>
void policy_cases(const Tokens& tokens, Random& random) {
  const int64_t n = tokens.size();
  const auto log_probs = random.numbers<T>(n, 0.4);
  auto old_log_probs = random.numbers<T>(n, 0.4);
  for (int64_t i = 3; i < n; i += 97) {
    old_log_probs[static_cast<size_t>(i)] = i % 2 ? T(-30) : T(30);  // beyond the clamp
  }
  const auto advantages = random.numbers<T>(n, 2), weights = random.numbers<T>(n, 1);
  const bool live = tokens.num_kept() > 0;
  uint64_t choice = random.bits();
  for (int kind = 0; kind < 3; ++kind) {
    for (const auto level : {Level::kToken, Level::kSequence}) {
      for (const auto aggregate : {Aggregate::kTokenMean, Aggregate::kSequenceMean,
                                   Aggregate::kSequenceSumNorm, Aggregate::kTokenSum}) {
        // All combinations of the rest are taken in turn.
        choice = choice * 6364136223846793005u + 1442695040888963407u;
        const uint64_t drawn = choice >> 40;
        if (quick && (n > 5000 ? drawn % 6 != 0 : drawn % 3 != 0)) continue;
        const bool gradient = drawn & 1, weighted = drawn & 2, dual = kind == 0 && drawn & 4,
                   scalars = drawn & 24;
        const Divisor divisor = aggregate == Aggregate::kSequenceSumNorm
                                    ? static_cast<Divisor>(1 + (drawn >> 5 & 1))
                                    : static_cast<Divisor>((drawn >> 5) % 3);
        const std::string shape = tokens.shape + ", kind " + std::to_string(kind) + ", level " +
                                  std::to_string(static_cast<int>(level)) + ", aggregate " +
                                  std::to_string(static_cast<int>(aggregate)) + ", divisor " +
                                  std::to_string(static_cast<int>(divisor)) +
                                  (gradient ? ", gradient" : "") + (weighted ? ", weights" : "") +
                                  (dual ? ", dual" : "") + (scalars ? "" : ", no statistics");
        // Nothing to divide by: a ValueError on the CPU, and a loss of NaN on a device.
        const bool lost = !live && divisor == Divisor::kOwn;
        check(std::string("policy_loss") + type_name<T>(), shape, [&](Memory& memory) {
          cuda::PolicyLossCall<T> call{};
          PolicyLossArgs<T>& args = call.args;
          args.rows = tokens.rows(memory);
          args.log_probs = memory.input_where(tokens.mask, log_probs);
          args.old_log_probs = memory.input_where(tokens.mask, old_log_probs);
          args.advantages = memory.input_where(tokens.mask, advantages);
          if (weighted) args.behaviour_weights = memory.input_where(tokens.mask, weights);
          args.mask = tokens.mask_in(memory);
          args.kind = kind;
          args.level = level;
          args.row_means = aggregate == Aggregate::kSequenceMean;
          args.low = T(0.8);
          args.high = T(1.28);
          args.dual = dual ? T(3) : static_cast<T>(HUGE_VAL);
          args.gradient =
              memory.output_if<T>(gradient, "gradient", n, Agreement::kNear, kNearness<T>);
          call.aggregate = aggregate;
          set_divisor(memory, divisor, call);
          call.loss = scalar<T>(memory, true, "loss", kSumNearness<T>);
          call.clip_frac = scalar<T>(memory, scalars, "clip_frac", 2e-7);
          call.approx_kl = scalar<T>(memory, scalars, "approx_kl", kSumNearness<T>);
          call.ratio_max = scalar<T>(memory, scalars, "ratio_max", kSumNearness<T>);
          call.ess = scalar<T>(memory, scalars, "ess", kSumNearness<T>);
          policy_loss(memory, call);
          expect_zero_under_mask("gradient", tokens, args.gradient);
          if (lost && *call.loss == *call.loss) fail("a loss over no tokens is no NaN");
          if (lost) memory.forget_outputs();
        });
      }
    }
  }
}

template <class T>
void value_loss(Memory& memory, cuda::ValueLossCall<T> call) {
  ValueLossArgs<T>& args = call.args;
  if (on_device(memory)) {
    args.rows = device_rows(args.rows);
    args.gradient_scale = kNan;
    void* workspace = memory.workspace(cuda::value_loss_workspace_bytes(args.rows));
    expect_success(cuda::value_loss(kQueue, call, workspace));
    expect_faults(0);
    return;
  }
  const double tokens =
      static_cast<double>(memory.kernels().count_mask(args.rows, args.mask).tokens);
  const double divisor = call.denominator_given ? 2.7 : tokens;
  args.gradient_scale = 1 / divisor;
  const LossSums sums = memory.kernels().template tokens<T>().value_loss(args, 1);
  put(call.loss, sums.loss / divisor);
  put(call.clip_frac, sums.clipped / (tokens > 0 ? tokens : 1));
}

template <class T>
void value_cases(const Tokens& tokens, Random& random) {
  const int64_t n = tokens.size();
  const auto values = random.numbers<T>(n, 2), old_values = random.numbers<T>(n, 2),
             returns = random.numbers<T>(n, 2);
  for (const bool clip : {false, true}) {
    for (const auto divisor : {Divisor::kOwn, Divisor::kNumber, Divisor::kOnDevice}) {
      const bool gradient = clip || divisor == Divisor::kOwn, stats = divisor != Divisor::kNumber;
      if (quick && n > 5000 && divisor != Divisor::kOwn) continue;
      const bool lost = tokens.num_kept() == 0 && divisor == Divisor::kOwn;
      check(std::string("value_loss") + type_name<T>(),
            tokens.shape + (clip ? ", clip" : "") + ", divisor " +
                std::to_string(static_cast<int>(divisor)),
            [&](Memory& memory) {
              cuda::ValueLossCall<T> call{};
              ValueLossArgs<T>& args = call.args;
              args.rows = tokens.rows(memory);
              args.values = memory.input_where(tokens.mask, values);
              if (clip) args.old_values = memory.input_where(tokens.mask, old_values);
              args.returns = memory.input_where(tokens.mask, returns);
              args.mask = tokens.mask_in(memory);
              args.clip = clip;
              args.range = T(0.2);
              args.gradient =
                  memory.output_if<T>(gradient, "gradient", n, Agreement::kNear, kNearness<T>);
              set_divisor(memory, divisor, call);
              call.loss = scalar<T>(memory, true, "loss", kSumNearness<T>);
              call.clip_frac = scalar<T>(memory, stats, "clip_frac", 2e-7);
              value_loss(memory, call);
              expect_zero_under_mask("gradient", tokens, args.gradient);
              if (lost && *call.loss == *call.loss) fail("a loss over no tokens is no NaN");
              if (lost) memory.forget_outputs();
            });
    }
  }
}

template <class T>
void cases_of() {
  for_each_tokens([](const Tokens& tokens, Random& random) {
    whiten_cases<T>(tokens, random);
    policy_cases<T>(tokens, random);
    value_cases<T>(tokens, random);
  });
  group_cases<T>();
}

}  // namespace

void device_cases() {
  cases_of<float>();
  cases_of<double>();
}

}  // namespace alignzoo::native
