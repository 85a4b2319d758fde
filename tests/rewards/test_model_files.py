"""What a reward learned, on disk: whole, readable, and refused when damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from alignzoo.errors import DataError
from alignzoo.model_files import read_model, write_model

SETTINGS = {"vocabulary": ["dog", "小狗", "a\nb"], "alpha": 0.1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model of two arrays."""
    arrays = {"weights": np.arange(6.0).reshape(2, 3), "children": np.array([-1, 2], np.int32)}
    write_model(tmp_path / "reward", SETTINGS, arrays)
    return tmp_path / "reward"


def test_settings_and_arrays_come_back_as_they_were(folder: Path) -> None:
    settings, arrays = read_model(folder)
    assert settings == SETTINGS
    assert arrays["weights"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["children"].dtype == np.int32


def test_an_array_that_is_not_contiguous_is_stored_as_it_reads(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3).T
    write_model(tmp_path, {}, {"array": array})
    assert (read_model(tmp_path)[1]["array"] == array).all()


def test_others_may_read_what_the_umask_lets_them(folder: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: no such file"):
        read_model(folder)


def test_a_flipped_byte_is_noticed(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"model.safetensors: its checksum is not the one"):
        read_model(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}', '{"format": 1, "settings": []}']
)
def test_settings_that_are_none_are_refused(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(DataError, match=r"model\.json"):
        read_model(folder)


def test_what_json_cannot_hold_is_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_model(tmp_path, {"alpha": float("nan")}, {})


def test_the_file_of_settings_is_plain_json(folder: Path) -> None:
    assert json.loads((folder / "model.json").read_text(encoding="utf-8"))["settings"] == SETTINGS
