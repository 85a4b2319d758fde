// Unmasked tokens moved together, and back to their places.
#pragma once

#include "cpu/formats.h"
#include "cpu/isa.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

ALIGNZOO_INLINE uint64_t eight_bytes(const uint8_t* from) {
  uint64_t out;
  memcpy(&out, from, sizeof out);
  return out;
}
// Whether 16 bytes are all 0; all 1.
ALIGNZOO_INLINE bool all_zeros(const uint8_t* bytes) {
  return (eight_bytes(bytes) | eight_bytes(bytes + 8)) == 0;
}
ALIGNZOO_INLINE bool all_ones(const uint8_t* bytes) {
  constexpr uint64_t kOnes = 0x0101010101010101u;
  return eight_bytes(bytes) == kOnes && eight_bytes(bytes + 8) == kOnes;
}

// Whether no byte of [0, n) is 0, or 1 to be exact: others only cost the shortcut.
ALIGNZOO_INLINE bool all_ones(const uint8_t* bytes, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if (!all_ones(bytes + i)) return false;
  }
  for (; i < n; ++i) {
    if (bytes[i] != 1) return false;
  }
  return true;
}

// Bytes of [0, n) that are not 0.
ALIGNZOO_INLINE int64_t count_nonzero(const uint8_t* bytes, int64_t n) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  int64_t total = 0, i = 0;
  while (i + kLanes <= n) {
    // Each lane counts downwards in a byte, so at most 255 steps before they are added up.
    const int64_t stop = smaller(n, i + 255 * kLanes);
    Bytes counts = {};
    for (; i + kLanes <= stop; i += kLanes) {
      Bytes some;
      memcpy(&some, bytes + i, sizeof some);
      counts -= reinterpret_cast<Bytes>(some != 0);
    }
    for (int lane = 0; lane < kLanes; ++lane) total += counts[lane];
  }
  for (; i < n; ++i) total += bytes[i] != 0;
  return total;
}

// The last token of [begin, end) whose mask byte is not 0, begin - 1 if there is none.
ALIGNZOO_INLINE int64_t last_unmasked(const uint8_t* mask, int64_t begin, int64_t end) {
  int64_t last = end - 1;
  while (last - kLanes >= begin - 1 && all_zeros(mask + last - kLanes + 1)) last -= kLanes;
  while (last >= begin && !mask[last]) --last;
  return last;
}

// Where the last `wanted` unmasked tokens of [begin, end) start; there are that many.
ALIGNZOO_INLINE int64_t start_of_last(const uint8_t* mask, int64_t begin, int64_t end,
                                      int64_t wanted) {
  int64_t at = end;
  while (at - 64 >= begin) {
    const int64_t found = count_nonzero(mask + at - 64, 64);
    if (found > wanted) break;
    wanted -= found;
    at -= 64;
    if (wanted == 0) return at;
  }
  while (wanted > 0) wanted -= mask[--at] != 0;
  return at;
}

// Elements before the first that starts a cache line, at most n. Vectors that straddle two lines
// cost twice.
template <class X>
ALIGNZOO_INLINE int64_t before_line(const X* at, int64_t n) {
  const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(at) % 64 / sizeof(X));
  return smaller(n, past == 0 ? 0 : static_cast<int64_t>(64 / sizeof(X)) - past);
}

#if defined(__AVX512F__)
// 16 lanes without those whose mask byte is 0, and back. Each returns how many there are.
ALIGNZOO_INLINE __mmask16 unmasked(const uint8_t* mask) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask));
  return _mm_test_epi8_mask(bytes, bytes);
}
ALIGNZOO_INLINE int compress_lanes(const float* from, const uint8_t* mask, float* to) {
  const __mmask16 keep = unmasked(mask);
  _mm512_storeu_ps(to, _mm512_maskz_compress_ps(keep, _mm512_loadu_ps(from)));
  return __builtin_popcount(keep);
}
ALIGNZOO_INLINE int expand_lanes(const float* from, const uint8_t* mask, float* to) {
  const __mmask16 keep = unmasked(mask);
  _mm512_storeu_ps(to, _mm512_maskz_expand_ps(keep, _mm512_loadu_ps(from)));
  return __builtin_popcount(keep);
}
ALIGNZOO_INLINE int compress_lanes(const double* from, const uint8_t* mask, double* to) {
  const __mmask16 keep = unmasked(mask);
  const __mmask8 low = static_cast<__mmask8>(keep), high = static_cast<__mmask8>(keep >> 8);
  _mm512_storeu_pd(to, _mm512_maskz_compress_pd(low, _mm512_loadu_pd(from)));
  to += __builtin_popcount(low);
  _mm512_storeu_pd(to, _mm512_maskz_compress_pd(high, _mm512_loadu_pd(from + 8)));
  return __builtin_popcount(keep);
}
ALIGNZOO_INLINE int expand_lanes(const double* from, const uint8_t* mask, double* to) {
  const __mmask16 keep = unmasked(mask);
  const __mmask8 low = static_cast<__mmask8>(keep), high = static_cast<__mmask8>(keep >> 8);
  _mm512_storeu_pd(to, _mm512_maskz_expand_pd(low, _mm512_loadu_pd(from)));
  from += __builtin_popcount(low);
  _mm512_storeu_pd(to + 8, _mm512_maskz_expand_pd(high, _mm512_loadu_pd(from)));
  return __builtin_popcount(keep);
}
#endif

// The tokens of [0, n) whose mask byte is not 0, in order. `to` has room for 16 more.
template <class X>
ALIGNZOO_INLINE void compress(const X* from, const uint8_t* mask, int64_t n, X* to) {
  int64_t i = 0;
  const auto one_by_one = [&](int64_t stop) {
    for (; i < stop; ++i) {
      *to = from[i];
      to += mask[i] != 0;
    }
  };
#if defined(__AVX512F__)
  if constexpr (sizeof(X) > 1) {
    one_by_one(before_line(from, n));
    for (; i + kLanes <= n; i += kLanes) to += compress_lanes(from + i, mask + i, to);
  }
#endif
  one_by_one(n);
}

// The reverse: masked places of [0, n) become 0. `from` has room for 16 more.
template <class X>
ALIGNZOO_INLINE void expand(const X* from, const uint8_t* mask, int64_t n, X* to) {
  int64_t i = 0;
  const auto one_by_one = [&](int64_t stop) {
    for (; i < stop; ++i) {
      to[i] = mask[i] ? *from : X(0);
      from += mask[i] != 0;
    }
  };
#if defined(__AVX512F__)
  one_by_one(before_line(to, n));
  for (; i + kLanes <= n; i += kLanes) from += expand_lanes(from, mask + i, to + i);
#endif
  one_by_one(n);
}

// Every token in its place, masked ones 0.
template <class X>
ALIGNZOO_INLINE void blank(const X* from, const uint8_t* mask, int64_t n, X* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = mask[i] ? from[i] : X(0);
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
