"""What `pip install alignzoo` gives, tried in an environment and a home that hold nothing else."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow

IMPORT_EVERYTHING = """
import importlib, pathlib, pkgutil, sys, alignzoo, alignzoo.plugins
assert "site-packages" in alignzoo.__file__ and "site-packages" in alignzoo.plugins.__file__
names = [m.name for m in pkgutil.walk_packages(alignzoo.__path__, "alignzoo.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""
BARE_IMPORT = """
import sys
before = set(sys.modules)
import alignzoo
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - {"alignzoo"} - set(sys.stdlib_module_names)))
"""
ONE_KERNEL = """
import sys
import numpy as np
from alignzoo import kernels
rewards = np.array([[0.0, 0.0, 1.0]], dtype=np.float32)
advantages, returns = kernels.gae(rewards, np.zeros_like(rewards), gamma=1.0, gae_lambda=1.0)
assert isinstance(advantages, np.ndarray) and advantages.tolist() == [[1.0, 1.0, 1.0]]
assert "torch" not in sys.modules
"""
LOAD_FINAL = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("Once", return_tensors="pt")
print(model.generate(**ids, max_new_tokens=4).shape[1] > ids["input_ids"].shape[1])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder that is neither the project's nor the environment's."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def python(empty_environment, run, home):
    """Runs the empty environment's interpreter from an empty home folder, offline."""

    def run_python(*words: object) -> str:
        return run(empty_environment, *words, cwd=home, HOME=str(home), HF_HUB_OFFLINE="1")

    return run_python


@pytest.fixture(scope="module")
def alignzoo(empty_environment, run, home):
    """Runs the installed `alignzoo` command from an empty home folder, offline."""
    command = empty_environment.with_name("alignzoo")

    def run_alignzoo(*words: object) -> str:
        return run(command, *words, cwd=home, HOME=str(home), HF_HUB_OFFLINE="1")

    return run_alignzoo


def test_importing_alignzoo_imports_none_of_its_dependencies(python):
    assert python("-c", BARE_IMPORT).split() == []


def test_every_module_is_importable_without_extras(python):
    assert int(python("-c", IMPORT_EVERYTHING)) > 20


def test_the_command_says_its_version(alignzoo):
    assert "0.1.0" in alignzoo("--version")


def test_the_command_describes_the_environment(alignzoo):
    facts = json.loads(alignzoo("env", "--json"))
    assert facts["alignzoo"] == "0.1.0"


def test_the_zoo_is_loaded_and_listed(alignzoo, project):
    plugins = json.loads(alignzoo("plugins", "--check", "--json"))["plugins"]
    states = {plugin["name"]: plugin["state"] for plugin in plugins}
    points = project["project"]["entry-points"]["alignzoo"]
    assert {name: states.get(name) for name in points} == dict.fromkeys(points, "loaded")
    listed = json.loads(alignzoo("list", "--json"))
    assert all(listed[kind] for kind in ("algorithms", "rewards", "tasks"))


def test_a_kernel_runs_on_numpy_arrays(python):
    python("-c", ONE_KERNEL)


def test_a_model_is_taught_aligned_and_loaded(alignzoo, python, home):
    rows = [
        {"instruction": "Say a word.", "input": "", "output": word}
        for word in ("dog", "cat", "sun", "sea")
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (home / "data.jsonl").write_text(lines, encoding="utf-8")
    (home / "prompts.jsonl").write_text('{"prompt": "Say a word."}\n', encoding="utf-8")
    common = ("--batch-size", 4, "--steps", 2, "--threads", 1)
    alignzoo("train", "sft", "--policy", "tiny", "--data", "data.jsonl", *common, "--out", "taught")
    alignzoo(
        *("train", "ppo", "--policy", "taught/final", "--prompts", "prompts.jsonl"),
        *("--reward", "length", "--max-new-tokens", 8, *common, "--out", "aligned"),
    )
    metrics = (home / "aligned" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [1, 2]
    assert (home / "aligned" / "report.html").is_file()
    assert python("-c", LOAD_FINAL, home / "aligned" / "final").strip() == "True"
