"""Which rows leave a buffer so that others have room."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import DataError

Array = NDArray[Any]


def beyond_kept(versions: Array, version: int, keep_versions: int) -> Array:
    """Returns which rows [R] are not of the newest `keep_versions`, `version` among them.

    Raises:
        DataError: `version` itself is none of the newest.
    """
    kept = np.unique([*versions.tolist(), version])[-keep_versions:]
    if version < kept[0]:
        raise DataError(
            f"policy_version is {version}, older than every version kept "
            f"({', '.join(map(str, kept))}); raise keep_versions ({keep_versions})."
        )
    leaving: Array = versions < kept[0]
    return leaving


def beyond_bytes(
    versions: Array,
    sizes: Array,
    leaving: Array,
    *,
    version: int,
    new_bytes: int,
    max_bytes: int | None,
) -> Array:
    """Returns `leaving` [R] and what must leave besides: oldest versions, none from `version` on.

    Args:
        versions: policy version of each row [R].
        sizes: bytes of each row [R].
        leaving: rows that leave in any case [R].
        version: the version that needs room; it and newer ones stay.
        new_bytes: bytes that are coming.
        max_bytes: the bound; None for none.
    Raises:
        DataError: what must stay does not fit; names both numbers.
    """
    leaving = leaving.copy()
    while max_bytes is not None:
        total = int(sizes[~leaving].sum()) + new_bytes
        if total <= max_bytes:
            break
        oldest = int(versions[~leaving].min(initial=version))
        if oldest >= version:
            raise DataError(
                f"max_bytes is {max_bytes}, but policy version {version} (with any newer) takes "
                f"{total}; raise max_bytes or append fewer rows."
            )
        leaving |= versions == oldest
    return leaving
