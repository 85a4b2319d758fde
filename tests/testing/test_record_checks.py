"""What the kit asks of every plugin: its record, its import, its options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixture_plugins import reward_plugin, run_python, write_distribution

import alignzoo as az
from alignzoo import plugin_registry
from alignzoo.plugin_loader import Plugin
from alignzoo.plugin_registry import Entry
from alignzoo.testing import records
from alignzoo.testing.checks import CheckFailure, make_checks
from alignzoo.testing.records import RECORD_CHECKS, PluginSubject

CHECKS = {check.name: check for check in make_checks(RECORD_CHECKS)}


def subject_of(folder: Path, name: str, source: str, **spec: Any) -> PluginSubject:
    """Returns what is checked of a plugin of one module, which lies in a folder on the path."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    given = {"id": "it", "target": f"{name}:Reward", "summary": "length", **spec}
    plugin = Plugin(name, name, "some-dist", "1.5", state="loaded")
    return PluginSubject(Entry("reward", az.RewardSpec(**given), plugin))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def failure_of(name: str, subject: PluginSubject) -> str:
    with pytest.raises(CheckFailure) as failure:
        CHECKS[name].run(subject)
    return str(failure.value)


def test_a_plain_plugin_passes_every_check_of_its_record(folder: Path) -> None:
    subject = subject_of(folder, "plain_module", reward_plugin("it"))
    for check in CHECKS.values():
        check.run(subject)


def test_a_heavy_import_is_named_with_its_line(folder: Path) -> None:
    (folder / "pandas.py").write_text("import scipy_of_ours")
    (folder / "scipy_of_ours.py").write_text("")
    source = reward_plugin("it", before="import json\nimport pandas")
    subject = subject_of(folder, "heavy_module", source)
    message = failure_of("the_import_is_light", subject)
    assert f"imports pandas ({folder / 'heavy_module.py'}, line 4)" in message
    assert "import it inside the function that uses it" in message


def test_a_heavy_import_in_a_hook_is_found(folder: Path) -> None:
    (folder / "pandas.py").write_text("")
    subject = subject_of(folder, "heavy_hook", reward_plugin("it", inside="import pandas"))
    assert "imports pandas" in failure_of("the_import_is_light", subject)


def test_a_heavy_import_that_is_missing_and_caught_is_none(folder: Path) -> None:
    before = "try:\n    import vllm\nexcept ImportError:\n    vllm = None"
    CHECKS["the_import_is_light"].run(
        subject_of(folder, "careful_module", reward_plugin("it", before=before))
    )


@pytest.mark.parametrize("line", ["print('hello')", "import os; os.system('echo hello')"])
def test_a_plugin_that_prints_at_import_fails(folder: Path, line: str) -> None:
    subject = subject_of(folder, "noisy_module", reward_plugin("it", before=line))
    assert "importing noisy_module prints 'hello'" in failure_of("the_import_is_light", subject)


def test_a_plugin_that_warns_at_import_does_not_print(folder: Path) -> None:
    before = "import warnings\nwarnings.warn('old', DeprecationWarning)"
    CHECKS["the_import_is_light"].run(
        subject_of(folder, "warning_module", reward_plugin("it", before=before))
    )


def test_a_slow_import_is_measured_again_before_it_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([9.0, 2.5, 3.0])
    seen = {"error": "", "heavy": {}, "printed": ""}
    monkeypatch.setattr(
        records, "_import_afresh", lambda plugin: {**seen, "seconds": next(measured)}
    )
    subject = subject_of(folder, "slow_module", reward_plugin("it"))
    assert "took 2.5 s" in failure_of("the_import_is_light", subject)


