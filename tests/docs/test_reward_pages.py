"""The commands on the pages of rewards run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from documentation import REWARD_PAGES, commands, run
from judgement_rows import judgements


@pytest.mark.slow
@pytest.mark.parametrize("page", REWARD_PAGES, ids=lambda page: page.stem)
def test_reward_page_commands_run(page: Path, tmp_path: Path) -> None:
    for name, rows in judgements().items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    for command in commands(page):
        run(command, tmp_path)
