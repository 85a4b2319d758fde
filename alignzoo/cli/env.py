"""`alignzoo env`: what a bug report needs. Imports no plugin and no torch."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from alignzoo.cli.arguments import Parser
from alignzoo.cli.output import print_json
from alignzoo.plugin_loader import ALLOW_VARIABLE

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pydantic",
    "pluggy",
    "datasets",
    "peft",
)
VARIABLES = (ALLOW_VARIABLE, "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES")


def run(arguments: list[str]) -> int:
    """Prints versions, processor and build, as text or JSON."""
    parser = Parser("env", "Shows versions, processor and build, for a bug report.")
    parser.switch("json", "print JSON")
    given = parser.parse(arguments)
    facts = environment()
    if given.json:
        print_json(facts)
        return 0
    for title, values in facts.items():
        if not isinstance(values, dict):
            print(f"{title:14} {values}")
            continue
        for name, value in values.items():
            print(f"{title + ' ' + name:28} {_text(value)}")
    return 0


def environment() -> dict[str, Any]:
    """Returns the facts that `env` prints, by topic."""
    return {
        "alignzoo": _version("alignzoo"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "package": {name: _version(name) for name in PACKAGES},
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "usable": _usable_cores()},
        "core": _core(),
        "variable": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _usable_cores() -> int | None:
    """Returns how many cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count()


def _core() -> dict[str, Any]:
    """Returns what the compiled core says of its build, or why it says nothing."""
    try:
        core = importlib.import_module("alignzoo._core")
    except ImportError as error:
        return {"error": f"{error}; reinstall alignzoo"}
    build_info = getattr(core, "build_info", None)
    if build_info is None:
        return {}
    return {**build_info(), "cuda_devices": core.cuda_device_count()}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "not installed" if value is None else str(value)
