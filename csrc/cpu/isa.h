// The loops of one instruction set, defined in the files that CMake compiles once for each.
#pragma once

#include "cpu/kernels.h"
#include "cpu/pool.h"
#include "cpu/simd.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

template <class T>
ScanFaults gae(const ScanArgs<T>& args, int threads);
template <class T>
ScanFaults td_lambda_returns(const ScanArgs<T>& args, int threads);
template <class T>
ScanFaults vtrace(const ScanArgs<T>& args, int threads);
template <class T>
void td_targets(const TdTargetsArgs<T>& args, int threads);
MaskCounts count_mask(const Rows& rows, const uint8_t* mask);
template <class T>
Moments moments(const Rows& rows, const T* x, const uint8_t* mask, int threads);
template <class T>
void whiten(const WhitenArgs<T>& args, int threads);
template <class T>
LossSums policy_loss(const PolicyLossArgs<T>& args, int threads);
template <class T>
LossSums value_loss(const ValueLossArgs<T>& args, int threads);
template <class T>
void kl_penalty(const ElementwiseArgs<T>& args, int threads);
template <class T>
void huber(const ElementwiseArgs<T>& args, int threads);
template <class S, class T>
void token_log_probs(const TokenLogProbsArgs<S, T>& args, int threads);
template <class S, class T>
void token_log_probs_backward(const TokenLogProbsBackwardArgs<S, T>& args, int threads);
template <class S, class T>
void sample_tokens(SampleArgs<S, T>& args, int threads);
template <class S, class T>
void kl_divergence(const DivergenceArgs<S, T>& args, int threads);
template <class S, class T>
void kl_divergence_backward(const DivergenceBackwardArgs<S, T>& args, int threads);
template <class S, class T>
void max_and_gather(const GatherArgs<S, T>& args, int threads);

// This instruction set's table.
extern const Kernels kTable;

ALIGNZOO_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
ALIGNZOO_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
ALIGNZOO_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Asks for the 16 elements that lie kAhead bytes behind `at`, or before it. The processor foresees
// these reads too, but a loop with much arithmetic lets it look only a few vectors ahead.
constexpr int64_t kAhead = 2048;
template <class T>
ALIGNZOO_INLINE void fetch(const T* at, int64_t distance = kAhead) {
  const uintptr_t from = reinterpret_cast<uintptr_t>(at) + static_cast<uintptr_t>(distance);
  for (uintptr_t line = 0; line < kLanes * sizeof(T); line += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(from + line));
  }
}

// Calls body(t, n) for the elements [t, t + n) of [begin, end), n being 16 but for the last.
template <class Body>
ALIGNZOO_INLINE void for_each_vector(int64_t begin, int64_t end, Body body) {
  int64_t t = begin;
  for (; t + kLanes <= end; t += kLanes) body(t, kLanes);
  if (t < end) body(t, static_cast<int>(end - t));
}

// Tokens per unit of work. A row longer than this is cut into tiles, counted from its start.
constexpr int64_t kTile = 16384;

// The tiles of all rows, in order. Which tokens a tile has depends on its row alone.
struct Tiles {
  Rows rows;
  int64_t per_row, count, per_block;

  ALIGNZOO_INLINE explicit Tiles(const Rows& r)
      : rows(r),
        per_row(larger(1, ceil_div(r.width, kTile))),
        count(r.count * per_row),
        per_block(larger(1, kTile / larger(1, smaller(r.width, kTile)))) {}

  // Calls body(tile, row, begin, end) for every tile.
  template <class Body>
  ALIGNZOO_INLINE void for_each(int threads, Body body) const {
    auto block_body = [&](int64_t block) {
      const int64_t stop = smaller(count, (block + 1) * per_block);
      for (int64_t tile = block * per_block; tile < stop; ++tile) {
        const int64_t row = tile / per_row;
        const int64_t row_end = rows.end(row);
        const int64_t begin = rows.begin(row) + tile % per_row * kTile;
        body(tile, row, smaller(begin, row_end), smaller(begin + kTile, row_end));
      }
    };
    parallel_for(ceil_div(count, per_block), threads, block_body);
  }
};

// The float lanes of a, as doubles.
ALIGNZOO_INLINE F64 widen(const F64& a) { return a; }
ALIGNZOO_INLINE F64 widen(const F32& a) {
  F64 out;
#if defined(__AVX512F__)
  out.reg[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(a.reg[0]));
  out.reg[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.reg[0], 1));
#elif defined(__AVX2__)
  for (int i = 0; i < 2; ++i) {
    out.reg[2 * i] = _mm256_cvtps_pd(_mm256_castps256_ps128(a.reg[i]));
    out.reg[2 * i + 1] = _mm256_cvtps_pd(_mm256_extractf128_ps(a.reg[i], 1));
  }
#else
  float narrow[kLanes];
  double wide[kLanes];
  store(narrow, a);
  for (int i = 0; i < kLanes; ++i) wide[i] = narrow[i];
  out = load(wide);
#endif
  return out;
}

// Notes a row at fault; -1 is none. The lowest row wins, whichever thread finds its own first.
ALIGNZOO_INLINE void report_row(int64_t& slot, int64_t row) {
  int64_t seen = __atomic_load_n(&slot, __ATOMIC_RELAXED);
  while (
      (seen < 0 || row < seen) &&
      !__atomic_compare_exchange_n(&slot, &seen, row, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

// The lanes of a, rounded to T.
ALIGNZOO_INLINE void narrow(const F64& a, F64& out) { out = a; }
ALIGNZOO_INLINE void narrow(const F64& a, F32& out) {
#if defined(__AVX512F__)
  out.reg[0] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.reg[0])),
                                  _mm512_cvtpd_ps(a.reg[1]), 1);
#elif defined(__AVX2__)
  for (int i = 0; i < 2; ++i) {
    out.reg[i] = _mm256_set_m128(_mm256_cvtpd_ps(a.reg[2 * i + 1]), _mm256_cvtpd_ps(a.reg[2 * i]));
  }
#else
  double wide[kLanes];
  float rounded[kLanes];
  store(wide, a);
  for (int i = 0; i < kLanes; ++i) rounded[i] = static_cast<float>(wide[i]);
  out = load(rounded);
#endif
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
