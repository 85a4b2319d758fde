"""What holds for every reward that is registered, rules and trained ones alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judgement_rows import judgements

import alignzoo as az
from alignzoo.data import JUDGEMENTS
from alignzoo.errors import ConfigError, DataError
from alignzoo.testing import reward_checks

RULES: dict[str, dict[str, Any]] = {
    "json_schema": {"json_schema": {"type": "array"}},
    "keywords": {"include": ["thank"], "max_words": 4},
    "length": {},
    "math": {},
    "regex": {"patterns": ["[0-9]+", "^Thank"]},
    "repetition": {},
}
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "regression": ("ratings", {}),
    "regression tree": ("ratings", {"model": "tree"}),
    "classification": ("classes", {}),
    "classification svm": ("classes", {"model": "svm"}),
    "text_feedback": ("feedback", {}),
    "preference": ("pairs", {}),
    "process": ("steps", {}),
}
NEURAL: dict[str, tuple[str, dict[str, Any]]] = {
    "preference policy": ("pairs", {"policy": "tiny", "num_epochs": 1}),
    "process policy": ("steps", {"policy": "tiny", "num_epochs": 1}),
    "regression policy": ("ratings", {"policy": "tiny"}),
}
LEARNED = {**TRAINED, **NEURAL}
ROWS = judgements()
PROMPTS: list[Any] = ["Say 1.", [{"role": "user", "content": "Say 2."}], "", "Say 4.", "说五。"]
RESPONSES = ["Thank you, 1.", "Go away, 2!", "", "[4] " * 40, "谢谢，五。"]
COLUMNS = {"answer": ["1", "2", "3", "4", "5"]}
OTHER_PROCESSES = ("the_import_is_light", "another_process_scores_the_same")


def id_of(case: str) -> str:
    return case.split()[0]


def options_of(case: str) -> dict[str, Any]:
    return RULES[case] if case in RULES else LEARNED[case][1]


def make(case: str) -> Any:
    return az.make_reward(id_of(case), **options_of(case))


def checks_of(cases: Any, *, alone: bool) -> list[Any]:
    """Returns the kit's cases of rewards; those that start a process apart, or those `alone`."""
    return [
        pytest.param(check.values[0], id=f"{case}-{check.id}")
        for case in cases
        for check in reward_checks(id_of(case), options=options_of(case))
        if (check.id in OTHER_PROCESSES) == alone
    ]


def test_every_reward_is_tested_here() -> None:
    ours = {entry.id for entry in az.registry().rewards if entry.plugin.first_party}
    assert {id_of(case) for case in [*RULES, *TRAINED, *NEURAL]} == ours


@pytest.mark.parametrize("check", checks_of([*RULES, *TRAINED], alone=False))
def test_every_reward_passes_the_kit(check: Any) -> None:
    check()


@pytest.mark.parametrize("check", checks_of(RULES, alone=True))
def test_every_rule_passes_the_kit_in_another_process(check: Any) -> None:
    check()


@pytest.mark.slow
@pytest.mark.parametrize(
    "check", [*checks_of(NEURAL, alone=False), *checks_of(["regression", "process"], alone=True)]
)
def test_every_neural_reward_passes_the_kit(check: Any) -> None:
    """correctness.md #25."""
    check()


_fitted: dict[str, Any] = {}


def fitted(case: str) -> Any:
    """Returns a reward that can score; each is trained once."""
    if case not in _fitted:
        _fitted[case] = make(case)
        if case in LEARNED:
            _fitted[case].fit(ROWS[LEARNED[case][0]], seed=1)
    return _fitted[case]


def scores_of(reward: Any, rows: list[int]) -> list[float]:
    columns = {name: [values[i] for i in rows] for name, values in COLUMNS.items()}
    prompts, responses = [PROMPTS[i] for i in rows], [RESPONSES[i] for i in rows]
    found = reward.score(prompts=prompts, responses=responses, **columns)
    return [float(score) for score in found]


@pytest.mark.parametrize("case", [*RULES, *TRAINED])
def test_a_response_scores_the_same_alone_and_in_any_batch_to_the_bit(case: str) -> None:
    """correctness.md #25."""
    reward = fitted(case)
    together = scores_of(reward, [0, 1, 2, 3, 4])
    assert [scores_of(reward, [row])[0] for row in range(5)] == together
    assert scores_of(reward, [4, 2, 0, 2]) == [together[row] for row in (4, 2, 0, 2)]


@pytest.mark.parametrize("case", NEURAL)
def test_a_model_scores_a_response_the_same_in_any_batch_within_rounding(case: str) -> None:
    """correctness.md #25."""
    reward = fitted(case)
    together = scores_of(reward, [0, 1, 2, 3, 4])
    assert [scores_of(reward, [row])[0] for row in range(5)] == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize("case", [*RULES, *TRAINED])
def test_no_responses_have_no_scores(case: str) -> None:
    assert list(fitted(case).score(prompts=[], responses=[], answer=[])) == []


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
def test_data_of_another_kind_is_refused_by_its_place(case: str) -> None:
    kinds = type(make(case)).learns_from
    assert kinds
    assert set(kinds) <= set(JUDGEMENTS)
    with pytest.raises(DataError, match=r"data\[0\]"):
        make(case).fit([{"prompt": "Say 1.", "wrong": "Thank you."}])


@pytest.mark.parametrize("case", TRAINED)
def test_a_single_row_is_too_little_to_learn_from(case: str) -> None:
    if case in ("preference", "process"):
        pytest.skip("one comparison, or one response with its steps, teaches something")
    with pytest.raises(DataError):
        make(case).fit(ROWS[TRAINED[case][0]][:1])


@pytest.mark.parametrize("case", RULES)
def test_a_rule_has_nothing_to_learn(case: str) -> None:
    with pytest.raises(ConfigError, match="nothing to learn"):
        make(case).fit(ROWS["ratings"])
