"""`alignzoo data`: each subcommand on files, what it prints, and its errors in one line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignzoo import cli

PAIRS = [{"prompt": f"p{i % 5}", "chosen": f"good {i}", "rejected": "bad"} for i in range(10)]
TASKS = [{"task": "add", "definition": "Add.", "prompt": "Sum?"}]
INSTANCES = [{"task": "add", "input": f"{i} 1", "outputs": [str(i + 1)]} for i in range(12)]


def write(name: str, rows: list[Any]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(name: str) -> list[Any]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("pairs.jsonl", PAIRS)
    write("tasks.jsonl", TASKS)
    write("instances.jsonl", INSTANCES)
    write("talk.jsonl", [{"turns": ["你好", "您好！", "再见"]}])
    write("broken.jsonl", [*PAIRS, "{", {"prompt": "a", "chosen": "b"}])
    return tmp_path


def run(command: str) -> int:
    return cli.main(["data", *command.split()])


def test_check_prints_what_a_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check pairs.jsonl") == 0
    printed = capsys.readouterr().out
    for line in ("kind               preferences", "rows               10", "wrong rows         0"):
        assert line in printed
    assert "completion length  3 to 6, median 6 characters" in printed


def test_check_gives_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check pairs.jsonl --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["rows"], found["prompts"]) == ("preferences", 10, 5)
    assert found["lengths"]["prompt"] == {"least": 2.0, "median": 2.0, "largest": 2.0}


def test_check_tells_the_problems_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check broken.jsonl") == 2
    printed = capsys.readouterr()
    assert "wrong rows         2" in printed.out
    assert "broken.jsonl, line 12: no column 'rejected'" in printed.err
    last = printed.err.splitlines()[-1]
    assert last.startswith("error: broken.jsonl, line 11: malformed JSON")
    assert last.endswith("Rows that are wrong: 2.")


def test_convert_makes_one_kind_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert pairs.jsonl --to demonstrations --out d.jsonl --json") == 0
    counts = {"rows written": 10, "wrong rows": 0}
    assert json.loads(capsys.readouterr().out) == {"out": "d.jsonl", "counts": counts}
    assert read("d.jsonl")[3] == {"prompt": "p3", "completion": "good 3"}


def test_columns_may_have_other_names() -> None:
    write("votes.jsonl", [{"tweet": "a", "hate": 1}])
    columns = '{"text":"tweet","label":"hate"}'
    assert cli.main(["data", "convert", "votes.jsonl", "--to", "classes", "--columns", columns,
                     "--out", "c.jsonl"]) == 0  # fmt: skip
    assert read("c.jsonl") == [{"prompt": "", "completion": "a", "label": "1"}]


def test_wrong_rows_are_left_out_only_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert broken.jsonl --to preferences --out p.jsonl") == 2
    assert not Path("p.jsonl").exists()
    capsys.readouterr()
    assert run("convert broken.jsonl --to preferences --out p.jsonl --skip-wrong") == 0
    assert len(read("p.jsonl")) == 10
    told = capsys.readouterr().err
    assert told.startswith("left out 2 wrong rows; the first: broken.jsonl, line 11: malformed")


def test_filter_counts_what_it_drops_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    write("mixed.jsonl", [PAIRS[0], PAIRS[0], PAIRS[1], {**PAIRS[2], "chosen": "x" * 50}])
    assert run("filter mixed.jsonl --max-completion 20 --out f.jsonl --json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["counts"] == {
        "rows read": 4,
        "kept": 2,
        "wrong rows": 0,
        "dropped: exact duplicate": 1,
        "dropped: completion too long": 1,
    }
    assert printed["first"]["exact duplicate"] == ["mixed.jsonl, line 2"]
    assert read("f.jsonl") == PAIRS[:2]


def test_split_writes_a_file_for_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    parts = '{"train":0.5,"test":0.5}'
    assert cli.main(["data", "split", "pairs.jsonl", "--parts", parts, "--out", "parts"]) == 0
    rows = read("parts/train.jsonl"), read("parts/test.jsonl")
    assert sorted(map(json.dumps, rows[0] + rows[1])) == sorted(map(json.dumps, PAIRS))
    assert {row["prompt"] for row in rows[0]}.isdisjoint(row["prompt"] for row in rows[1])
    assert f"train  {len(rows[0])}" in capsys.readouterr().out


def test_build_makes_demonstrations_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build instances.jsonl --tasks tasks.jsonl --per-instance 2 --out b.jsonl") == 0
    rows = read("b.jsonl")
    assert len(rows) == 24
    assert {row["template"] for row in rows} == {"definition", "short", "last"}
    assert "rows                 24" in capsys.readouterr().out


def test_build_takes_templates_from_a_file() -> None:
    Path("t.yaml").write_text('- {name: n, prompt: "{{ input }}?", completion: "{{ output }}"}\n')
    assert run("build instances.jsonl --templates t.yaml --layout text --out b.jsonl") == 0
    assert read("b.jsonl")[0] == {
        "prompt": "0 1?",
        "completion": "1",
        "task": "add",
        "template": "n",
    }


def test_dialogues_makes_chats(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("dialogues talk.jsonl --out d.jsonl --system 好 --json") == 0
    messages = read("d.jsonl")[0]["messages"]
    assert [(m["role"], m["content"]) for m in messages] == [
        ("system", "好"),
        ("user", "你好"),
        ("assistant", "您好！"),
    ]
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert counts["changed: turn without an answer left out"] == 1


def test_a_file_may_take_the_place_of_its_source() -> None:
    assert run("filter pairs.jsonl --out pairs.jsonl --min-completion 1") == 0
    assert read("pairs.jsonl") == PAIRS


ERRORS = {
    "": "name what to do: check, convert, filter, split, build, dialogues",
    "chek pairs.jsonl": "data has no command 'chek'; expected one of .* Did you mean 'check'",
    "check": "data check needs a file: alignzoo data check FILE",
    "check absent.jsonl": r"no file absent\.jsonl",
    "check pairs.jsonl more": "data check was given 'more', which belongs to no option",
    "convert pairs.jsonl --to demonstrations": "--out",
    "convert pairs.jsonl --to ratings --kind rankings --out a.jsonl": "ratings cannot be made of r",
    "convert pairs.jsonl --to pairs --out a.jsonl": "'pairs' is no kind of data; expected one of",
    "filter pairs.jsonl --out a.txt": r"'a\.txt' is to be written; expected a name in \.jsonl or",
    "filter pairs.jsonl --out no/a.jsonl": r"'no/a\.jsonl' cannot be written: No such file",
    "filter pairs.jsonl --out a.jsonl --similarity 2": "--similarity",
    "filter pairs.jsonl --out a.jsonl --kind pair": "'pair' is no kind of data",
    "split pairs.jsonl --out parts --parts {}": "parts is nothing; expected two or more shares",
    "split pairs.jsonl --out pairs.jsonl": r"'pairs\.jsonl' cannot be made: File exists",
    "build instances.jsonl --out a.jsonl --templates absent.yaml": r"no file absent\.yaml",
    "build instances.jsonl --out a.jsonl --tasks pairs.jsonl": "no name in the column 'task'",
    "build pairs.jsonl --out a.jsonl --tasks tasks.jsonl": r"pairs\.jsonl, line 1: no text in",
    "dialogues pairs.jsonl --out a.jsonl": r"pairs\.jsonl, line 1: no column 'messages'",
}  # fmt: skip


@pytest.mark.parametrize("command", ERRORS)
def test_what_is_wrong_is_told_in_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command) == 2
    printed = capsys.readouterr().err
    assert re.match(f"error: .*{ERRORS[command]}", printed), printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("name", ["check", "convert", "filter", "split", "build", "dialogues"])
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{name} --help") == 0
    assert f"alignzoo data {name}" in capsys.readouterr().out


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in ("check", "filter", "split", "build"))


def test_it_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from alignzoo.cli import main\n"
        "assert main(['data', 'filter', 'pairs.jsonl', '--out', 'f.jsonl']) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc says what is used")
def test_a_large_file_is_converted_in_little_memory() -> None:
    """A file of 23 MB of text, of which one row is held at a time."""
    row = json.dumps({"prompt": "a" * 500, "chosen": "b" * 500, "rejected": "c" * 500}) + "\n"
    with Path("large.jsonl").open("w") as file:
        for _ in range(15):
            file.write(row * 1000)
    code = (
        "import re, sys\n"
        "from alignzoo.cli import main\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
        "convert = ['convert', 'X.jsonl', '--to', 'demonstrations', '--out', 'd.jsonl.gz']\n"
        "assert main(['data', *' '.join(convert).replace('X', 'pairs').split()]) == 0\n"
        "before = peak()\n"
        "assert main(['data', *' '.join(convert).replace('X', 'large').split()]) == 0\n"
        "print(peak() - before, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stderr.split()[-1]) < 8 * 1024  # kB


# -- the page ------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_commands_of_the_page_run() -> None:
    write("talks.jsonl", [{"turns": ["hi", "hello"]}])
    commands = [line[2:] for block in fenced("console") for line in block.splitlines()]
    assert {command.split()[2] for command in commands} == {
        "check",
        "convert",
        "filter",
        "split",
        "build",
        "dialogues",
    }
    for command in commands:
        assert cli.main(shlex.split(command)[1:]) == 0, command


def test_the_templates_of_the_page_fill_in() -> None:
    (templates,) = fenced("yaml")
    Path("t.yaml").write_text(templates)
    rows: list[dict[str, str]] = [{"review": f"{i}", "verdict": "good"} for i in range(20)]
    for row in rows[9:]:
        row["product"] = "tea"
    write("reviews.jsonl", rows)
    assert run("build reviews.jsonl --templates t.yaml --layout text --out b.jsonl") == 0
    made = read("b.jsonl")
    assert {row["template"] for row in made[:9]} == {"short"}
    assert {row["template"] for row in made[9:]} == {"short", "about"}
    assert {row["completion"] for row in made} == {"good", "It is good."}
