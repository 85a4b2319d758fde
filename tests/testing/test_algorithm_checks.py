"""Right algorithms pass every check of the kit; each planted bug is caught by the one for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from testing.planted_algorithms import PLANTED, RIGHT, Clip, Loo, UndeclaredColumn, entry_of

from alignzoo.errors import ConfigError
from alignzoo.testing import algorithm_checks
from alignzoo.testing.algorithms import CHECKS, make_subject
from alignzoo.testing.checks import Outcome, run_checks
from alignzoo.testing.records import RECORD_CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "plugins" / "conformance.md"
MARKED = re.compile(r"(<!-- planted -->\n)(.*?)(<!-- end -->)", re.DOTALL)
HEAD = "| planted in an algorithm | caught by |\n|---|---|\n"
OWN_CHECKS = [c for c in CHECKS if c.name not in {function.__name__ for function in RECORD_CHECKS}]
# Where bugs show that are no learning and no run: those two take seconds.
QUICK = {c.name for c in OWN_CHECKS} - {
    "improves_on_the_token_mdp", "seeded_runs_are_equal", "resume_equals_uninterrupted",
}  # fmt: skip


def outcomes_of(cls, names, **options) -> dict[str, Outcome]:
    """Returns what becomes of some checks, by name."""
    checks = [check for check in OWN_CHECKS if check.name in names]
    return {o.name: o for o in run_checks(checks, make_subject(entry_of(cls), options))}


@pytest.mark.parametrize("cls", RIGHT, ids=lambda cls: cls.__name__)
def test_a_right_algorithm_passes_every_check(cls):
    outcomes = outcomes_of(cls, {check.name for check in OWN_CHECKS})
    assert [o.message for o in outcomes.values() if not o.is_good] == []
    assert sum(o.state == "passed" for o in outcomes.values()) >= 16


def page_rows() -> dict[str, list[str]]:
    """Returns the checks that the page names for each bug."""
    found = MARKED.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", found[2], re.M)
    return {bug: re.findall(r"`(\w+)`", caught) for bug, caught in rows}


@pytest.mark.parametrize("cls", PLANTED, ids=lambda cls: cls.__name__)
def test_a_planted_bug_is_caught_by_every_check_that_the_page_names(cls):
    bug, wanted = PLANTED[cls]
    names = {*wanted, *page_rows().get(bug, [])}
    if os.environ.get("ALIGNZOO_WRITE_DOCS"):
        names |= QUICK
    outcomes = outcomes_of(cls, names)
    caught = [name for name, outcome in outcomes.items() if outcome.state == "failed"]
    assert set(wanted) <= set(caught)
    if os.environ.get("ALIGNZOO_WRITE_DOCS"):
        write_row(bug, [*wanted, *(name for name in caught if name not in wanted)])
    assert set(page_rows()[bug]) <= set(caught), "run with ALIGNZOO_WRITE_DOCS=1 to write it anew"


def write_row(bug: str, caught: list[str]) -> None:
    rows = {**page_rows(), bug: caught}
    known = [bug for bug, _ in PLANTED.values() if bug in rows]
    table = "".join(
        f"| {bug} | {', '.join(f'`{name}`' for name in rows[bug])} |\n" for bug in known
    )
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKED.sub(lambda m: m[1] + HEAD + table + m[3], text), encoding="utf-8")


def test_the_page_shows_every_planted_bug_and_the_check_that_is_there_for_it():
    rows = page_rows()
    for bug, caught in rows.items():
        print(f"{bug:60} {', '.join(caught)}")
    assert list(rows) == ["planted in an algorithm", *(bug for bug, _ in PLANTED.values())]
    for bug, wanted in PLANTED.values():
        assert tuple(rows[bug][: len(wanted)]) == wanted


def test_each_check_of_algorithms_is_there_for_a_planted_bug():
    wanted = {name for _, names in PLANTED.values() for name in names}
    assert wanted == {check.name for check in OWN_CHECKS}


def test_a_failure_says_what_should_hold_what_was_found_and_what_to_do():
    outcome = outcomes_of(UndeclaredColumn, {"needs_are_complete"})["needs_are_complete"]
    first, _, rest = outcome.message.partition("\n")
    assert first == (
        "An update runs, and reads no column and no output that `needs` does not declare."
    )
    assert "UndeclaredColumn reads column 'values'" in rest
    assert "set values=True in Needs" in rest


def test_where_no_update_runs_one_check_fails_and_the_others_have_nothing_to_look_at():
    names = QUICK - {"examples_hold", "expected_gradient_is_exact"}
    outcomes = outcomes_of(UndeclaredColumn, names)
    failed = [name for name, outcome in outcomes.items() if outcome.state == "failed"]
    assert failed == ["needs_are_complete"]
    skipped = outcomes["padding_changes_nothing"]
    assert skipped.state == "skipped"
    assert "see needs_are_complete" in skipped.message


def test_an_example_holds_at_its_own_options_whatever_else_is_checked():
    outcome = outcomes_of(Loo, {"examples_hold"}, group_size=5)["examples_hold"]
    assert outcome.state == "passed"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rewards": [[0, 3, 1], [1, 0, 0]]}, r"'log_probs' has shape \[2, 2\]"),
        ({"rewards": [[0, 3], [1]]}, "'rewards' is no table of numbers"),
        ({"rewards": [0, 3]}, r"'rewards' has 1 dimensions; expected \[B, T\]"),
        ({"advantages": [[2, 2], [-3, 0]]}, r"at row, token \(1, 0\) is -2; .* it is -3"),
        ({"metrics": {"kl": 1}}, "metric 'kl' is not reported; those are"),
        ({"options": {"group": 2}}, "has no option 'group'"),
    ],
)
def test_an_example_that_does_not_fit_is_named(changed, message, monkeypatch):
    monkeypatch.setattr(Loo, "examples", ({**Loo.examples[0], **changed},))
    outcome = outcomes_of(Loo, {"examples_hold"})["examples_hold"]
    assert outcome.state == "failed"
    assert re.search(r"examples\[0\]: ", outcome.message)
    assert re.search(message, outcome.message)


def test_an_example_of_a_critic_gives_what_it_says_now(monkeypatch):
    # One token, reward 1, V was 0.5 and is 0.75: A = R - V = 0.5, centred 0; half of 0.25^2.
    example = {
        "options": {"vf_coef": 1.0, "ent_coef": 0.0},
        "rewards": [[1.0]],
        "values": [[0.5]],
        "new_values": [[0.75]],
        "log_probs": [[-1.0]],
        "advantages": [[0.0]],
        "returns": [[1.0]],
        "loss": 0.03125,
        "gradient": [[0.0]],
        "value_gradient": [[-0.25]],
        "metrics": {"value_loss": 0.03125, "approx_kl": 0.0},
    }
    monkeypatch.setattr(Clip, "examples", (example,))
    outcome = outcomes_of(Clip, {"examples_hold"})["examples_hold"]
    assert outcome.message == ""


def test_cases_are_named_and_know_their_expected_failures():
    cases = algorithm_checks("sft", expected_failures={"examples_hold": "none given"})
    assert [case.id for case in cases] == [check.name for check in CHECKS]
    (marked,) = [case for case in cases if case.marks]
    assert marked.id == "examples_hold"
    with pytest.raises(ConfigError, match=r"'example_holds'.*Did you mean 'examples_hold'"):
        algorithm_checks("sft", expected_failures={"example_holds": "x"})


def test_collecting_the_checks_imports_no_torch():
    script = (
        "import sys; from alignzoo.testing import algorithm_checks; algorithm_checks('ppo'); "
        "print([name for name in ('torch', 'transformers', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
