"""Finding texts that were seen before, to the letter or nearly.

Nearly the same means that the sets of character 5-grams have a Jaccard similarity of at least a
threshold, estimated from 128 MinHashes (Broder 1997); the standard error is at most 0.045. What is
compared is found by hashing bands of them (Indyk and Motwani 1998). 512 bytes are kept of a text.
"""

from __future__ import annotations

import hashlib
import unicodedata
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_HASHES = 128
SHINGLE = 5  # characters, so that texts without spaces between words work too
Signature = npt.NDArray[np.uint32]


def normalise(text: str) -> str:
    """Returns the text without what makes no difference: case, width, and how much white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class ExactDuplicates:
    """Texts seen so far, by hash; texts that differ in white space, case or width are the same."""

    def __init__(self) -> None:
        self.seen: dict[bytes, str] = {}

    def find(self, text: str, place: str) -> str | None:
        """Returns where the same text stood first, or None, and then remembers it as of `place`."""
        digest = hashlib.sha256(normalise(text).encode("utf-8", "backslashreplace")).digest()[:16]
        first = self.seen.setdefault(digest, place)
        return None if first == place else first


class NearDuplicates:
    """Texts seen so far, by MinHash.

    Args:
        similarity: least Jaccard similarity of two texts that count as the same, in (0, 1].
    """

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        self.rows_per_band = _rows_per_band(similarity)
        generator = np.random.default_rng(0)  # which hashes: the same in every run
        self.factors = generator.integers(0, 2**63, NUM_HASHES, dtype=np.uint64) * 2 + 1
        self.offsets = generator.integers(0, 2**63, NUM_HASHES, dtype=np.uint64)
        self.signatures: list[Signature] = []
        self.places: list[str] = []
        self.buckets: dict[tuple[int, bytes], list[int]] = {}

    def find(self, text: str, place: str) -> str | None:
        """Returns where a text nearly the same stood, or None, and then remembers this one."""
        signature = self._signature(normalise(text))
        keys = self._keys(signature)
        candidates = sorted({i for key in keys for i in self.buckets.get(key, ())})
        if candidates:
            known = np.stack([self.signatures[i] for i in candidates])  # [C, NUM_HASHES]
            alike = (known == signature).mean(axis=1)
            best = int(alike.argmax())
            if alike[best] >= self.similarity:
                return self.places[candidates[best]]
        for key in keys:
            self.buckets.setdefault(key, []).append(len(self.places))
        self.signatures.append(signature)
        self.places.append(place)
        return None

    def _signature(self, text: str) -> Signature:
        """Returns the least of each hash over the text's character 5-grams, [NUM_HASHES]."""
        grams = {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}
        codes = [zlib.crc32(gram.encode("utf-8", "backslashreplace")) for gram in grams]
        values = np.array(codes, np.uint64)
        least = np.full(NUM_HASHES, 2**32 - 1, np.uint64)
        for part in np.array_split(values, -(-len(values) // 4096)):  # bounded memory
            # Multiply-shift (Dietzfelbinger et al. 1997), modulo 2^64; [S, NUM_HASHES].
            hashed = (part[:, None] * self.factors + self.offsets) >> np.uint64(32)
            least = np.minimum(least, hashed.min(axis=0))
        return least.astype(np.uint32)

    def _keys(self, signature: Signature) -> list[tuple[int, bytes]]:
        bands = signature.reshape(-1, self.rows_per_band)
        return [(number, band.tobytes()) for number, band in enumerate(bands)]


def _rows_per_band(similarity: float) -> int:
    """Returns the most hashes per band with which 99.9 % of pairs that similar share a band."""
    for rows in (32, 16, 8, 4, 2):
        if (1 - similarity**rows) ** (NUM_HASHES // rows) < 1e-3:
            return rows
    return 1


Finder = ExactDuplicates | NearDuplicates


def make_finder(kind: str, similarity: float) -> Finder | None:
    """Returns what finds duplicates of a kind: "exact", "near", or "none" of them."""
    finders: dict[str, Any] = {"exact": ExactDuplicates, "near": lambda: NearDuplicates(similarity)}
    return finders[kind]() if kind in finders else None
