"""The conformance kit for algorithms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alignzoo.testing.algorithms import contract, examples, invariance, learning, limits, state
from alignzoo.testing.algorithms.subject import AlgorithmSubject, make_subject
from alignzoo.testing.checks import Check, make_checks
from alignzoo.testing.records import RECORD_CHECKS, plugin_cases

OWN_CHECKS: tuple[Callable[[AlgorithmSubject], None], ...] = (
    contract.needs_are_complete,
    invariance.padding_changes_nothing,
    invariance.masked_tokens_change_nothing,
    invariance.masked_tokens_have_no_gradient,
    contract.the_batch_is_not_changed,
    contract.the_loss_is_repeatable,
    invariance.splitting_changes_nothing,
    invariance.row_order_changes_nothing,
    limits.equal_scores_teach_nothing,
    limits.extreme_ratios_stay_finite,
    limits.one_token_responses_work,
    limits.full_length_responses_work,
    contract.low_precision_keeps_a_float32_loss,
    contract.metrics_are_known_and_finite,
    contract.approx_kl_is_of_the_sampling_policy,
    contract.the_ratio_is_to_the_sampling_policy,
    contract.the_loss_has_a_gradient,
    examples.examples_hold,
    learning.expected_gradient_is_exact,
    learning.improves_on_the_token_mdp,
    state.state_dict_holds_all_state,
    state.seeded_runs_are_equal,
    state.resume_equals_uninterrupted,
)


CHECKS: list[Check[AlgorithmSubject]] = make_checks([*RECORD_CHECKS, *OWN_CHECKS])


def algorithm_checks(
    id: str,
    *,
    options: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Any]:
    """Returns a pytest case for each check of the algorithm `id`, or `distribution:id`.

        @pytest.mark.parametrize("check", algorithm_checks("loo"))
        def test_conformance(check):
            check()

    Nothing is imported before a case runs.

    Args:
        options: of the algorithm; required ones that are not given come from its first example.
        expected_failures: names of checks that are known to fail, each with the reason; one that
            passes is a failure.
    Raises:
        ConfigError: `expected_failures` names no check.
    """
    return plugin_cases(
        "algorithm", id, CHECKS, make_subject, options=options, expected_failures=expected_failures
    )


__all__ = ["CHECKS", "algorithm_checks", "make_subject"]
