"""The conformance kit for rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignzoo.testing.checks import Check, make_checks
from alignzoo.testing.records import RECORD_CHECKS, plugin_cases
from alignzoo.testing.rewards.subject import RewardSubject, make_subject

CHECKS: list[Check[RewardSubject]] = make_checks([*RECORD_CHECKS])


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
