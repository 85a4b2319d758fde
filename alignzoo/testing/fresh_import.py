"""Imports one plugin in an interpreter of its own, and says as JSON what that brought with it.

Run as a program: NAME MODULE as arguments, the path to import from as JSON on standard input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import FrameType, ModuleType
from typing import Any

HEAVY = frozenset(
    {
        *("accelerate", "cv2", "datasets", "jax", "keras", "matplotlib", "pandas", "peft", "scipy"),
        *("sentence_transformers", "sklearn", "spacy", "tensorflow", "torch", "torchvision"),
        *("transformers", "trl", "vllm"),
    }
)


class HeavyImports:
    """A finder that finds nothing, and notes who imported something heavy first.

    Args:
        package: of the plugin; the line noted is the innermost of its own.
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self.seen: dict[str, str] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Returns nothing, so that the next finder is asked."""
        if name in HEAVY and name not in self.seen:
            self.seen[name] = self._place()

    def _place(self) -> str:
        """Returns the file and line that asks, as far inside the plugin as it can be followed."""
        frame: FrameType | None = sys._getframe(2)
        outside = ""
        while frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            place = f"{frame.f_code.co_filename}, line {frame.f_lineno}"
            if module == self.package or module.startswith(f"{self.package}."):
                return place
            if not outside and not module.startswith(("importlib", "_frozen_importlib")):
                outside = place
            frame = frame.f_back
        return outside


def main() -> None:
    """Imports the plugin and prints what was seen."""
    name, module = sys.argv[1:]
    sys.path[:] = json.load(sys.stdin)
    import numpy as _numpy  # noqa: F401 - what alignzoo brings takes none of the plugin's time

    from alignzoo import config as _config  # noqa: F401
    from alignzoo import plugin_loader

    manager = plugin_loader.new_manager()
    before = set(sys.modules)
    finder: Any = HeavyImports(module.rpartition(".")[0] or module)
    sys.meta_path.insert(0, finder)
    started = time.perf_counter()
    plugin, _, _ = plugin_loader.load(manager, plugin_loader.Plugin(name, module))
    seconds = time.perf_counter() - started
    heavy = {n: place for n, place in finder.seen.items() if n in sys.modules and n not in before}
    print(json.dumps({"error": plugin.error, "heavy": heavy, "seconds": seconds}))


if __name__ == "__main__":
    main()
