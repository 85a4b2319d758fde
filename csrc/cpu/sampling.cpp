// Draws one token per row by inverting the cumulative distribution in index order: the smallest
// index j with sum_{i <= j} e^{x_i} > u S, u a counter-based uniform number. That needs no random
// bits per logit and, beyond the pass that finds S, one more look at a single chunk.
#include "math/sampling.h"

#include <cstdlib>

#include "cpu/cut.h"
#include "cpu/largest.h"
#include "math/philox.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// A chunk's sum, relative to the largest logit up to its end.
struct ChunkMass {
  double max, sum;
};

// Memory for the rows of one block, in aligned pieces.
class Scratch {
 public:
  explicit Scratch(int64_t bytes)
      : memory_(static_cast<char*>(aligned_alloc(64, static_cast<size_t>(rounded(bytes))))) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { free(memory_); }

  static int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(memory_ + used_);
    used_ += rounded(count * static_cast<int64_t>(sizeof(T)));
    return piece;
  }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// The first index whose term carries the cumulative sum, `before` at the chunk's start, past the
// threshold; where rounding let none do so, the last with any mass; -1 without mass.
template <class T>
ALIGNZOO_INLINE int64_t pick_in_chunk(const T* terms, int64_t n, double before, double threshold) {
  constexpr int64_t kStretch = 8 * kLanes;
  double cumulative = before;
  int64_t j = 0;
  for (; j + kStretch <= n; j += kStretch) {
    Wide<T> sum = load(terms + j);
    for (int64_t k = kLanes; k < kStretch; k += kLanes) sum = sum + load(terms + j + k);
    const double next = cumulative + static_cast<double>(sum_lanes(sum));
    if (next > threshold) break;
    cumulative = next;
  }
  for (; j < n; j += kLanes) {
    const double next = cumulative + static_cast<double>(sum_lanes(load(terms + j)));
    if (next > threshold) break;
    cumulative = next;
  }
  for (int64_t i = j; i < n; ++i) {
    cumulative += static_cast<double>(terms[i]);
    if (cumulative > threshold && terms[i] > T(0)) return i;
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    if (terms[i] > T(0)) return i;
  }
  return -1;
}

// The chunk in which the cumulative sum of mass_of(chunk) passes the threshold, or the last with
// any mass, and the sum before it.
struct Place {
  int64_t chunk;
  double before;
};
template <class MassOf>
ALIGNZOO_INLINE Place find_chunk(int64_t num_chunks, double threshold, MassOf mass_of) {
  Place place{num_chunks - 1, 0};
  double cumulative = 0;
  for (int64_t c = 0; c < num_chunks && cumulative <= threshold; ++c) {
    const double mass = mass_of(c);
    if (mass == 0) continue;
    place = {c, cumulative};
    cumulative += mass;
  }
  return place;
}

template <class T>
struct Drawn {
  int64_t id;  // -1: the row is no distribution
  T log_prob;
};

template <class S>
ALIGNZOO_INLINE Drawn<Compute<S>> drawn_at(const S* logits, int64_t id, double max, double sum,
                                           double inverse_temperature) {
  const double logit = static_cast<double>(to_compute(logits[id]));
  return {id, static_cast<Compute<S>>(math::log_prob(logit, max, sum, inverse_temperature))};
}

template <class S>
Drawn<Compute<S>> draw(const S* logits, int64_t vocabulary, double inverse_temperature,
                       double uniform, ChunkMass* chunks) {
  using T = Compute<S>;
  alignas(64) T terms[kChunk];
  math::RowStatistics row;
  Place place{0, 0};
  if (vocabulary <= kChunk) {
    row.max = static_cast<double>(chunk_max(logits, vocabulary));
    const Powers<T> powers(row.max, inverse_temperature);
    row.sum = chunk_sums<false>(logits, vocabulary, powers, terms).total();
    if (!math::is_distribution(row.max, row.sum)) return {-1, T(0)};
  } else {
    row = row_statistics<false>(
        logits, vocabulary, inverse_temperature,
        [&](int64_t chunk, const math::RowStatistics& so_far, const ChunkSums<false, T>& sums) {
          chunks[chunk] = {so_far.max, sums.total()};
        });
    if (!math::is_distribution(row.max, row.sum)) return {-1, T(0)};
    place = find_chunk(ceil_div(vocabulary, kChunk), uniform * row.sum, [&](int64_t c) {
      return math::mass_in_row(chunks[c].sum, chunks[c].max, row.max, inverse_temperature);
    });
    const Powers<T> powers(row.max, inverse_temperature);
    const int64_t begin = place.chunk * kChunk;
    chunk_sums<false>(logits + begin, smaller(kChunk, vocabulary - begin), powers, terms);
  }
  const int64_t begin = place.chunk * kChunk;
  const int64_t picked =
      pick_in_chunk(terms, smaller(kChunk, vocabulary - begin), place.before, uniform * row.sum);
  const int64_t id = picked >= 0 ? begin + picked : row_largest(logits, vocabulary).index;
  return drawn_at(logits, id, row.max, row.sum, inverse_temperature);
}