def test_a_slow_import_on_a_busy_machine_passes_once_it_is_quick(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([9.0, 0.1])
    seen = {"error": "", "heavy": {}, "printed": ""}
    monkeypatch.setattr(
        records, "_import_afresh", lambda plugin: {**seen, "seconds": next(measured)}
    )
    CHECKS["the_import_is_light"].run(subject_of(folder, "busy_module", reward_plugin("it")))


def test_a_plugin_that_loads_here_alone_fails_with_its_error(folder: Path) -> None:
    before = "import sys\nif 'pytest' not in sys.modules: raise OSError('no such file')"
    subject = subject_of(folder, "odd_module", reward_plugin("it", before=before))
    assert "fails: OSError: no such file" in failure_of("the_import_is_light", subject)


def test_an_import_that_ends_the_interpreter_is_a_failure(folder: Path) -> None:
    before = "import os, sys\nif 'pytest' not in sys.modules: os._exit(7)"
    subject = subject_of(folder, "ending_module", reward_plugin("it", before=before))
    assert "it ended the interpreter with exit code 7" in failure_of("the_import_is_light", subject)


@pytest.mark.parametrize(
    ("summary", "needle"),
    [("x" * 101, "at most 100 characters"), ("two\nlines", "one line"), (" x ", "spaces around")],
)
def test_a_summary_is_one_short_line(folder: Path, summary: str, needle: str) -> None:
    subject = subject_of(folder, "long_module", reward_plugin("it"), summary=summary)
    assert needle in failure_of("the_record_is_valid", subject)


def test_two_owners_of_one_id_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        write_distribution(folder, f"{name}-dist", {f"{name}_owner": reward_plugin("twice")})
    plugin_registry.select_plugins(["no:alignzoo"])
    try:
        entry = plugin_registry.registry().find("reward", "first-dist:twice")
        message = failure_of("the_record_is_valid", PluginSubject(entry))
    finally:
        plugin_registry.select_plugins([])
    assert (
        "plugin 'first_owner' of first-dist 1.5 and by plugin 'second_owner' of second" in message
    )
    assert "choose another id" in message


def test_a_plugin_that_was_not_loaded_fails_with_its_error(folder: Path) -> None:
    plugin = Plugin("it", "it_module", "some-dist", "1.5", "failed", "ValueError: no")
    subject = PluginSubject(Entry("reward", az.RewardSpec("it", "it_module:It", "it"), plugin))
    assert "plugin 'it' of some-dist 1.5 was not loaded: ValueError: no" in failure_of(
        "the_plugin_loads", subject
    )


def test_options_come_from_the_first_example_where_some_are_required(folder: Path) -> None:
    source = """
import alignzoo as az
from pydantic import Field
class Config(az.RewardConfig):
    word: str = Field(..., description="a word")
    bonus: float = Field(1.0, ge=0, description="for the word")
class Reward(az.RewardModel):
    Config = Config
    examples = ({"options": {"word": "dog"}, "completion": "dog"},)
@az.hookimpl
def alignzoo_rewards(): return []
"""
    subject = subject_of(folder, "needing_module", source)
    assert subject.options == {"word": "dog"}
    subject.given = {"bonus": 2.0}
    del subject.options
    assert subject.options == {"word": "dog", "bonus": 2.0}
    assert subject.make(bonus=3.0).config.bonus == 3.0


def test_required_options_without_an_example_say_what_to_write(folder: Path) -> None:
    source = """
import alignzoo as az
from pydantic import Field
class Config(az.RewardConfig):
    word: str = Field(..., description="a word")
class Reward(az.RewardModel):
    Config = Config
"""
    subject = subject_of(folder, "wanting_module", source)
    with pytest.raises(az.ConfigError, match=r"'word' is needed: .*`alignzoo check it --OPTION"):
        _ = subject.options


@pytest.mark.parametrize(
    ("field", "is_fine"),
    [
        ("int = Field(1, description='x')", False),
        ("float | None = Field(None, description='x')", False),
        ("float = Field(1.0, ge=0, description='x')", True),
        ("int | None = Field(None, le=7, description='x')", True),
        ("Literal[1, 2] = Field(1, description='x')", True),
        ("bool = Field(False, description='x')", True),
        ("str = Field('', description='x')", True),
        ("float | str = Field('auto', description='x')", True),
        ("Annotated[float, AfterValidator(abs)] = Field(1.0, description='x')", False),
        ("Annotated[int, AfterValidator(small)] = Field(1, description='x')", True),
    ],
)
def test_numbers_need_a_bound_of_whatever_sort(folder: Path, field: str, is_fine: bool) -> None:
    source = f"""
from typing import Annotated, Literal
import alignzoo as az
from pydantic import AfterValidator, Field
def small(value):
    if abs(value) > 9: raise ValueError("it is too large")
    return value
class Config(az.RewardConfig):
    knob: {field}
class Reward(az.RewardModel):
    Config = Config
"""
    subject = subject_of(folder, f"bounds_module_{abs(hash(field))}", source)
    if is_fine:
        CHECKS["options_are_documented_and_bounded"].run(subject)
    else:
        message = failure_of("options_are_documented_and_bounded", subject)
        assert "option 'knob' is a number without bounds" in message


def test_importing_the_kit_imports_no_torch_and_no_scipy() -> None:
    code = (
        "import sys; from alignzoo.testing import algorithm_checks, reward_checks;"
        "algorithm_checks('ppo'), reward_checks('length');"
        "print([name for name in ('torch', 'scipy', 'sklearn') if name in sys.modules])"
    )
    done: subprocess.CompletedProcess[str] = run_python("-c", code)
    assert done.stdout == "[]\n", done.stderr


def test_the_kit_has_no_other_names() -> None:
    import alignzoo.testing as kit

    assert set(kit.__all__) <= set(dir(kit))
    with pytest.raises(AttributeError, match="no attribute 'reward_check'"):
        _ = kit.reward_check
    assert "alignzoo.testing.reward_check" not in sys.modules


def test_a_check_runs_on_one_thread_and_leaves_the_number_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setenv("ALIGNZOO_NUM_THREADS", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen: list[Any] = []

    def a_check(subject: None) -> None:
        """It looks."""
        variables = [os.environ.get(name) for name in ("ALIGNZOO_NUM_THREADS", "OMP_NUM_THREADS")]
        seen.append((torch.get_num_threads(), *variables))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make_checks([a_check])[0].run(None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, "1", "1")]
    assert os.environ["ALIGNZOO_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in os.environ
