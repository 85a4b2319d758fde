// Draws one token per row by inverting the cumulative distribution in index order: the smallest
// index j with sum_{i <= j} e^{x_i} > u S, u a counter-based uniform number. That needs no random
// bits per logit and, beyond the pass that finds S, one more look at a single chunk.
#include <cstdlib>

#include "cpu/rows.h"
#include "math/philox.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

struct ChunkSum {
  double max, sum;
};

// The first index whose exponential carries the cumulative sum, `before` at the chunk's start,
// past the threshold; where rounding let none do so, the last with any mass; -1 without mass.
template <class T>
int64_t pick_in_chunk(const T* exponentials, int64_t n, double before, double threshold) {
  double cumulative = before;
  int64_t j = 0;
  for (; j < n; j += kLanes) {
    const double next = cumulative + static_cast<double>(sum_lanes(load(exponentials + j)));
    if (next > threshold) break;
    cumulative = next;
  }
  for (int64_t i = j; i < n; ++i) {
    cumulative += static_cast<double>(exponentials[i]);
    if (cumulative > threshold && exponentials[i] > T(0)) return i;
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    if (exponentials[i] > T(0)) return i;
  }
  return -1;
}

template <class S, class T>
int64_t index_of(const S* logits, int64_t vocabulary, double wanted) {
  for (int64_t j = 0; j < vocabulary; ++j) {
    if (static_cast<double>(to_compute(logits[j])) == wanted) return j;
  }
  return -1;
}

// False if the row is no distribution: NaN or +inf in it, or nothing but -inf.
template <class S, class T>
bool draw(const S* logits, int64_t vocabulary, double inverse_temperature, double uniform,
          ChunkSum* chunks, int64_t& id, T& log_prob) {
  const T scale = static_cast<T>(inverse_temperature);
  T exponentials[kChunk];
  const math::RowStatistics row =
      row_statistics<false>(logits, vocabulary, scale, exponentials,
                            [&](int64_t chunk, const math::RowStatistics& so_far, double sum) {
                              chunks[chunk] = {so_far.max, sum};
                            });
  if (!(row.sum > 0) || !(row.sum < __builtin_inf()) || !(row.max < __builtin_inf())) return false;

  const int64_t num_chunks = ceil_div(vocabulary, kChunk);
  const double threshold = uniform * row.sum;
  double before = 0;
  int64_t chosen = num_chunks - 1;
  if (num_chunks > 1) {
    double cumulative = 0;
    for (int64_t c = 0; c < num_chunks; ++c) {
      if (chunks[c].sum == 0) continue;
      const double shift = (chunks[c].max - row.max) * inverse_temperature;
      const double mass = chunks[c].sum * (shift < 0 ? math::exp_nonpositive(shift) : 1.0);
      if (mass == 0) continue;
      chosen = c;
      before = cumulative;
      cumulative += mass;
      if (cumulative > threshold) break;
    }
    double sum, weighted;
    chunk_sums<false>(logits + chosen * kChunk, smaller(kChunk, vocabulary - chosen * kChunk),
                      static_cast<T>(row.max), scale, exponentials, sum, weighted);
  }
  const int64_t begin = chosen * kChunk;
  const int64_t picked =
      pick_in_chunk(exponentials, smaller(kChunk, vocabulary - begin), before, threshold);
  id = picked >= 0 ? begin + picked : index_of<S, T>(logits, vocabulary, row.max);
  const double x = (static_cast<double>(to_compute(logits[id])) - row.max) * inverse_temperature;
  log_prob = static_cast<T>(x - __builtin_log(row.sum));
  return true;
}

template <class S, class T>
bool take_largest(const S* logits, int64_t vocabulary, int64_t& id, T& log_prob) {
  double largest = -__builtin_inf();
  bool ordered = true;
  for (int64_t begin = 0; begin < vocabulary; begin += kChunk) {
    const int64_t n = smaller(kChunk, vocabulary - begin);
    const double found = static_cast<double>(chunk_max(logits + begin, n));
    if (found > largest) largest = found;
    for (int64_t j = 0; j < n; ++j) {
      const T z = to_compute(logits[begin + j]);
      ordered &= z == z;
    }
  }
  if (!ordered || largest == -__builtin_inf() || largest == __builtin_inf()) return false;
  id = index_of<S, T>(logits, vocabulary, largest);
  log_prob = T(0);
  return true;
}

// The row with what top-k and top-p exclude set to -inf.
template <class S, class T>
void cut_row(const S* logits, int64_t vocabulary, const SampleArgs<S, T>& args, T* out) {
  T largest = -static_cast<T>(__builtin_inf());
  for (int64_t j = 0; j < vocabulary; ++j) {
    out[j] = to_compute(logits[j]);
    if (out[j] > largest) largest = out[j];
  }
  const Cut cut = find_cut(out, vocabulary, static_cast<double>(largest), args.inverse_temperature,
                           args.top_k, args.top_p);
  for (int64_t j = 0; j < vocabulary; ++j) {
    const double z = static_cast<double>(out[j]);
    if (z < cut.lowest || (z == cut.lowest && j > cut.last_index)) {
      out[j] = -static_cast<T>(__builtin_inf());
    }
  }
}

}  // namespace

template <class S, class T>
void sample_tokens(SampleArgs<S, T>& args, int threads) {
  const int64_t vocabulary = args.rows.vocabulary;
  const bool cuts = args.inverse_temperature > 0 &&
                    ((args.top_k > 0 && args.top_k < vocabulary) || args.top_p < 1.0);
  args.bad_row = -1;
  for_each_row(args.rows, threads, [&](int64_t row) {
    const S* logits = args.logits + args.rows.offset(row);
    const uint64_t number = static_cast<uint64_t>(args.row_ids ? args.row_ids[row] : row);
    bool good;
    if (args.inverse_temperature == 0) {
      good = take_largest(logits, vocabulary, args.ids[row], args.log_probs[row]);
    } else {
      const double uniform = math::philox_uniform(args.seed, number, args.offset);
      const int64_t num_chunks = ceil_div(vocabulary, kChunk);
      ChunkSum few[64];
      ChunkSum* chunks = few;
      if (num_chunks > 64) {
        chunks = static_cast<ChunkSum*>(malloc(sizeof(ChunkSum) * static_cast<size_t>(num_chunks)));
      }
      if (cuts) {
        T* kept = static_cast<T*>(malloc(sizeof(T) * static_cast<size_t>(vocabulary)));
        cut_row(logits, vocabulary, args, kept);
        good = draw<T, T>(kept, vocabulary, args.inverse_temperature, uniform, chunks,
                          args.ids[row], args.log_probs[row]);
        free(kept);
      } else {
        good = draw<S, T>(logits, vocabulary, args.inverse_temperature, uniform, chunks,
                          args.ids[row], args.log_probs[row]);
      }
      if (chunks != few) free(chunks);
    }
    if (!good) {
      int64_t seen = __atomic_load_n(&args.bad_row, __ATOMIC_RELAXED);
      while ((seen < 0 || row < seen) &&
             !__atomic_compare_exchange_n(&args.bad_row, &seen, row, false, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED)) {
      }
    }
  });
}

template void sample_tokens<float, float>(SampleArgs<float, float>&, int);
template void sample_tokens<double, double>(SampleArgs<double, double>&, int);
template void sample_tokens<Bfloat16, float>(SampleArgs<Bfloat16, float>&, int);
template void sample_tokens<Float16, float>(SampleArgs<Float16, float>&, int);

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
