"""The conformance kit for rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignzoo.testing.checks import Check, make_checks
from alignzoo.testing.records import RECORD_CHECKS, plugin_cases
from alignzoo.testing.rewards.learned import (
    it_learns_from_its_judgements,
    it_saves_nothing_that_runs,
    it_scores_the_same_after_saving,
    the_same_seed_learns_the_same,
    untrained_it_says_so,
)
from alignzoo.testing.rewards.scores import (
    an_empty_response_is_scored,
    another_process_scores_the_same,
    any_text_is_accepted,
    chat_prompts_are_accepted,
    class_probabilities_are_probabilities,
    examples_hold,
    inputs_are_not_changed,
    no_gradient_is_kept,
    one_number_per_response,
    scores_are_finite,
    the_batch_changes_nothing,
    the_order_changes_nothing,
    the_same_call_scores_the_same,
)
from alignzoo.testing.rewards.subject import RewardSubject, make_subject

CHECKS: list[Check[RewardSubject]] = make_checks(
    [
        *RECORD_CHECKS,
        one_number_per_response,
        scores_are_finite,
        an_empty_response_is_scored,
        any_text_is_accepted,
        chat_prompts_are_accepted,
        the_batch_changes_nothing,
        the_order_changes_nothing,
        the_same_call_scores_the_same,
        another_process_scores_the_same,
        no_gradient_is_kept,
        inputs_are_not_changed,
        class_probabilities_are_probabilities,
        it_learns_from_its_judgements,
        the_same_seed_learns_the_same,
        it_scores_the_same_after_saving,
        it_saves_nothing_that_runs,
        untrained_it_says_so,
        examples_hold,
    ]
)


def reward_checks(
    id: str,
    *,
    options: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Any]:
    """Returns a pytest case for each check of the reward `id`, or `distribution:id`.

        @pytest.mark.parametrize("check", reward_checks("readability"))
        def test_conformance(check):
            check()

    Nothing is imported before a case runs.

    Args:
        options: of the reward; required ones that are not given come from its first example.
        expected_failures: names of checks that are known to fail, each with the reason; one that
            passes is a failure.
    Raises:
        ConfigError: `expected_failures` names no check.
    """
    return plugin_cases(
        "reward", id, CHECKS, make_subject, options=options, expected_failures=expected_failures
    )


__all__ = ["CHECKS", "make_subject", "reward_checks"]
