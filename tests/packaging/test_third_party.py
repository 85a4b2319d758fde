"""Plugins of other people, installed beside alignzoo: they are found, hold, train, and leave.

The two of docs/examples are installed as anyone would, and one that `alignzoo new` writes as its
author would; at the end all are uninstalled again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = {"opo": "alignzoo-opo", "readability": "alignzoo-readability"}
PROMPT = '{"prompt": "Write about a dog."}\n'
TRAIN = "train opo --policy tiny --prompts prompts.jsonl --reward readability --max-new-tokens 8"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of someone who uses plugins, empty but for a prompt."""
    folder = tmp_path_factory.mktemp("third-party")
    (folder / "prompts.jsonl").write_text(PROMPT)
    return folder


@pytest.fixture(scope="module")
def pip(empty_environment: Path, run: Callable[..., str], home: Path) -> Callable[..., str]:
    """Runs the environment's pip."""
    words = (empty_environment, "-m", "pip", "--disable-pip-version-check")
    return lambda *more: run(*words, *more, cwd=home)


@pytest.fixture(scope="module")
def before(pip: Callable[..., str]) -> str:
    """What was installed before any of these tests."""
    return pip("freeze", "--all")


@pytest.fixture(scope="module")
def installed(root: Path, pip: Callable[..., str], before: str) -> Iterator[None]:
    """Both examples, in the environment while these tests run."""
    pip("install", *(root / "docs" / "examples" / name for name in EXAMPLES.values()))
    yield
    pip("uninstall", "--yes", *EXAMPLES.values(), "alignzoo-mine", "pyphen")
    assert pip("freeze", "--all") == before


@pytest.fixture(scope="module")
def alignzoo(
    installed: None, empty_environment: Path, run: Callable[..., str], home: Path
) -> Callable[..., str]:
    """Runs the installed `alignzoo` in the home folder, offline."""
    command = empty_environment.with_name("alignzoo")

    def run_alignzoo(text: str, *more: object) -> str:
        return run(command, *text.split(), *more, cwd=home, HOME=str(home), HF_HUB_OFFLINE="1")

    return run_alignzoo


def owners(listed: str) -> dict[str, tuple[str, str]]:
    """Returns distribution and version of every id that `alignzoo list --json` prints."""
    kinds = json.loads(listed).values()
    return {
        entry["id"]: (entry["distribution"], entry["version"]) for kind in kinds for entry in kind
    }


def test_the_examples_are_listed_with_their_owners(alignzoo):
    found = owners(alignzoo("list --json"))
    assert {id: found[id] for id in EXAMPLES} == {
        id: (name, "0.1.0") for id, name in EXAMPLES.items()
    }


@pytest.mark.parametrize("id", EXAMPLES)
def test_an_example_passes_the_kit(alignzoo, id):
    alignzoo(f"check {id}")


def test_the_numbers_worked_by_hand_come_out(
    installed, empty_environment, pip, run, root, home, tmp_path
):
    # pytest lies apart, so that the environment stays as a user's.
    pip("install", "--quiet", "--target", tmp_path, "pytest")
    for name in EXAMPLES.values():
        run(
            *(empty_environment, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-k", "not conformance", root / "docs" / "examples" / name),
            cwd=home,
            PYTHONPATH=str(tmp_path),
            PYTHONDONTWRITEBYTECODE="1",
        )


def test_an_example_trains_with_the_other_and_is_resumed(alignzoo, home):
    alignzoo(f"{TRAIN} --batch-size 8 --steps 1 --threads 1 --out run")
    alignzoo("train --resume --out run --steps 2")
    lines = (home / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    config = (home / "run" / "config.yaml").read_text()
    for name in EXAMPLES.values():
        assert name in config


def test_an_example_is_benchmarked_beside_ours(alignzoo, home):
    alignzoo("bench opo rloo --task chain --seeds 1 --budget samples=256 --out bench")
    lines = (home / "bench" / "results.jsonl").read_text().splitlines()
    rows = {row["algorithm"]: row for row in map(json.loads, lines)}
    assert {id: row["status"] for id, row in rows.items()} == {"opo": "ok", "rloo": "ok"}
    assert (rows["opo"]["distribution"], rows["opo"]["version"]) == ("alignzoo-opo", "0.1.0")


def test_a_plugin_of_ones_own_is_written_installed_and_holds(alignzoo, pip, home):
    alignzoo("new mine --kind reward")
    pip("install", "--editable", home / "alignzoo-mine")
    assert owners(alignzoo("list --json"))["mine"] == ("alignzoo-mine", "0.1.0")
    alignzoo("check mine")
    source = home / "alignzoo-mine" / "alignzoo_mine.py"
    source.write_text(source.read_text().replace("len(set(words)) /", "len(words) /"))
    with pytest.raises(pytest.fail.Exception, match="scored"):  # an edit counts at once
        alignzoo("check mine --only examples_hold")


def test_uninstalled_they_leave_nothing(alignzoo, pip, before, home):
    pip("uninstall", "--yes", *EXAMPLES.values(), "alignzoo-mine", "pyphen")
    found = owners(alignzoo("list --json"))
    assert not {*EXAMPLES, "mine"} & found.keys()
    assert pip("freeze", "--all") == before
    with pytest.raises(pytest.fail.Exception, match="'opo' of alignzoo-opo"):
        alignzoo("train --resume --out run --steps 3")
