"""What holds for every reward that is registered, rules and trained ones alike."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from judgement_rows import judgements

import alignzoo as az
from alignzoo.data import JUDGEMENTS
from alignzoo.errors import ConfigError, DataError

RULES: dict[str, dict[str, Any]] = {
    "json_schema": {"json_schema": {"type": "array"}},
    "keywords": {"include": ["thank"], "max_words": 4},
    "length": {"target": 4},
    "math": {},
    "regex": {"patterns": ["[0-9]+", "^Thank"]},
    "repetition": {"n": 1},
}
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "regression": ("ratings", {}),
    "regression tree": ("ratings", {"model": "tree"}),
    "classification": ("classes", {}),
    "classification svm": ("classes", {"model": "svm"}),
    "text_feedback": ("feedback", {}),
    "preference": ("pairs", {}),
    "preference rankings": ("rankings", {}),
    "process": ("steps", {}),
}
NEURAL: dict[str, tuple[str, dict[str, Any]]] = {
    "preference policy": ("pairs", {"policy": "tiny", "num_epochs": 1}),
    "process policy": ("steps", {"policy": "tiny", "num_epochs": 1}),
    "regression policy": ("ratings", {"policy": "tiny"}),
}
ALL = {**TRAINED, **NEURAL}
ROWS = judgements()
PROMPTS: list[Any] = [
    "Say 1.",
    [{"role": "user", "content": "Say 2."}],
    "",
    "Say 4.",
    "说五。",
]
RESPONSES = ["Thank you, 1.", "Go away, 2!", "", "[4] " * 40, "谢谢，五。"]
COLUMNS = {"answer": ["1", "2", "3", "4", "5"]}


def id_of(case: str) -> str:
    return case.split()[0]


def make(case: str) -> Any:
    options = RULES[case] if case in RULES else ALL[case][1]
    return az.make_reward(id_of(case), **options)


_fitted: dict[str, Any] = {}


def fitted(case: str) -> Any:
    """Returns a reward that learned from its rows; each is trained once."""
    if case not in _fitted:
        _fitted[case] = make(case)
        _fitted[case].fit(ROWS[ALL[case][0]], seed=1)
    return _fitted[case]


def scores_of(reward: Any, rows: list[int]) -> list[float]:
    columns = {name: [values[i] for i in rows] for name, values in COLUMNS.items()}
    prompts, responses = [PROMPTS[i] for i in rows], [RESPONSES[i] for i in rows]
    found = reward.score(prompts=prompts, responses=responses, **columns)
    assert len(found) == len(rows)
    return [float(score) for score in found]


def test_every_reward_is_tested_here() -> None:
    ours = {entry.id for entry in az.registry().rewards if entry.plugin.first_party}
    assert {id_of(case) for case in [*RULES, *ALL]} == ours


@pytest.mark.parametrize("case", [*RULES, *TRAINED])
def test_a_response_scores_the_same_alone_and_in_any_batch_to_the_bit(case: str) -> None:
    """correctness.md #25."""
    reward = make(case) if case in RULES else fitted(case)
    together = scores_of(reward, [0, 1, 2, 3, 4])
    assert [scores_of(reward, [row])[0] for row in range(5)] == together
    assert scores_of(reward, [4, 2, 0, 2]) == [together[row] for row in (4, 2, 0, 2)]


@pytest.mark.parametrize("case", NEURAL)
def test_a_model_scores_a_response_the_same_in_any_batch_within_rounding(case: str) -> None:
    """correctness.md #25."""
    reward = fitted(case)
    together = scores_of(reward, [0, 1, 2, 3, 4])
    assert [scores_of(reward, [row])[0] for row in range(5)] == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize("case", [*RULES, *ALL])
def test_every_response_gets_a_finite_score(case: str) -> None:
    reward = make(case) if case in RULES else fitted(case)
    assert all(map(math.isfinite, scores_of(reward, [0, 1, 2, 3, 4])))
    assert list(reward.score(prompts=[], responses=[], answer=[])) == []


@pytest.mark.parametrize("case", ALL)
def test_what_was_learned_prefers_what_people_preferred(case: str) -> None:
    reward = fitted(case)
    prompts = [f"Say {i}." for i in range(100, 120)]
    good = reward.score(prompts=prompts, responses=[f"Thank you, {p[4:-1]}." for p in prompts])
    bad = reward.score(prompts=prompts, responses=[f"Go away, {p[4:-1]}!" for p in prompts])
    if case not in ("process", "process policy"):  # a whole response there is one step of two
        assert sum(g > b for g, b in zip(good, bad, strict=True)) >= 16


@pytest.mark.parametrize("case", ALL)
def test_the_same_seed_learns_the_same_bits(case: str) -> None:
    again = make(case)
    again.fit(ROWS[ALL[case][0]], seed=1)
    assert scores_of(again, [0, 1, 2, 3, 4]) == scores_of(fitted(case), [0, 1, 2, 3, 4])


@pytest.mark.parametrize("case", ALL)
def test_what_is_saved_scores_the_same_bits_when_loaded(case: str, tmp_path: Path) -> None:
    reward, again = fitted(case), make(case)
    reward.save(tmp_path / "reward")
    again.load(tmp_path / "reward")
    assert scores_of(again, [0, 1, 2, 3, 4]) == scores_of(reward, [0, 1, 2, 3, 4])
    kinds = {path.suffix for path in (tmp_path / "reward").rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja", ".txt", ".model"}  # nothing that can run


@pytest.mark.parametrize("case", TRAINED)
def test_a_damaged_file_is_refused_by_name(case: str, tmp_path: Path) -> None:
    fitted(case).save(tmp_path)
    arrays = sorted(tmp_path.glob("*.safetensors"))
    assert arrays
    for path in arrays:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(DataError, match=path.name):
            make(case).load(tmp_path)
        path.write_bytes(whole)


@pytest.mark.parametrize("case", TRAINED)
def test_a_reward_that_was_not_trained_says_so(case: str) -> None:
    with pytest.raises(ConfigError, match="train"):
        scores_of(make(case), [0])


@pytest.mark.parametrize("case", TRAINED)
def test_data_of_another_kind_is_refused_by_its_place(case: str) -> None:
    kinds = type(make(case)).learns_from
    assert kinds
    assert set(kinds) <= set(JUDGEMENTS)
    with pytest.raises(DataError, match=r"data\[0\]"):
        make(case).fit([{"prompt": "Say 1.", "wrong": "Thank you."}])


@pytest.mark.parametrize("case", TRAINED)
def test_a_single_row_is_too_little_to_learn_from(case: str) -> None:
    if case in ("preference", "preference rankings", "process"):
        pytest.skip("one comparison, or one response with its steps, teaches something")
    with pytest.raises(DataError):
        make(case).fit(ROWS[ALL[case][0]][:1])


@pytest.mark.parametrize("case", RULES)
def test_a_rule_has_nothing_to_learn(case: str) -> None:
    with pytest.raises(ConfigError, match="nothing to learn"):
        make(case).fit(ROWS["ratings"])
