"""From what people type to a reward: ids first, then functions, then folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignzoo.config import RewardConfig
from alignzoo.errors import ConfigError, DataError
from alignzoo.reward import RewardModel
from alignzoo.scoring import parse_reward, resolve_reward, resolve_rewards


class Fixed(RewardModel):
    """Scores whatever it was made or loaded with."""

    def __init__(self, value: float) -> None:
        super().__init__(RewardConfig())
        self.value = value

    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        return [self.value] * len(responses)

    def load(self, folder: Path) -> None:
        self.value = json.loads((folder / "value.json").read_text())


class OneReward:
    """A registry that knows `fixed`, of the distribution `alignzoo`."""

    def matches(self, kind: str, id: str, /) -> list[str]:
        return [id] if kind == "reward" and id in ("fixed", "alignzoo:fixed") else []

    def find(self, kind: str, id: str, /) -> Any:
        if not self.matches(kind, id):
            raise ConfigError(f"no {kind} is called '{id}'. Did you mean 'fixed'?")
        return SimpleNamespace(label=f"reward '{id}' (alignzoo 0.1.0)")

    def build(self, kind: str, id: str, options: Mapping[str, Any], /) -> Any:
        return Fixed(**{"value": 1.0, **options})


REGISTRY = OneReward()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_id_takes_options_and_a_weight() -> None:
    term = resolve_reward('fixed:{"value": 3.0, "weight": 0.5}', REGISTRY)
    assert (term.name, term.weight, term.reward.value) == ("fixed", 0.5, 3.0)  # type: ignore[attr-defined]
    assert term.label == "reward 'fixed' (alignzoo 0.1.0)"


def test_a_distribution_may_stand_before_the_id() -> None:
    term = resolve_reward('alignzoo:fixed:{"value": 3.0}', REGISTRY)
    assert (term.name, term.weight) == ("fixed", 1.0)


def test_an_id_comes_before_a_folder_of_its_name(folder: Path) -> None:
    (folder / "fixed").mkdir()
    assert isinstance(resolve_reward("fixed", REGISTRY).reward, Fixed)


def test_a_function_in_a_file_takes_a_weight_alone(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "def zero(completions):\n    return [0.0 for _ in completions]\n"
    )
    term = resolve_reward('mine.py:zero:{"weight": 2}', REGISTRY)
    assert (term.name, term.weight, term.label) == ("zero", 2.0, "reward 'mine.py:zero'")
    with pytest.raises(ConfigError, match="has no option 'value'; a function takes 'weight' alone"):
        resolve_reward('mine.py:zero:{"value": 2}', REGISTRY)


def test_a_folder_that_train_reward_wrote_is_loaded(folder: Path) -> None:
    (folder / "judge").mkdir()
    (folder / "judge" / "reward.json").write_text('{"id": "fixed", "options": {"value": 1.0}}')
    (folder / "judge" / "value.json").write_text("4.0")
    term = resolve_reward('judge:{"weight": 0.5}', REGISTRY)
    assert (term.name, term.weight, term.reward.value) == ("judge", 0.5, 4.0)  # type: ignore[attr-defined]


def test_a_folder_without_a_reward_is_refused(folder: Path) -> None:
    (folder / "judge").mkdir()
    with pytest.raises(ConfigError, match=r"judge is no trained reward: it has no reward\.json"):
        resolve_reward("judge", REGISTRY)


@pytest.mark.parametrize("content", ["", "[]", "3", "{}"])
def test_a_damaged_folder_is_named(folder: Path, content: str) -> None:
    (folder / "judge").mkdir()
    (folder / "judge" / "reward.json").write_text(content)
    with pytest.raises(DataError, match=r"reward\.json is damaged: expected an object with 'id'"):
        resolve_reward("judge", REGISTRY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fxed", r"no reward is called 'fxed'\. Did you mean 'fixed'\?"),
        ("fixed:{value: 1}", r"reward 'fixed': its options \{value: 1\} are not JSON"),
        ('fixed:{"value": 1} ]', "are not JSON"),
        ("fixed:value=1", r"reward 'fixed' is followed by 'value=1'; options are JSON"),
        (
            "out/judge",
            r"no folder out/judge\. A reward is an id .*, file\.py:function, or a folder",
        ),
        ("mine.py:zero", r"no file mine\.py"),
        ('fixed:{"weight": "much"}', r"option 'weight' is 'much'; expected a finite number"),
        ('fixed:{"weight": NaN}', r"option 'weight' is nan; expected a finite number"),
    ],
)
def test_what_names_no_reward_is_explained(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_reward(text, REGISTRY)


def test_parsing_needs_no_registry(folder: Path) -> None:
    (folder / "judge").mkdir()
    kinds = {text: parse_reward(text).kind for text in ("fixed", "a/b.py:f", "judge", "x:y")}
    assert kinds == {"fixed": "id", "a/b.py:f": "function", "judge": "folder", "x:y": "id"}
    assert parse_reward('fixed:{"a": ":{"}') == ("id", "fixed", {"a": ":{"}, 1.0)


def test_several_texts_make_one_sum() -> None:
    total = resolve_rewards(["fixed", 'fixed:{"value": 3.0, "weight": 2}'], REGISTRY)
    assert total.names == ("fixed", "fixed#2")
    assert total.score(["p"], ["r"]).total.tolist() == [7.0]
