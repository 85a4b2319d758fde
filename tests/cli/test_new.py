"""`alignzoo new`: what it writes works as it is, and what it refuses leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from documentation import ROOT, blocks
from fixture_plugins import run_alignzoo, run_python

import alignzoo as az
from alignzoo.cli import main, new

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUFF = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
KINDS = get_args(new.PluginKind)
# The shortest name, one with every kind of character, one the module itself has a use for.
NAMES = ("x", "my_nice-Plugin2", "field")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(name: str, kind: str) -> Path:
    """Returns the folder of a new plugin, written into the working directory."""
    assert main(["new", name, "--kind", kind]) == 0
    return Path(f"alignzoo-{name}").resolve()


def pretend_installed(folder: Path) -> Path:
    """Returns the folder of a new plugin with the record of an installer in it."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = project["entry-points"]["alignzoo"].items()
    (info / "entry_points.txt").write_text(
        "[alignzoo]\n" + "".join(f"{id} = {module}\n" for id, module in points)
    )
    return folder


# -- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_names_of_a_new_plugin_follow_from_the_one_given(here: Path, kind: str) -> None:
    folder = make("my-nice_one", kind)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("pyproject.toml", "README.md", "LICENSE"),
        *("alignzoo_my_nice_one.py", "tests/test_my_nice_one.py"),
    }
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "alignzoo-my-nice_one"
    assert project["entry-points"] == {"alignzoo": {"my-nice_one": "alignzoo_my_nice_one"}}
    assert "class MyNiceOne(" in (folder / "alignzoo_my_nice_one.py").read_text()
    assert [path.name for path in here.iterdir()] == [folder.name]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_template_is_left(here: Path, kind: str) -> None:
    for path in make("x", kind).rglob("*"):
        if path.is_file():
            assert not re.search(r"PLUGIN_|ALIGNZOO_|TODO", path.read_text()), path


@pytest.mark.skipif(RUFF is None, reason="needs ruff")
@pytest.mark.parametrize("name", NAMES)
def test_ruff_has_nothing_to_say(here: Path, name: str) -> None:
    for kind in KINDS:
        folder = make(name, kind)
        rules = ("check", "--select", "E,F,W,I,B,UP,SIM,C4,RUF,PT,N,PIE,RET")
        for words in (rules, ("format", "--diff")):
            done = subprocess.run(
                [str(RUFF), words[0], "--isolated", "--no-cache", *words[1:], "."],
                cwd=folder,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mypy"), reason="needs mypy")
def test_mypy_has_nothing_to_say(here: Path) -> None:
    modules = [
        make(name, kind) / f"alignzoo_{name}.py" for name, kind in zip("abc", KINDS, strict=False)
    ]
    # The settings and the cache are the project's own, so that torch is not read again.
    done = subprocess.run(
        ["mypy", "--config-file", "pyproject.toml", *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_the_releases_it_asks_for_begin_with_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert new.requirement() == "alignzoo>=0.1,<0.2"
    for version, expected in [("0.12.3", ">=0.12,<0.13"), ("2.4.0.dev1", ">=2.4,<3")]:
        monkeypatch.setattr(az, "__version__", version, raising=False)
        assert new.requirement() == f"alignzoo{expected}"


def test_it_ends_by_saying_what_to_do_next(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("x", "algorithm")
    first, *steps = capsys.readouterr().out.splitlines()
    assert "alignzoo-x/alignzoo_x.py" in first
    assert [step.split("  #")[0].strip() for step in steps] == [
        *("pip install -e './alignzoo-x[test]'", "alignzoo check x", "pytest alignzoo-x"),
        "alignzoo train x --policy tiny ...",
    ]


# -- it works as it is -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_is_listed_and_described(here: Path, kind: str) -> None:
    folder = pretend_installed(make("x-y", kind))
    done = run_alignzoo("info", "x-y", "--json", path=folder)
    facts = json.loads(done.stdout)
    assert (facts["kind"], facts["distribution"], facts["version"]) == (
        kind,
        "alignzoo-x-y",
        "0.1.0",
    )
    assert facts["file"] == str(folder / "alignzoo_x_y.py")
    own = {"algorithm": "baseline", "reward": "min_words", "task": "max_tokens"}[kind]
    assert own in [option["name"] for option in facts["options"]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_passes_its_own_tests(here: Path, kind: str) -> None:
    folder = pretend_installed(make("x-y", kind))
    done = run_python("-m", "pytest", "-q", "tests", path=folder, cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_of_its_readme_run(here: Path, kind: str) -> None:
    folder = pretend_installed(make("x-y", kind))
    text = "".join(blocks(folder / "README.md", "console")).replace("\\\n", " ")
    own_tests = ("$ pip", "$ pytest", "$ alignzoo check")  # the checks are among them
    commands = [line[2:] for line in text.splitlines() if not line.startswith(own_tests)]
    assert commands
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    for command in commands:
        command = command.replace("--steps 10", "--steps 2")
        command = command.replace("--seeds 3", "--seeds 1 --budget samples=128")
        done = subprocess.run(
            command, shell=True, cwd=here, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("import", "word of Python's own"),
        ("1x", "can be no plugin's name"),
        ("a--b", "can be no plugin's name"),
        ("a_", "can be no plugin's name"),
        ("a/b", "can be no plugin's name"),
        ("größe", "can be no plugin's name"),
        ("", "can be no plugin's name"),
        ("alignzoo-x", "give 'x'"),
        ("ppo", "algorithm 'ppo' (plugin 'ppo' of alignzoo"),
        ("Length", "reward 'length' (plugin 'length' of alignzoo"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert main(["new", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(here.iterdir())


def test_a_folder_that_exists_is_left_as_it_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "alignzoo-x").mkdir()
    assert main(["new", "x"]) == 2
    assert "./alignzoo-x exists already" in capsys.readouterr().err
    assert not list((here / "alignzoo-x").iterdir())


def test_a_module_that_is_installed_is_not_written_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(here)
    (here / "alignzoo_x.py").write_text("")
    assert main(["new", "x"]) == 2
    assert "a module alignzoo_x is installed already" in capsys.readouterr().err


def test_an_unknown_kind_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "x", "--kind", "rewards"]) == 2
    assert "algorithm" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_what_cannot_be_written_whole_is_not_written_at_all(here: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        new.write_folder(Path("alignzoo-x"), {"a": "fine", "b": "\ud800"})
    assert not list(here.iterdir())
