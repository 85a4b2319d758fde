"""Right rewards pass every check of the kit, and each planted bug is caught by the check for it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from testing import planted_rewards
from testing.planted_rewards import PLANTED, RIGHT, Learned, Words, spec

import alignzoo as az
from alignzoo.errors import ConfigError
from alignzoo.plugin_loader import Plugin
from alignzoo.plugin_registry import Entry
from alignzoo.testing.checks import Outcome, run_checks
from alignzoo.testing.rewards import CHECKS, RewardSubject, make_subject, reward_checks

PAGE = Path(__file__).parents[2] / "docs" / "plugins" / "conformance.md"
OTHER_PROCESS = ("the_import_is_light", "another_process_scores_the_same")  # half a second each


def subject_of(cls: type, **options: Any) -> RewardSubject:
    plugin = Plugin("planted", planted_rewards.__name__, "alignzoo-planted", "1.5", state="loaded")
    return make_subject(Entry("reward", spec(cls), plugin), options)


def outcomes_of(cls: type, **options: Any) -> list[Outcome]:
    """Returns what becomes of each check; those of other processes only where they are asked."""
    wanted = OTHER_PROCESS if cls in (Words, Learned) else PLANTED.get(cls, ("", ""))
    checks = [c for c in CHECKS if c.name in wanted or c.name not in OTHER_PROCESS]
    return run_checks(checks, subject_of(cls, **options))


def caught_by(cls: type) -> list[str]:
    return [outcome.name for outcome in outcomes_of(cls) if outcome.state == "failed"]


@pytest.mark.parametrize("cls", RIGHT, ids=lambda cls: cls.__name__)
def test_a_right_reward_passes_every_check(cls: type) -> None:
    outcomes = outcomes_of(cls)
    assert [o.message for o in outcomes if not o.is_good] == []
    assert sum(o.state == "passed" for o in outcomes) >= 14


_table: dict[str, list[str]] = {}


@pytest.mark.parametrize("cls", PLANTED, ids=lambda cls: cls.__name__)
def test_a_planted_bug_is_caught_by_the_check_that_is_there_for_it(cls: type) -> None:
    bug, wanted = PLANTED[cls]
    found = caught_by(cls)
    _table[bug] = found
    assert wanted in found


def test_each_check_of_rewards_catches_a_planted_bug() -> None:
    tested_elsewhere = {"the_plugin_loads", "the_record_is_valid", "the_import_is_light"}
    caught = {wanted for _, wanted in PLANTED.values()}
    assert {check.name for check in CHECKS} == caught | tested_elsewhere


def told(wanted: str, found: list[str]) -> str:
    """Returns the checks that caught a bug, the one that is there for it first."""
    others = [name for name in found if name != wanted]
    if len(others) > 8:
        return f"`{wanted}`, and with it {len(others)} others"
    return ", ".join(f"`{name}`" for name in [wanted, *others])


def test_the_page_shows_the_table_of_planted_bugs() -> None:
    if set(_table) != {bug for bug, _ in PLANTED.values()}:
        pytest.skip("the tests that fill the table were not run beside this one")
    rows = [f"| {bug} | {told(wanted, _table[bug])} |" for bug, wanted in PLANTED.values()]
    table = "\n".join(["| planted in a reward | caught by |", "|---|---|", *rows])
    print(f"\n{table}")
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    marked = re.compile(r"(<!-- planted rewards -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marked.search(text):
        pytest.skip("the page has no place for the table")
    written = marked.sub(lambda m: f"{m[1]}{table}\n{m[2]}", text)
    if os.environ.get("ALIGNZOO_WRITE_DOCS"):
        PAGE.write_text(written, encoding="utf-8")
        return
    assert written == text, "run with ALIGNZOO_WRITE_DOCS=1 to write it anew"


def message_of(cls: type, name: str) -> str:
    return next(o.message for o in outcomes_of(cls) if o.name == name)


def test_a_failure_says_first_what_should_hold_then_what_was_found_and_what_to_do() -> None:
    first, second = message_of(
        planted_rewards.CentredInTheBatch, "the_batch_changes_nothing"
    ).split("\n")
    assert first == "A response scores the same alone and in any batch."
    assert re.search(r"'Thank you for .*' scored .*, then 0: ", second)
    assert "score each response by itself" in second


def test_an_error_in_a_plugin_is_placed_in_its_file() -> None:
    message = message_of(planted_rewards.OnlyAscii, "any_text_is_accepted")
    assert "It raised UnicodeEncodeError" in message
    assert re.search(r"planted_rewards\.py, line \d+\)", message)


def test_a_misspelt_key_of_an_example_gets_a_suggestion() -> None:
    message = message_of(planted_rewards.MisspeltExample, "examples_hold")
    assert "examples[0] has the key 'scores'. Did you mean 'score'?" in message


def test_options_reach_the_reward_that_is_checked() -> None:
    assert subject_of(Words, target=3).make().config.target == 3


def test_wrong_options_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="option 'target' is 0"):
        _ = subject_of(Words, target=0).options


def test_a_reward_is_trained_once_for_all_checks_of_one_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fits: list[int] = []
    fit = Learned.fit
    monkeypatch.setattr(
        Learned,
        "fit",
        lambda self, data, *, seed=0: fits.append(seed) or fit(self, data, seed=seed),
    )
    subject = subject_of(Learned)
    assert subject.reward is subject.fitted("ratings")
    assert subject.fitted("ratings") is subject.fitted("ratings")
    assert len(fits) == 1


def test_columns_that_a_reward_asks_for_are_found_without_an_example() -> None:
    subject = subject_of(planted_rewards.Answer)
    assert subject.score(subject.reward, subject.cases[:1]) == [1.0]
    assert subject.arguments(subject.cases[:2])["answer"] == ["1", "1"]


def test_pytest_cases_are_named_after_the_checks_and_import_nothing() -> None:
    cases = reward_checks("no_such_reward_at_all")
    assert [case.id for case in cases] == [check.name for check in CHECKS]


def test_a_pytest_case_of_an_unknown_reward_says_so_when_it_runs() -> None:
    (case,) = reward_checks("no_such_reward_at_all")[0].values
    with pytest.raises(ConfigError, match="no reward is called 'no_such_reward_at_all'"):
        case()


def test_an_announced_failure_needs_the_name_of_a_check() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'scores_are_finite'"):
        reward_checks("length", expected_failures={"scores_are_finit": "it is new"})


@pytest.mark.parametrize("check", reward_checks("length", options={"target": 7}))
def test_the_kit_serves_pytest(check: Any) -> None:
    check()


def test_examples_are_empty_unless_a_class_has_some() -> None:
    assert az.RewardModel.examples == ()
