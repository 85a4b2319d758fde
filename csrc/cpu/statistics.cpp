// Counts and moments of the unmasked elements, and whitening with them.
#include <cstdlib>

#include "cpu/compact.h"
#include "math/moments.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// Moments of one tile, in two passes over what the first has brought into the cache.
template <class T>
Moments tile_moments(const T* x, const uint8_t* mask, int64_t begin, int64_t end) {
  const F64 zero(0.0);
  Moments out;
  out.count = static_cast<double>(mask ? count_nonzero(mask + begin, end - begin) : end - begin);
  if (out.count == 0) return out;
  const auto sum_of = [&](auto term) __attribute__((always_inline)) {
    F64 sum = zero;
    for_each_vector(begin, end, [&](int64_t t, int n) __attribute__((always_inline)) {
      fetch(x + t);
      const Mask<double> keep = load_mask<double>(mask ? mask + t : nullptr, n);
      sum = sum + select(keep, term(widen(load_up_to(x + t, n))), zero);
    });
    return sum_lanes(sum);
  };
  out.mean = sum_of([](const F64& v) __attribute__((always_inline)) { return v; }) / out.count;
  const F64 mean(out.mean);
  out.m2 = sum_of([&](const F64& v) __attribute__((always_inline)) {
    const F64 d = v - mean;
    return d * d;
  });
  return out;
}

}  // namespace

MaskCounts count_mask(const Rows& rows, const uint8_t* mask) {
  MaskCounts counts;
  for (int64_t row = 0; row < rows.count; ++row) {
    const int64_t begin = rows.begin(row), size = rows.end(row) - begin;
    const int64_t tokens = mask ? count_nonzero(mask + begin, size) : size;
    counts.tokens += tokens;
    counts.rows += tokens > 0;
  }
  return counts;
}

template <class T>
Moments moments(const Rows& rows, const T* x, const uint8_t* mask, int threads) {
  const Tiles tiles(rows);
  Moments* partial =
      static_cast<Moments*>(malloc(sizeof(Moments) * static_cast<size_t>(tiles.count)));
  tiles.for_each(threads, [&](int64_t tile, int64_t, int64_t begin, int64_t end) {
    partial[tile] = tile_moments(x, mask, begin, end);
  });
  Moments out;
  for (int64_t tile = 0; tile < tiles.count; ++tile) math::merge(out, partial[tile]);
  free(partial);
  return out;
}

template <class T>
void whiten(const WhitenArgs<T>& args, int threads) {
  const Tiles tiles(args.rows);
  const F64 shift(args.shift), scale(args.scale), offset(args.offset);
  tiles.for_each(threads, [&](int64_t, int64_t, int64_t begin, int64_t end) {
    for_each_vector(begin, end, [&](int64_t t, int n) __attribute__((always_inline)) {
      fetch(args.x + t);
      const Mask<T> keep = load_mask<T>(args.mask ? args.mask + t : nullptr, n);
      Wide<T> out;
      narrow(fma(widen(load_up_to(args.x + t, n)) - shift, scale, offset), out);
      store_up_to(args.out + t, n, select(keep, out, Wide<T>(T(0))));
    });
  });
}

template Moments moments<float>(const Rows&, const float*, const uint8_t*, int);
template Moments moments<double>(const Rows&, const double*, const uint8_t*, int);
template void whiten<float>(const WhitenArgs<float>&, int);
template void whiten<double>(const WhitenArgs<double>&, int);

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
