"""The commands on the pages of algorithms run."""

from __future__ import annotations

from pathlib import Path

import pytest
from documentation import PAGES, commands, run


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_algorithm_page_commands_run(page: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    (tmp_path / "instructions.jsonl").write_text('{"instruction": "Greet.", "output": "Hi."}\n')
    pair = '{"prompt": "Hello", "chosen": " you", "rejected": " them"}\n'
    (tmp_path / "pairs.jsonl").write_text(pair)
    rated = '{"prompt": "Hello", "completion": " you", "rating": 1}\n'
    (tmp_path / "ratings.jsonl").write_text(rated + rated.replace("you", "us").replace("1", "0"))
    for command in commands(page):
        run(command, tmp_path)
