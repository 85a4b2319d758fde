"""Right tasks pass the kit, and each planted bug is caught by the check that is there for it."""

from __future__ import annotations

import pytest
from testing import planted_tasks
from testing.planted_tasks import PLANTED, RIGHT

from alignzoo.plugin_registry import registry, select_plugins, selected_plugins
from alignzoo.testing.checks import run_checks
from alignzoo.testing.records import RECORD_CHECKS
from alignzoo.testing.tasks import CHECKS, make_subject

OF_RECORDS = {function.__name__ for function in RECORD_CHECKS}
OF_TASKS = [check for check in CHECKS if check.name not in OF_RECORDS]


@pytest.fixture(autouse=True, scope="module")
def _planted():
    before = selected_plugins()
    select_plugins([planted_tasks.__name__])
    yield
    select_plugins(before)


def outcomes_of(cls, checks):
    return run_checks(checks, make_subject(registry().find("task", cls.__name__)))


@pytest.mark.parametrize("cls", RIGHT, ids=lambda cls: cls.__name__)
def test_a_right_task_passes_every_check(cls):
    outcomes = outcomes_of(cls, OF_TASKS)
    assert [o.message for o in outcomes if not o.is_good] == []
    assert {o.state for o in outcomes} == {"passed"}


@pytest.mark.parametrize("cls", PLANTED, ids=lambda cls: cls.__name__)
def test_a_planted_bug_is_caught_by_the_check_for_it(cls):
    (outcome,) = outcomes_of(cls, [check for check in OF_TASKS if check.name == PLANTED[cls]])
    assert outcome.state == "failed"


def test_each_check_of_tasks_catches_a_planted_bug():
    assert {check.name for check in OF_TASKS} == set(PLANTED.values())
