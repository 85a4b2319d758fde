"""The project installs from `git archive`, where there is no history to take a version from."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# No dependency is installed here: reading the version must need none.
SHOW = """
import importlib.metadata, importlib.util, alignzoo
print(alignzoo.__version__, importlib.metadata.version("alignzoo"))
print(alignzoo.__file__)
print(importlib.util.find_spec("alignzoo.plugins.sft").origin)
"""


@pytest.fixture(scope="module")
def unpacked(root, run, tmp_path_factory) -> Path:
    """The committed tree, as `git archive` gives it."""
    if not (root / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("archive")
    run("git", "archive", "--output", folder / "tree.zip", "HEAD", cwd=root)
    with zipfile.ZipFile(folder / "tree.zip") as archive:
        archive.extractall(folder / "tree")
    return folder / "tree"


def test_an_archive_has_every_source_of_the_core(root, unpacked):
    sources = {path.relative_to(root) for path in (root / "csrc").rglob("*") if path.is_file()}
    sources |= {Path("CMakeLists.txt"), Path("pyproject.toml")}
    assert all((unpacked / path).exists() for path in sources)


@pytest.fixture(scope="module")
def python(new_environment, tmp_path_factory) -> Path:
    return new_environment(tmp_path_factory.mktemp("archive-env") / "env")


def test_an_archive_installs_with_its_static_version(unpacked, python, run, tmp_path):
    # All other tests run on a core that was compiled from these sources.
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    fast = "--config-settings=wheel.cmake=false"
    run(*pip, "install", "--no-deps", fast, unpacked, cwd=tmp_path)
    versions, package, plugin = run(python, "-c", SHOW, cwd=tmp_path).splitlines()
    assert versions == "0.1.0 0.1.0"
    for file in (package, plugin):
        assert Path(file).is_relative_to(python.parents[1])
