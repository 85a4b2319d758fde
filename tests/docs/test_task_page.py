"""The page of tasks: every task is on it, with the options that the code says."""

from __future__ import annotations

import os
import re

import pytest
from documentation import ROOT, option_table

import alignzoo as az

PAGE = ROOT / "docs" / "tasks.md"
TABLE = re.compile(r"<!-- options: (\w+) -->\n((?:\|.*(?:\n|$))*)")
IDS = sorted(entry.id for entry in az.registry().tasks if entry.plugin.first_party)


@pytest.mark.parametrize("id", IDS)
def test_a_task_is_on_the_page_with_its_options(id: str) -> None:
    table = option_table(az.registry().task(id).Config)
    if os.environ.get("ALIGNZOO_WRITE_DOCS"):
        text = re.sub(
            rf"<!-- options: {id} -->\n(?:\|.*\n)*",
            lambda _: f"<!-- options: {id} -->\n{table}\n",
            PAGE.read_text(),
        )
        PAGE.write_text(text)
    tables = dict(TABLE.findall(PAGE.read_text()))
    assert id in tables
    assert tables[id].strip() == table, "run with ALIGNZOO_WRITE_DOCS=1 to write it anew"


@pytest.mark.parametrize("id", [id for id in IDS if id != "gsm8k"])  # which needs options
def test_the_page_gives_a_task_s_range_optimum_and_budget(id: str) -> None:
    (line,) = re.findall(rf"^\| \[`{id}`\].*$", PAGE.read_text(), re.M)
    metric_range, optimum, budget = (line.split(" | ")[i].rpartition(": ")[2] for i in (2, 3, 5))
    task = az.registry().build("task", id, {})
    assert tuple(float(end) for end in metric_range.split(" to ")) == pytest.approx(
        task.range, abs=0.005
    )
    assert float(optimum) == pytest.approx(task.optimum, abs=0.005)
    assert int(budget.rstrip(" |").replace(",", "")) == task.samples


def test_the_page_names_no_task_that_is_not_there() -> None:
    assert sorted(dict(TABLE.findall(PAGE.read_text()))) == IDS
