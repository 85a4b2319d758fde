"""What the docs claim is run: snippets, commands, option tables and the table of algorithms."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from documentation import (
    PAGES,
    REWARD_PAGES,
    ROOT,
    SMALL,
    blocks,
    commands,
    option_table,
    run,
    write_modules,
)
from fixture_plugins import write_distribution

import alignzoo as az

TABLE = re.compile(r"<!-- options: (\w+) -->\n((?:\|.*(?:\n|$))*)")


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/benchmark-statistics.md",
        "docs/plugins/contract.md",
        "docs/rewards/report.md",
    ],
)
def test_python_snippets_run(page: str, tmp_path: Path) -> None:
    scripts = write_modules(tmp_path, blocks(ROOT / page, "python"))
    assert scripts or page == "docs/plugins/contract.md"
    for number, script in enumerate(scripts):
        (tmp_path / f"snippet_{number}.py").write_text(script)
        run([sys.executable, f"snippet_{number}.py"], tmp_path)


def test_readme_commands_run_in_order(tmp_path: Path) -> None:
    for command in commands(ROOT / "README.md"):
        if "pip install" in command:  # tests/packaging does what is written here
            source = (tmp_path / "alignzoo-mine" / "alignzoo_mine.py").read_text()
            points = {"mine": "alignzoo_mine"}
            write_distribution(tmp_path, "alignzoo-mine", {"alignzoo_mine": source}, plugins=points)
        else:
            run(command, tmp_path)
    assert (tmp_path / "run" / "report.html").exists()
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert len(scored) == 4
    assert all(0 <= row["score"] <= 1 for row in scored)


def test_readme_plugin_and_reward_run(tmp_path: Path) -> None:
    write_modules(tmp_path, blocks(ROOT / "README.md", "python"))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    run(
        "alignzoo -p alignzoo_loo train loo --policy tiny --prompts prompts.jsonl "
        f"--reward my_rewards.py:brevity --out loo {SMALL}",
        tmp_path,
    )
    lines = (tmp_path / "loo" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_plugin_page_reward_scores(tmp_path: Path) -> None:
    write_modules(tmp_path, blocks(ROOT / "docs" / "plugins" / "contract.md", "python"))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "", "completion": "ABcd"}\n')
    run(
        "alignzoo -p alignzoo_shouting score --reward shouting --data rows.jsonl --out out.jsonl",
        tmp_path,
    )
    assert json.loads((tmp_path / "out.jsonl").read_text())["score"] == 0.5


def test_plugin_page_reward_learns(tmp_path: Path) -> None:
    write_modules(tmp_path, blocks(ROOT / "docs" / "plugins" / "contract.md", "python"))
    rows = [{"prompt": f"{i}", "completion": "a " * (i % 5), "rating": i % 5} for i in range(40)]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plugin = "alignzoo -p alignzoo_wordiness"
    run(f"{plugin} train-reward wordiness --data ratings.jsonl --out lengthy", tmp_path)
    run(f"{plugin} score --reward lengthy --data ratings.jsonl --out out.jsonl", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == pytest.approx([row["rating"] for row in rows])


def table_of(id: str) -> str:
    found = az.registry()
    owner = found.algorithm(id) if found.matches("algorithm", id) else found.reward(id)
    return option_table(owner.Config)


@pytest.mark.parametrize("page", [*PAGES, *REWARD_PAGES], ids=lambda page: page.stem)
def test_option_table_is_what_the_code_says(page: Path) -> None:
    text = page.read_text()
    if os.environ.get("ALIGNZOO_WRITE_DOCS"):
        page.write_text(
            TABLE.sub(lambda found: f"<!-- options: {found[1]} -->\n{table_of(found[1])}\n", text)
        )
        return
    tables = dict(TABLE.findall(text))
    assert tables or page.stem == "report"  # which is no reward's page
    for id, table in tables.items():
        assert table.strip() == table_of(id), "run with ALIGNZOO_WRITE_DOCS=1 to write it anew"


def test_every_algorithm_is_in_the_readme_and_has_a_page() -> None:
    ours = {e.id: e.plugin.name for e in az.registry().algorithms if e.plugin.first_party}
    for page in ("README.md", "docs/algorithms/README.md"):
        named = re.findall(r"`(\w+)`", (ROOT / page).read_text())
        assert set(ours) <= set(named), page
    assert {page.stem for page in PAGES} == set(ours.values())  # one page for a plugin's family
    for id, plugin in ours.items():
        assert (
            f"`{id}`" in (ROOT / "docs" / "algorithms" / f"{plugin}.md").read_text() or id == plugin
        )


def test_every_reward_is_in_the_readme_and_has_a_page() -> None:
    ours = {e.id: e.plugin.name for e in az.registry().rewards if e.plugin.first_party}
    for page in ("README.md", "docs/rewards/README.md"):
        named = re.findall(r"`(\w+)`", (ROOT / page).read_text())
        assert set(ours) <= set(named), page
    tables = "".join(page.read_text() for page in REWARD_PAGES)
    for id, plugin in ours.items():
        assert f"<!-- options: {id} -->" in tables, id
        is_rule = not az.registry().reward(id).learns_from
        assert ("rules" if is_rule else plugin) in {page.stem for page in REWARD_PAGES}, id


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_test_that_the_correctness_page_names_exists() -> None:
    page = (ROOT / "docs" / "correctness.md").read_text()
    files = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for name in re.findall(r"`(test_\w+)`", page):
        assert any(f"def {name}(" in text for text in files.values()), name
    for name in re.findall(r"`(tests/\S+\.py)`", page):
        assert (ROOT / name).exists(), name


def test_every_line_that_a_test_cites_is_on_the_correctness_page() -> None:
    lines = set(re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "correctness.md").read_text(), re.M))
    for path in (ROOT / "tests").rglob("*.py"):
        cited = set(re.findall(r"correctness\.md #(\d+)", path.read_text()))
        assert cited <= lines, f"{path.name} cites {sorted(cited - lines)}"
