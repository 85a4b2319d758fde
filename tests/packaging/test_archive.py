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
print(importlib.util.find_spec("alignzoo._core").origin)
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


@pytest.fixture(scope="module")
def python(new_environment, tmp_path_factory) -> Path:
    return new_environment(tmp_path_factory.mktemp("archive-env") / "env")


def test_an_archive_installs_with_its_static_version(unpacked, python, run, tmp_path):
    # The editable install is the one that all other tests run in.
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    fast = "--config-settings=cmake.build-type=Debug"  # what is compiled is not run here
    run(*pip, "install", "--no-deps", fast, unpacked, cwd=tmp_path)
    versions, package, core, plugin = run(python, "-c", SHOW, cwd=tmp_path).splitlines()
    assert versions == "0.1.0 0.1.0"
    for file in (package, plugin, core):
        assert Path(file).is_relative_to(python.parents[1])
