"""The compiled core shows one symbol and needs neither torch nor an OpenMP runtime."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("readelf"),
    reason="reads ELF files with readelf, of binutils",
)

# The C and C++ runtimes; all else is inside.
RUNTIMES = ("libc.", "libm.", "libpthread.", "libdl.", "librt.", "libgcc_s.", "libstdc++.", "ld-")
# Type information of the C++ library's own templates, which its headers declare visible.
STANDARD_LIBRARY = ("_ZTISt", "_ZTINSt", "_ZTSSt", "_ZTSNSt", "_ZTVSt", "_ZTVNSt", "_ZNSt", "_ZSt")


@pytest.fixture(scope="module")
def installed_core() -> Path:
    spec = importlib.util.find_spec("alignzoo._core")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


@pytest.fixture(scope="module")
def shown_by_readelf(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("readelf")
    return lambda option, core: run("readelf", "--wide", option, core, cwd=folder)


def needed(listing: str) -> list[str]:
    return [line.split("[")[1].rstrip("]") for line in listing.splitlines() if "(NEEDED)" in line]


def exported(listing: str) -> list[str]:
    """Returns the dynamic symbols that the file defines and others can see."""
    rows = [line.split() for line in listing.splitlines()]
    return [
        row[7].partition("@")[0]
        for row in rows
        if len(row) == 8
        and row[4] in ("GLOBAL", "WEAK", "UNIQUE")
        and row[5] in ("DEFAULT", "PROTECTED")
        and row[6] != "UND"
    ]


def test_the_core_exports_its_entry_and_nothing_of_ours(installed_core, shown_by_readelf):
    symbols = exported(shown_by_readelf("--dyn-syms", installed_core))
    assert "PyInit__core" in symbols
    ours = [name for name in symbols if not name.startswith(STANDARD_LIBRARY)]
    assert ours == ["PyInit__core"]


def test_the_core_needs_only_the_language_runtimes(installed_core, shown_by_readelf):
    libraries = needed(shown_by_readelf("--dynamic", installed_core))
    assert libraries
    assert [name for name in libraries if not name.startswith(RUNTIMES)] == []


@pytest.mark.slow
def test_the_core_in_the_wheel_needs_only_the_language_runtimes(wheel, shown_by_readelf, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        core = Path(archive.extract(name, tmp_path))
    listing = shown_by_readelf("--dynamic", core)
    assert [name for name in needed(listing) if not name.startswith(RUNTIMES)] == []
    assert "RUNPATH" not in listing
    assert "RPATH" not in listing
