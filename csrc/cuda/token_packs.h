// Per-token arrays a few tokens at a time, with their mask; and the check of packed rows' offsets.
#pragma once

#include "cuda/runtime.h"

namespace alignzoo::cuda {

// Whether packs of kPerLoad<T> tokens can be read from the start of all these arrays.
template <class T, class... Arrays>
bool packs_fit(const uint8_t* mask, const Arrays*... arrays) {
  return fits_pack(mask, kPerLoad<T>) && (fits_pack(arrays) && ...);
}

// The tokens at `from`, of which `n` exist; as one load if `whole`. Others are 0.
template <int kVector, class T>
ALIGNZOO_DEVICE Pack<T, kVector> load_tokens(const T* from, int n, bool whole) {
  if (whole) return load_pack<kVector>(from);
  Pack<T, kVector> out;
  for (int i = 0; i < kVector; ++i) out.at[i] = i < n ? from[i] : T(0);
  return out;
}
template <int kVector, class T>
ALIGNZOO_DEVICE void store_tokens(T* to, int n, bool whole, const Pack<T, kVector>& pack) {
  if (whole) return store_pack(to, pack);
  for (int i = 0; i < kVector; ++i) {
    if (i < n) to[i] = pack.at[i];
  }
}
// Which of them count: all n without a mask.
template <int kVector>
ALIGNZOO_DEVICE Pack<uint8_t, kVector> load_keep(const uint8_t* mask, int64_t at, int n,
                                                 bool whole) {
  if (mask) return load_tokens<kVector>(mask + at, n, whole);
  Pack<uint8_t, kVector> out;
  for (int i = 0; i < kVector; ++i) out.at[i] = i < n;
  return out;
}

// Bytes of a word that are not 0.
ALIGNZOO_DEVICE int nonzero_bytes(uint32_t word) {
  return __popc((((word & 0x7f7f7f7fu) + 0x7f7f7f7fu) | word) & 0x80808080u);
}

// Whether this thread, one of `threads`, finds offsets that do not run from 0 to `tokens` without
// falling. False for padded rows.
ALIGNZOO_DEVICE bool finds_bad_offsets(const Rows& rows, int64_t tokens, int64_t thread,
                                       int64_t threads) {
  if (!rows.offsets) return false;
  bool bad = thread == 0 && (rows.offsets[0] != 0 || rows.offsets[rows.count] != tokens);
  for (int64_t b = thread; b < rows.count; b += threads)
    bad |= rows.offsets[b] > rows.offsets[b + 1];
  return bad;
}

// NaN in every element, by all threads of the grid together.
template <class T>
ALIGNZOO_DEVICE void fill_with_nan(T* out, int64_t size) {
  const int64_t threads = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += threads) {
    out[i] = static_cast<T>(__builtin_nan(""));
  }
}

}  // namespace alignzoo::cuda
