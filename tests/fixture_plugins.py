"""Plugin distributions made of a few files in a temporary folder, and fresh processes to try them.

A distribution is a `.dist-info` folder beside its modules; put on the path, it is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def write_distribution(
    folder: Path,
    distribution: str,
    modules: Mapping[str, str],
    *,
    plugins: Mapping[str, str] | None = None,
    version: str = "1.5",
) -> None:
    """Writes a distribution of `modules` (name to source) and its entry points (name to module).

    Without `plugins`, each module is a plugin of its own name.
    """
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    points = plugins if plugins is not None else {name: name for name in modules}
    lines = ["[alignzoo]", *(f"{name} = {module}" for name, module in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")


def reward_plugin(id: str, *, before: str = "", inside: str = "", target: str = "") -> str:
    """Returns the source of a plugin that provides one reward.

    Args:
        before: runs at import, before the hook.
        inside: runs in the hook, before it returns.
        target: of the record; default the plugin's own class.
    """
    return f"""
import alignzoo as az
{before}

class Reward(az.RewardModel):
    def score(self, prompts, responses, **columns):
        return [float(len(response)) for response in responses]

@az.hookimpl
def alignzoo_rewards():
    {inside or "pass"}
    target = {target!r} or __name__ + ":Reward"
    return [az.RewardSpec(id={id!r}, target=target, summary="length in characters")]
"""


def run_python(
    *arguments: str, path: Path | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a fresh interpreter with `path` on its path, in `cwd`."""
    variables = {name: value for name, value in os.environ.items() if name != "ALIGNZOO_PLUGINS"}
    variables |= {"PYTHONPATH": str(path or ""), "PYTHONIOENCODING": "utf-8"} | environment
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=variables,
        cwd=cwd,
        timeout=120,
    )


def run_alignzoo(
    *arguments: str, path: Path | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `alignzoo` in a fresh interpreter."""
    return run_python("-m", "alignzoo", *arguments, path=path, cwd=cwd, **environment)
