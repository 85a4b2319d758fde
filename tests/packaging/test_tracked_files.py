"""The repository speaks of the project alone: no machine's paths, no diary, nothing huge."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

MEGABYTE = 1 << 20
# The homes that examples and tests invent are nobody's.
MACHINE_PATHS = re.compile(
    r"(?<![\w.~])/(?:work|root|opt/pypi|opt/wheels|tmp/env|Users)/"
    r"|(?<![\w.~])/home/(?!(?:someone|somebody|user|me|you)\b)"
)
DIARY = re.compile(
    r"\b(?:this|that|next|last|earlier|later|previous|another) session\b"
    r"|\bissues? (?:show )?#?\d{1,3}\b|\bworkplace\b|\bCEO\b|\bsub-?agents?\b"
    r"|\bcontracts\.md\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def tracked(root, run) -> list[Path]:
    """Every tracked file but this one, which holds the patterns."""
    if not (root / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    names = run("git", "ls-files", "-z", cwd=root).split("\0")
    files = [root / name for name in names if name and (root / name).is_file()]
    return [path for path in files if path.name != Path(__file__).name]


def found(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    hits = []
    for path in files:
        text = path.read_bytes().decode("utf-8", errors="ignore")
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                hits.append(f"{path}:{number}: {line.strip()[:120]}")
    return hits


def test_no_tracked_file_names_a_path_of_one_machine(tracked):
    assert found(MACHINE_PATHS, tracked) == []


def test_no_tracked_file_speaks_of_how_it_was_made(tracked):
    assert found(DIARY, tracked) == []


def test_no_tracked_file_is_over_a_megabyte(tracked):
    assert [str(path) for path in tracked if path.stat().st_size > MEGABYTE] == []


def test_no_built_file_is_tracked(tracked):
    built = (".so", ".o", ".pyc", ".whl", ".pyd", ".dylib")
    assert [str(path) for path in tracked if path.suffix in built] == []
