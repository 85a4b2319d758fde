"""Scores responses in an interpreter of its own. Run as a program: JSON in, JSON out."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Makes the reward, loads what it learned if a folder is given, and prints its scores."""
    request: dict[str, Any] = json.load(sys.stdin)
    sys.path[:] = request["path"]
    from alignzoo.config import build_config
    from alignzoo.plugin_loader import output_to_stderr
    from alignzoo.reward import declared_arguments
    from alignzoo.scoring import checked_scores

    with output_to_stderr():
        module, _, name = request["target"].partition(":")
        cls: Any = importlib.import_module(module)
        for part in name.split("."):
            cls = getattr(cls, part)
        reward = cls(build_config(cls.Config, request["options"], name))
        if "folder" in request:
            reward.load(Path(request["folder"]))
        names, takes_all = declared_arguments(reward.score)
        given = {k: v for k, v in request["arguments"].items() if takes_all or k in names}
        scores = checked_scores(reward.score(**given), len(given["responses"]), name)
    print(json.dumps([None if score != score else float(score) for score in scores]))


if __name__ == "__main__":
    main()
