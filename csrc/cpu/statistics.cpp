// Moments of the unmasked elements, and whitening with them.
#include <cstdlib>

#include "cpu/formats.h"
#include "cpu/isa.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// Sum over the unmasked elements of term(x), tile by tile in order.
template <class T, class Term>
ALIGNZOO_INLINE double masked_sum(const Tiles& tiles, const T* x, const uint8_t* mask, int threads,
                                  double* partial, Term term) {
  tiles.for_each(threads, [&](int64_t tile, int64_t, int64_t begin, int64_t end) {
    F64 sum(0.0);
    for (int64_t t = begin; t < end; t += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, end - t));
      const uint8_t* bytes = mask ? mask + t : nullptr;
      Wide<T> v = select(load_mask<T>(bytes, n), load_up_to(x + t, n), Wide<T>(T(0)));
      F64 terms = term(widen(v));
      sum = sum + select(load_mask<double>(bytes, n), terms, F64(0.0));
    }
    partial[tile] = sum_lanes(sum);
  });
  double total = 0;
  for (int64_t row = 0; row < tiles.rows.count; ++row) {
    double row_sum = 0;
    for (int64_t i = 0; i < tiles.per_row; ++i) row_sum += partial[row * tiles.per_row + i];
    total += row_sum;
  }
  return total;
}

}  // namespace

template <class T>
Moments moments(const Rows& rows, const T* x, const uint8_t* mask, int threads) {
  const Tiles tiles(rows);
  Moments out;
  double* partial = static_cast<double*>(malloc(sizeof(double) * static_cast<size_t>(tiles.count)));
  if (mask == nullptr) {
    for (int64_t row = 0; row < rows.count; ++row) {
      out.count += static_cast<double>(rows.end(row) - rows.begin(row));
    }
  } else {
    out.count = static_cast<double>(count_mask(rows, mask).tokens);
  }
  if (out.count > 0) {
    out.mean =
        masked_sum(tiles, x, mask, threads, partial, [](const F64& v) { return v; }) / out.count;
    const F64 mean(out.mean);
    out.m2 = masked_sum(tiles, x, mask, threads, partial, [&](const F64& v) {
      F64 d = v - mean;
      return d * d;
    });
  }
  free(partial);
  return out;
}

template <class T>
void whiten(const WhitenArgs<T>& args, int threads) {
  const Tiles tiles(args.rows);
  const F64 shift(args.shift), scale(args.scale), offset(args.offset);
  tiles.for_each(threads, [&](int64_t, int64_t, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, end - t));
      F64 v = widen(load_up_to(args.x + t, n));
      v = fma(v - shift, scale, offset);
      Mask<double> keep = load_mask<double>(args.mask ? args.mask + t : nullptr, n);
      double lane[kLanes];
      store(lane, select(keep, v, F64(0.0)));
      for (int i = 0; i < n; ++i) args.out[t + i] = static_cast<T>(lane[i]);
    }
  });
}

template Moments moments<float>(const Rows&, const float*, const uint8_t*, int);
template Moments moments<double>(const Rows&, const double*, const uint8_t*, int);
template void whiten<float>(const WhitenArgs<float>&, int);
template void whiten<double>(const WhitenArgs<double>&, int);

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
