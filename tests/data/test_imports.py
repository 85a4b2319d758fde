"""Reading data and scoring need neither torch nor transformers."""

from __future__ import annotations

import subprocess
import sys


def test_readers_and_rewards_import_no_heavy_library() -> None:
    code = (
        "import sys, alignzoo.data, alignzoo.scoring, alignzoo.plugins.keywords, "
        "alignzoo.plugins.length\n"
        "heavy = {'torch', 'transformers', 'datasets', 'jinja2', 'py3langid', 'sklearn'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
