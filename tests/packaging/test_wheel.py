"""The wheel holds the library, the zoo and the core, and nothing else."""

from __future__ import annotations

import configparser
import email
import zipfile

import pytest

pytestmark = pytest.mark.slow
PACKAGES = {"alignzoo": "alignzoo", "plugins": "alignzoo/plugins"}


@pytest.fixture(scope="module")
def archive(wheel):
    with zipfile.ZipFile(wheel) as opened:
        yield opened


@pytest.fixture(scope="module")
def info(archive):
    """Reads a file of the wheel's .dist-info."""
    (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    return lambda name: archive.read(f"{folder}/{name}").decode()


def test_the_wheel_holds_every_module_and_data_file_of_the_tree(archive, root):
    expected = {
        f"{target}/{path.relative_to(root / source).as_posix()}"
        for source, target in PACKAGES.items()
        for path in (root / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    held = {name for name in archive.namelist() if ".dist-info/" not in name}
    (core,) = {name for name in held if name.endswith((".so", ".pyd"))}
    assert core.startswith("alignzoo/_core.")
    assert held - {core} == expected


def test_a_wheel_without_cuda_is_under_two_megabytes(wheel):
    assert wheel.stat().st_size < 2 << 20


def test_the_wheel_holds_the_licence(info):
    assert "Permission is hereby granted" in info("licenses/LICENSE")


def test_the_wheel_names_its_entry_points(info, project):
    points = configparser.ConfigParser()
    points.optionxform = str
    points.read_string(info("entry_points.txt"))
    assert dict(points["alignzoo"]) == project["project"]["entry-points"]["alignzoo"]
    assert dict(points["console_scripts"]) == {"alignzoo": "alignzoo.cli:main"}


def test_the_wheel_says_its_version_licence_and_python(info, project):
    metadata = email.message_from_string(info("METADATA"))
    assert metadata["Version"] == project["project"]["version"] == "0.1.0"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
