// The losses and their gradients.
#include "harness.h"
#include "math/losses.h"

namespace alignzoo::native {
namespace {

template <class T>
constexpr double kNearness = sizeof(T) == 4 ? 1e-5 : 1e-12;
// Sums run in float lanes for a few steps.
template <class T>
constexpr double kSumNearness = sizeof(T) == 4 ? 2e-6 : 1e-12;

void record(Memory& memory, const LossSums& sums, double nearness) {
  memory.returned("loss", sums.loss, Agreement::kNear, nearness);
  memory.returned("clipped", sums.clipped, Agreement::kBits);
  memory.returned("kl", sums.kl, Agreement::kNear, nearness);
  memory.returned("ratio", sums.ratio, Agreement::kNear, nearness);
  memory.returned("ratio_squared", sums.ratio_squared, Agreement::kNear, nearness);
  memory.returned("ratio_max", sums.ratio_max, Agreement::kNear, nearness);
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
  for (int kind = 0; kind < 3; ++kind) {
    for (const auto level : {Level::kToken, Level::kSequence}) {
      // All combinations of the rest are taken in turn.
      const uint64_t choice = random.bits();
      for (uint64_t i = 0; i < (n < 2000 && !quick ? 4 : 2); ++i) {
        const bool row_means = (choice + i) & 1, gradient = (choice / 2 + i) % 3 != 0,
                   weighted = (choice / 8 + i / 2) & 1, dual = kind == 0 && (choice / 16 + i) & 1;
        const std::string shape =
            tokens.shape + ", kind " + std::to_string(kind) + ", level " +
            std::to_string(static_cast<int>(level)) + (row_means ? ", row means" : "") +
            (gradient ? ", gradient" : "") + (weighted ? ", weights" : "") + (dual ? ", dual" : "");
        check(std::string("policy_loss") + type_name<T>(), shape, [&](Memory& memory) {
          PolicyLossArgs<T> args{};
          args.rows = tokens.rows(memory);
          args.log_probs = memory.input_where(tokens.mask, log_probs);
          args.old_log_probs = memory.input_where(tokens.mask, old_log_probs);
          args.advantages = memory.input_where(tokens.mask, advantages);
          if (weighted) args.behaviour_weights = memory.input_where(tokens.mask, weights);
          args.mask = tokens.mask_in(memory);
          args.kind = kind;
          args.level = level;
          args.row_means = row_means;
          args.low = T(0.8);
          args.high = T(1.28);
          args.dual = dual ? T(3) : static_cast<T>(__builtin_inf());
          args.gradient_scale = 0.37;
          args.gradient =
              memory.output_if<T>(gradient, "gradient", n, Agreement::kNear, kNearness<T>);
          record(memory, memory.kernels().template tokens<T>().policy_loss(args, memory.threads()),
                 kSumNearness<T>);
          expect_zero_under_mask("gradient", tokens, args.gradient);
        });
      }
    }
  }
}

template <class T>
void value_cases(const Tokens& tokens, Random& random) {
  const int64_t n = tokens.size();
  const auto values = random.numbers<T>(n, 2), old_values = random.numbers<T>(n, 2),
             returns = random.numbers<T>(n, 2);
  for (const bool clip : {false, true}) {
    for (const bool gradient : {false, true}) {
      const std::string shape =
          tokens.shape + (clip ? ", clip" : "") + (gradient ? ", gradient" : "");
      check(std::string("value_loss") + type_name<T>(), shape, [&](Memory& memory) {
        ValueLossArgs<T> args{};
        args.rows = tokens.rows(memory);
        args.values = memory.input_where(tokens.mask, values);
        if (clip) args.old_values = memory.input_where(tokens.mask, old_values);
        args.returns = memory.input_where(tokens.mask, returns);
        args.mask = tokens.mask_in(memory);
        args.clip = clip;
        args.range = T(0.2);
        args.gradient_scale = 0.37;
        args.gradient =
            memory.output_if<T>(gradient, "gradient", n, Agreement::kNear, kNearness<T>);
        const LossSums sums =
            memory.kernels().template tokens<T>().value_loss(args, memory.threads());
        memory.returned("loss", sums.loss, Agreement::kNear, kSumNearness<T>);
        memory.returned("clipped", sums.clipped, Agreement::kBits);
        expect_zero_under_mask("gradient", tokens, args.gradient);
      });
    }
  }
}

template <class T>
void elementwise_cases() {
  Random random(11);
  std::vector<int64_t> sizes{0, 1, 15, 16, 17, 31, 33, 127, 1031, 2 * 16384 + 7};
  if (!quick) sizes.push_back(5 * 16384 + 13);
  for (const int64_t size : sizes) {
    auto x = random.numbers<T>(size, 3);
    const auto y = random.numbers<T>(size, 3);
    if (size == 127) {  // a size of their own, because they set the scale of what is near
      const double extremes[] = {__builtin_nan(""), __builtin_inf(), -__builtin_inf(), 1e30, -25};
      for (size_t i = 0; i < 5; ++i) x[17 * i + 3] = static_cast<T>(extremes[i]);
    }
    for (const bool gradient : {false, true}) {
      const std::string shape = "[" + std::to_string(size) + "]" + (gradient ? ", gradient" : "");
      auto args_in = [&](Memory& memory, bool two) {
        ElementwiseArgs<T> args{};
        args.size = size;
        args.x = memory.input(x);
        args.y = memory.input_if(two, y);
        args.delta = T(0.7);
        args.value = memory.output<T>("value", size, Agreement::kNear, kNearness<T>);
        args.gradient =
            memory.output_if<T>(gradient, "gradient", size, Agreement::kNear, kNearness<T>);
        return args;
      };
      for (int estimator = 0; estimator < 5; ++estimator) {
        check(std::string("kl_penalty") + type_name<T>(),
              shape + ", estimator " + std::to_string(estimator), [&](Memory& memory) {
                ElementwiseArgs<T> args = args_in(memory, true);
                args.estimator = estimator;
                memory.kernels().template tokens<T>().kl_penalty(args, memory.threads());
              });
      }
      check(std::string("huber") + type_name<T>(), shape, [&](Memory& memory) {
        memory.kernels().template tokens<T>().huber(args_in(memory, false), memory.threads());
      });
    }
  }
}

template <class T>
void cases_of() {
  for_each_tokens([](const Tokens& tokens, Random& random) {
    if (emulated) return;  // see device_cases
    policy_cases<T>(tokens, random);
    value_cases<T>(tokens, random);
  });
  elementwise_cases<T>();
}

}  // namespace

void loss_cases() {
  cases_of<float>();
  cases_of<double>();
}

}  // namespace alignzoo::native