// A copy of the row, padded to whole vectors, and the mass of each logit. `largest` is NaN where
// the row holds one.
template <class S, class T>
ALIGNZOO_INLINE WeighedRow<T> weigh_row(const S* logits, int64_t vocabulary,
                                        double inverse_temperature, T* copy, T* masses) {
  const T none = -static_cast<T>(__builtin_inf());
  const int64_t num_vectors = ceil_div(vocabulary, kLanes);
  Wide<T> smallest(-none), largest(none);
  Magnitudes<T> magnitudes;
  for (int64_t v = 0; v < num_vectors; ++v) {
    const int left = static_cast<int>(smaller(kLanes, vocabulary - v * kLanes));
    const Wide<T> z = left == kLanes ? load_as_compute(logits + v * kLanes)
                                     : load_first(logits + v * kLanes, left, none);
    smallest = min(select(z > Wide<T>(none), z, Wide<T>(-none)), smallest);
    largest = max(z, largest);
    magnitudes.add(z);
    store(copy + v * kLanes, z);
  }
  WeighedRow<T> row{copy, masses, num_vectors, -max_lanes(Wide<T>(T(0)) - smallest),
                    max_lanes(largest)};
  if (magnitudes.has_nan()) row.largest = static_cast<T>(__builtin_nan(""));
  const Powers<T> powers(static_cast<double>(row.largest), inverse_temperature);
  for (int64_t v = 0; v < num_vectors; ++v) {
    store(masses + v * kLanes, powers.of(load(copy + v * kLanes)));
  }
  return row;
}

// A draw from what top-k and top-p leave of the row.
template <class S, class T>
Drawn<T> draw_cut(const S* logits, const SampleArgs<S, T>& args, double uniform, T* copy,
                  T* masses) {
  const int64_t vocabulary = args.rows.vocabulary;
  const T none = -static_cast<T>(__builtin_inf());
  const WeighedRow<T> row = weigh_row(logits, vocabulary, args.inverse_temperature, copy, masses);
  if (!(row.largest > none && row.largest < -none)) return {-1, T(0)};
  cut_row(row, args.top_k, args.top_p);

  const double sum = measure_above(row, none).mass;
  const Place place = find_chunk(ceil_div(vocabulary, kChunk), uniform * sum, [&](int64_t c) {
    const WeighedRow<T> chunk{copy + c * kChunk, masses + c * kChunk,
                              smaller(kChunk / kLanes, row.num_vectors - c * (kChunk / kLanes)),
                              row.smallest, row.largest};
    return measure_above(chunk, none).mass;
  });
  const int64_t begin = place.chunk * kChunk;
  const int64_t picked = pick_in_chunk(masses + begin, smaller(kChunk, vocabulary - begin),
                                       place.before, uniform * sum);
  const int64_t id = picked >= 0 ? begin + picked : row_largest(logits, vocabulary).index;
  return drawn_at(logits, id, static_cast<double>(row.largest), sum, args.inverse_temperature);
}

template <class S>
Drawn<Compute<S>> take_largest(const S* logits, int64_t vocabulary) {
  const Largest<Compute<S>> largest = row_largest(logits, vocabulary);
  const double value = static_cast<double>(largest.value);
  const bool finite = value > -__builtin_inf() && value < __builtin_inf();
  return {finite ? largest.index : -1, Compute<S>(0)};
}

}  // namespace

template <class S, class T>
void sample_tokens(SampleArgs<S, T>& args, int threads) {
  const int64_t vocabulary = args.rows.vocabulary;
  const int64_t num_chunks = ceil_div(vocabulary, kChunk);
  const int64_t padded = ceil_div(vocabulary, kLanes) * kLanes;
  const bool greedy = args.inverse_temperature == 0;
  const bool cuts = !greedy && ((args.top_k > 0 && args.top_k < vocabulary) || args.top_p < 1.0);
  const int64_t bytes = cuts ? 2 * Scratch::rounded(padded * static_cast<int64_t>(sizeof(T)))
                             : num_chunks * static_cast<int64_t>(sizeof(ChunkMass));
  args.bad_row = -1;
  for_each_block(args.rows, threads, cuts ? kBlock / 16 : kBlock, [&](int64_t begin, int64_t end) {
    Scratch scratch(bytes);
    T* copy = cuts ? scratch.template take<T>(padded) : nullptr;
    T* masses = cuts ? scratch.template take<T>(padded) : nullptr;
    ChunkMass* chunks = cuts ? nullptr : scratch.template take<ChunkMass>(num_chunks);
    for (int64_t row = begin; row < end; ++row) {
      const S* logits = args.logits + args.rows.offset(row);
      const uint64_t number = static_cast<uint64_t>(args.row_ids ? args.row_ids[row] : row);
      const double uniform = math::philox_uniform(args.seed, number, args.offset);
      const Drawn<T> drawn =
          greedy ? take_largest(logits, vocabulary)
          : cuts ? draw_cut(logits, args, uniform, copy, masses)
                 : draw(logits, vocabulary, args.inverse_temperature, uniform, chunks);
      args.ids[row] = drawn.id;
      args.log_probs[row] = drawn.log_prob;
      if (drawn.id < 0) report_row(args.bad_row, row);
    }
  });
}

template void sample_tokens<float, float>(SampleArgs<float, float>&, int);
template void sample_tokens<double, double>(SampleArgs<double, double>&, int);
template void sample_tokens<Bfloat16, float>(SampleArgs<Bfloat16, float>&, int);
template void sample_tokens<Float16, float>(SampleArgs<Float16, float>&, int);

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
