"""What a reward learned, on disk: `NAME.json` for settings, `NAME.safetensors` for arrays.

No pickle: nothing in these files can run. The JSON holds the SHA-256 of the arrays' file, so that
a damaged or exchanged one is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import DataError

FORMAT = 1
Arrays = dict[str, NDArray[Any]]


def write_model(
    folder: str | Path,
    settings: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    *,
    name: str = "model",
) -> None:
    """Writes `FOLDER/NAME.json` and `FOLDER/NAME.safetensors`; the folder is made.

    Args:
        settings: JSON-able; text lists such as a vocabulary belong here.
        arrays: numbers of any shape, by name.
    """
    from safetensors.numpy import save

    data_file, about_file = _files(folder, name)
    data_file.parent.mkdir(parents=True, exist_ok=True)
    # As bytes, since `save_file` makes a file that its owner alone may read.
    data_file.write_bytes(save({k: np.ascontiguousarray(array) for k, array in arrays.items()}))
    about = {"format": FORMAT, "sha256": _digest(data_file), "settings": dict(settings)}
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    about_file.write_text(text + "\n", encoding="utf-8")


def read_model(folder: str | Path, *, name: str = "model") -> tuple[dict[str, Any], Arrays]:
    """Returns what `write_model` wrote: settings and arrays.

    Raises:
        DataError: a file is missing, damaged, of another format, or belongs to another.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    data_file, about_file = _files(folder, name)
    for file in (about_file, data_file):
        if not file.is_file():
            raise DataError(f"{file}: no such file; it belongs to a trained reward.")
    try:
        about = json.loads(about_file.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise DataError(f"{about_file}: expected a model of format {FORMAT}.")
        settings, digest = about["settings"], about["sha256"]
        if not isinstance(settings, dict):
            raise TypeError("'settings' is no object")
        if _digest(data_file) != digest:
            raise DataError(f"{data_file}: its checksum is not the one in {about_file.name}.")
        return settings, load_file(data_file)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{about_file}: damaged ({type(error).__name__}: {error}).") from None


def _files(folder: str | Path, name: str) -> tuple[Path, Path]:
    return Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}.json"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
