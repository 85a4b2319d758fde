// Targets, row ids and logits that only a device can find to be wrong.
#include <climits>

#include "cuda/row_plan.h"
#include "cuda/sampling_plan.h"
#include "emulated.h"

namespace alignzoo::native {
namespace {

template <class S>
S stored(double x) {
  return static_cast<S>(x);
}
template <>
Bfloat16 stored(double x) {
  const float narrow = static_cast<float>(x);
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  return {static_cast<uint16_t>(bits >> 16)};
}

template <class S, class T>
void row_faults() {
  for (const int64_t vocabulary : {7, 1031, 40009}) {
    constexpr int64_t kRows = 5;
    Random random(6);
    std::vector<S> logits(static_cast<size_t>(kRows * vocabulary));
    for (S& x : logits) x = stored<S>(3 * random.number());
    const std::vector<int64_t> good{0, vocabulary - 1, 1, 2, 3};
    const LogitRows rows{kRows, vocabulary, kRows, 0, vocabulary};
    for (const int64_t wrong : {vocabulary, int64_t{-1}, int64_t{1} << 40, INT64_MIN, INT64_MAX}) {
      std::vector<int64_t> bad = good;
      bad[1] = bad[3] = wrong;
      auto is_bad = [](int64_t row) { return row == 1 || row == 3; };
      const std::string shape =
          "[5, " + std::to_string(vocabulary) + "], target " + std::to_string(wrong);
      check_emulated(std::string("token_log_probs") + type_name<S>(), shape, [&](Memory& memory) {
        TokenLogProbsArgs<S, T> args{};
        args.rows = rows;
        args.logits = memory.input(logits);
        args.inverse_temperature = 1;
        args.ignore_index = -100;
        std::vector<T> log_probs[2], entropies[2];
        std::vector<double> saved[2];
        for (const std::vector<int64_t>* targets :
             {&good, static_cast<const std::vector<int64_t>*>(&bad)}) {
          args.targets = memory.input(*targets);
          args.log_probs = memory.output<T>("log_probs", kRows, Agreement::kBits);
          args.entropy = memory.output<T>("entropy", kRows, Agreement::kBits);
          args.saved = memory.output<double>("saved", 3 * kRows, Agreement::kBits);
          void* workspace = memory.workspace(cuda::token_log_probs_workspace_bytes(rows));
          expect_success(cuda::token_log_probs(kQueue, args, workspace));
          expect_faults(targets == &bad ? uint32_t{cuda::kTargetOutOfRange} : 0u);
          const int which = targets == &bad;
          log_probs[which].assign(args.log_probs, args.log_probs + kRows);
          entropies[which].assign(args.entropy, args.entropy + kRows);
        }
        for (int64_t row = 0; row < kRows; ++row) {
          if (is_bad(row)) {
            expect_nan("log_probs", row, row + 1, log_probs[1].data());
          } else {
            expect_equal("log_probs", row, row + 1, log_probs[1].data(), log_probs[0].data());
            expect_equal("entropy", row, row + 1, entropies[1].data(), entropies[0].data());
          }
        }
        // Behind it the gradient, of which no row may lie outside.
        TokenLogProbsBackwardArgs<S, T> back{};
        back.rows = rows;
        back.logits = args.logits;
        back.targets = args.targets;
        back.inverse_temperature = 1;
        back.ignore_index = -100;
        back.saved = args.saved;
        back.up_log_probs = memory.input(std::vector<T>(kRows, T(1)));
        back.gradient = memory.output<S>("gradient", kRows * vocabulary, Agreement::kBits);
        expect_success(cuda::token_log_probs_backward(kQueue, back));
        take_faults();
      });
      check_emulated(std::string("max_and_gather") + type_name<S>(), shape, [&](Memory& memory) {
        GatherArgs<S, T> args{};
        args.rows = rows;
        args.q = memory.input(logits);
        args.actions = memory.input(bad);
        args.max = memory.output<T>("max", kRows, Agreement::kBits);
        args.argmax = memory.output<int64_t>("argmax", kRows, Agreement::kBits);
        args.chosen = memory.output<T>("chosen", kRows, Agreement::kBits);
        void* workspace = memory.workspace(cuda::gather_workspace_bytes(rows));
        expect_success(cuda::max_and_gather(kQueue, args, workspace));
        expect_faults(cuda::kTargetOutOfRange);
        for (int64_t row = 0; row < kRows; ++row) {
          if (is_bad(row)) expect_nan("chosen", row, row + 1, args.chosen);
          if (!is_bad(row) && args.chosen[row] != args.chosen[row]) fail("chosen is NaN");
          if (args.argmax[row] < 0 || args.argmax[row] >= vocabulary) fail("argmax out of range");
        }
      });
    }
    for (const double inverse_temperature : {0.0, 1.0}) {
      for (const int64_t top_k : {0, 3}) {
        check_emulated(
            std::string("sample_tokens") + type_name<S>(),
            "[5, " + std::to_string(vocabulary) + "], row ids, top_k " + std::to_string(top_k),
            [&](Memory& memory) {
              SampleArgs<S, T> args{};
              args.rows = rows;
              args.logits = memory.input(logits);
              args.inverse_temperature = inverse_temperature;
              args.top_k = top_k;
              args.top_p = 1;
              args.row_ids = memory.input(std::vector<int64_t>{0, -1, 1, INT64_MIN, 2});
              args.ids = memory.output<int64_t>("ids", kRows, Agreement::kBits);
              args.log_probs = memory.output<T>("log_probs", kRows, Agreement::kBits);
              void* workspace = memory.workspace(cuda::sample_workspace_bytes(
                  rows, sizeof(S), top_k > 0 && inverse_temperature > 0));
              expect_success(cuda::sample_tokens(kQueue, args, workspace));
              expect_faults(cuda::kRowIdOutOfRange);
              for (int64_t row = 0; row < kRows; ++row) {
                if (args.ids[row] < 0 || args.ids[row] >= vocabulary) fail("id out of range");
                if (row % 2 == 1) expect_nan("log_probs", row, row + 1, args.log_probs);
                if (row % 2 == 0 && !(args.log_probs[row] <= T(1e-5))) fail("log-prob is NaN");
              }
            });
      }
    }
  }
}

void faults_stay_until_they_are_read() {
  check_emulated("take_faults", "two launches", [&](Memory& memory) {
    const LogitRows rows{1, 4, 1, 0, 4};
    GatherArgs<float, float> gather{};
    gather.rows = rows;
    gather.q = memory.input(std::vector<float>{1, 2, 3, 4});
    gather.actions = memory.input(std::vector<int64_t>{4});
    gather.max = memory.output<float>("max", 1, Agreement::kBits);
    gather.argmax = memory.output<int64_t>("argmax", 1, Agreement::kBits);
    gather.chosen = memory.output<float>("chosen", 1, Agreement::kBits);
    SampleArgs<float, float> draw{};
    draw.rows = rows;
    draw.logits = memory.input(std::vector<float>(4, __builtin_nanf("")));
    draw.inverse_temperature = draw.top_p = 1;
    draw.ids = memory.output<int64_t>("ids", 1, Agreement::kBits);
    draw.log_probs = memory.output<float>("log_probs", 1, Agreement::kBits);
    void* first = memory.workspace(cuda::gather_workspace_bytes(rows));
    void* second = memory.workspace(cuda::sample_workspace_bytes(rows, 4, false));
    expect_success(cuda::max_and_gather(kQueue, gather, first));
    expect_success(cuda::sample_tokens(kQueue, draw, second));
    const std::vector<int64_t> fine{2};
    gather.actions = fine.data();
    expect_success(cuda::max_and_gather(kQueue, gather, first));
    expect_faults(cuda::kTargetOutOfRange | cuda::kNoDistribution);
    expect_faults(0);
  });
}

}  // namespace

void row_fault_cases() {
  row_faults<float, float>();
  row_faults<double, double>();
  row_faults<Bfloat16, float>();
  faults_stay_until_they_are_read();
}

}  // namespace alignzoo::native
