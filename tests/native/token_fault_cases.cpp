// Rows of tokens that only a device can find to be wrong: nothing could look at them before the
// launch.
#include <array>
#include <climits>
#include <cmath>

#include "cuda/loss_plan.h"
#include "cuda/scan_plan.h"
#include "cuda/statistics_plan.h"
#include "emulated.h"

namespace alignzoo::native {
namespace {

// Offsets for n tokens, none of which run from 0 to n without falling.
std::vector<std::vector<int64_t>> bad_offsets(int64_t n) {
  return {{0, 9, 5, n},
          {1, 9, n},
          {0, 9, n - 1},
          {0, 9, n + 1},
          {-1, 9, n},
          {0, int64_t{1} << 62, n},
          {0, -5, n},
          {0, n, 0},
          {n},
          {0},
          {INT64_MIN, INT64_MAX, n}};
}

template <class T>
ScanArgs<T> scan_args(Memory& memory, const std::string& scan, const Rows& rows, int64_t n,
                      Random& random) {
  ScanArgs<T> args{};
  args.rows = rows;
  args.rewards = memory.input(random.numbers<T>(n, 1));
  args.values = memory.input(random.numbers<T>(n, 1));
  args.log_probs = memory.input(random.numbers<T>(n, 0.1));
  args.old_log_probs = memory.input(random.numbers<T>(n, 0.1));
  args.clip_rho = args.clip_c = args.clip_pg_rho = T(1);
  args.mask_mode = MaskMode::kCarry;
  args.gamma = T(0.97);
  args.lambda = T(0.9);
  const bool has_advantages = scan != "td_lambda_returns";
  args.advantages = memory.output_if<T>(has_advantages, "advantages", n, Agreement::kBits);
  args.returns = memory.output<T>("returns", n, Agreement::kBits);
  return args;
}

template <class T>
using ScanLaunch = cuda::Status (*)(const cuda::Queue&, const ScanArgs<T>&, void*);
template <class T>
std::vector<std::pair<const char*, ScanLaunch<T>>> scans() {
  return {{"gae", cuda::gae<T>},
          {"td_lambda_returns", cuda::td_lambda_returns<T>},
          {"vtrace", cuda::vtrace<T>}};
}

template <class T>
void run_scan(Memory& memory, ScanLaunch<T> launch, const ScanArgs<T>& args) {
  void* workspace = memory.workspace(cuda::scan_workspace_bytes(args.rows, sizeof(T)));
  expect_success(launch(kQueue, args, workspace));
}

template <class T>
void offset_faults() {
  for (const int64_t n : {33, 5003}) {
    for (const auto& offsets : bad_offsets(n)) {
      std::string shape = "[" + std::to_string(n) + "], offsets";
      for (const int64_t offset : offsets) shape += " " + std::to_string(offset);
      auto rows_in = [&](Memory& memory) {
        return Rows{static_cast<int64_t>(offsets.size()) - 1, n, memory.input(offsets)};
      };
      for (const auto& [name, launch] : scans<T>()) {
        const auto run = launch;
        check_emulated(name + std::string(type_name<T>()), shape, [&](Memory& memory) {
          Random random(1);
          const ScanArgs<T> args = scan_args<T>(memory, name, rows_in(memory), n, random);
          run_scan(memory, run, args);
          expect_faults(cuda::kBadOffsets);
          expect_nan("returns", 0, n, args.returns);
          if (args.advantages) expect_nan("advantages", 0, n, args.advantages);
        });
      }
      check_emulated(std::string("masked_whiten") + type_name<T>(), shape, [&](Memory& memory) {
        Random random(2);
        cuda::WhitenCall<T> call{};
        call.rows = rows_in(memory);
        call.x = memory.input(random.numbers<T>(n, 1));
        call.shift_mean = true;
        call.ddof = 1;
        call.moments = memory.output<double>("moments", 3, Agreement::kBits);
        call.out = memory.output<T>("whitened", n, Agreement::kBits);
        void* workspace = memory.workspace(cuda::whiten_workspace_bytes(call.rows));
        expect_success(cuda::masked_whiten(kQueue, call, workspace));
        expect_faults(cuda::kBadOffsets);
        expect_nan("whitened", 0, n, call.out);
        expect_nan("moments", 0, 3, call.moments);
      });
      for (const auto level : {Level::kToken, Level::kSequence}) {
        for (const bool row_means : {false, true}) {
          check_emulated(std::string("policy_loss") + type_name<T>(),
                         shape + ", level " + std::to_string(static_cast<int>(level)) +
                             (row_means ? ", row means" : ""),
                         [&](Memory& memory) {
                           Random random(3);
                           cuda::PolicyLossCall<T> call{};
                           PolicyLossArgs<T>& args = call.args;
                           args.rows = rows_in(memory);
                           args.log_probs = memory.input(random.numbers<T>(n, 1));
                           args.old_log_probs = memory.input(random.numbers<T>(n, 1));
                           args.advantages = memory.input(random.numbers<T>(n, 1));
                           args.level = level;
                           args.row_means = row_means;
                           args.low = T(0.8);
                           args.high = T(1.2);
                           args.dual = static_cast<T>(HUGE_VAL);
                           args.gradient = memory.output<T>("gradient", n, Agreement::kBits);
                           call.aggregate =
                               row_means ? Aggregate::kSequenceMean : Aggregate::kTokenMean;
                           call.loss = memory.output<T>("loss", 1, Agreement::kBits);
                           void* workspace = memory.workspace(
                               cuda::policy_loss_workspace_bytes(args.rows, level, row_means));
                           expect_success(cuda::policy_loss(kQueue, call, workspace));
                           expect_faults(cuda::kBadOffsets);
                           expect_nan("loss", 0, 1, call.loss);
                           expect_nan("gradient", 0, n, args.gradient);
                         });
        }
      }
      check_emulated(std::string("value_loss") + type_name<T>(), shape, [&](Memory& memory) {
        Random random(4);
        cuda::ValueLossCall<T> call{};
        call.args.rows = rows_in(memory);
        call.args.values = memory.input(random.numbers<T>(n, 1));
        call.args.returns = memory.input(random.numbers<T>(n, 1));
        call.args.gradient = memory.output<T>("gradient", n, Agreement::kBits);
        call.loss = memory.output<T>("loss", 1, Agreement::kBits);
        void* workspace = memory.workspace(cuda::value_loss_workspace_bytes(call.args.rows));
        expect_success(cuda::value_loss(kQueue, call, workspace));
        expect_faults(cuda::kBadOffsets);
        expect_nan("loss", 0, 1, call.loss);
        expect_nan("gradient", 0, n, call.args.gradient);
      });
    }
  }
}

// One row of a batch at fault; the others must have the bits of a batch without it.
template <class T>
void scan_faults() {
  for (const auto& [name, launch] : scans<T>()) {
    const auto run = launch;
    for (const auto& [count, width, bad_row] :
         std::vector<std::array<int64_t, 3>>{{3, 41, 1}, {70, 33, 0}, {2, 5003, 1}}) {
      for (const bool hole : {true, false}) {
        const int64_t n = count * width, bad = bad_row * width;
        check_emulated(
            name + std::string(type_name<T>()),
            "[" + std::to_string(count) + ", " + std::to_string(width) +
                (hole ? "], a hole" : "], truncated without a value"),
            [&](Memory& memory) {
              Random random(5);
              ScanArgs<T> args = scan_args<T>(memory, name, {count, width, nullptr}, n, random);
              std::vector<uint8_t> flags(static_cast<size_t>(n), hole);
              const uint8_t* clean = memory.input(flags);
              flags[static_cast<size_t>(bad + width / 2)] = !hole;
              const uint8_t* faulty = memory.input(flags);
              args.mask_mode = MaskMode::kPrefix;
              (hole ? args.mask : args.truncated) = clean;
              run_scan(memory, run, args);
              expect_faults(0);
              const std::vector<T> returns(args.returns, args.returns + n);
              std::vector<T> advantages(static_cast<size_t>(n));
              if (args.advantages) advantages.assign(args.advantages, args.advantages + n);
              (hole ? args.mask : args.truncated) = faulty;
              run_scan(memory, run, args);
              expect_faults(hole ? cuda::kMaskHole : cuda::kTruncatedWithoutValue);
              for (const auto& [begin, end] : {std::pair(int64_t{0}, bad), {bad + width, n}}) {
                expect_equal("returns", begin, end, args.returns, returns.data());
                expect_equal("advantages", begin, end, args.advantages, advantages.data());
              }
              // Up to the step at fault at least; behind it, and under the mask, it may be either.
              expect_nan("returns", bad, bad + width / 2, args.returns);
              expect_nan("advantages", bad, bad + width / 2, args.advantages);
            });
      }
    }
  }
}

}  // namespace

void token_fault_cases() {
  offset_faults<float>();
  offset_faults<double>();
  scan_faults<float>();
  scan_faults<double>();
}

}  // namespace alignzoo::native
