"""Conformance checks: named functions, run one by one, each with one reason to fail.

A check is a function that takes a subject (what is being checked, with everything made for it) and
returns if all is well. Its name is what people type, and the first line of its docstring is the
first line of its failure message: what should have held. Below it stands what was found.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from alignzoo.errors import ConfigError, did_you_mean
from alignzoo.plugin_loader import one_line

THREAD_VARIABLES = ("ALIGNZOO_NUM_THREADS", "OMP_NUM_THREADS")

Subject = TypeVar("Subject")
State = Literal["passed", "failed", "skipped", "expected", "unexpected"]


class CheckFailure(AssertionError):  # noqa: N818 - a failed check, as pytest says it
    """A plugin breaks its contract. The message says what should have held, and what did not."""


class NotApplicable(Exception):  # noqa: N818 - it is no error: this check has nothing to look at
    """A check has nothing to look at here; the message says why."""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One check: what it is called, and the function that makes it."""

    name: str
    function: Callable[[Subject], None]

    @property
    def promise(self) -> str:
        """What should hold: the first line of the function's docstring."""
        return (inspect.getdoc(self.function) or self.name).partition("\n")[0]

    def run(self, subject: Subject) -> None:
        """Makes the check.

        Raises:
            CheckFailure: the plugin breaks its promise, or raised while it was asked.
            NotApplicable: there is nothing to check.
        """
        __tracebackhide__ = True  # pytest then shows the message and none of these lines
        try:
            with _one_thread():
                self.function(subject)
        except NotApplicable:
            raise
        except CheckFailure as failure:
            raise CheckFailure(f"{self.promise}\n  {failure}") from failure.__cause__
        except (Exception, SystemExit) as error:
            said = f"It raised {one_line(error)}{_place(error, subject)}"
            raise CheckFailure(f"{self.promise}\n  {said}") from error


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps a check on one thread: its models are tiny, and more threads wait for each other.

    Where the check is what imports torch, torch stays with one thread.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else None
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    if torch is not None:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch is not None:
            torch.set_num_threads(threads)


def _place(error: BaseException, subject: Any) -> str:
    """Returns where an error was raised: as far inside the plugin as it can be followed."""
    frames = list(traceback.walk_tb(error.__traceback__))
    module = getattr(getattr(subject, "plugin", None), "module", "")
    package = module.rpartition(".")[0] or module
    own = [f for f in frames if f"{f[0].f_globals.get('__name__')}.".startswith(f"{package}.")]
    if not own or not package:
        return ""
    frame, line = own[-1]
    return f" ({frame.f_code.co_filename}, line {line})"


@dataclass(frozen=True)
class Outcome:
    """What became of one check.

    Args:
        name: of the check.
        state: "expected" where it failed as announced, "unexpected" where it was announced to
            fail and passed.
        message: why it failed, why it has nothing to check, or the reason that was announced.
        seconds: how long it took.
    """

    name: str
    state: State
    message: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """It is no reason to distrust the plugin."""
        return self.state in ("passed", "skipped", "expected")


def fail(message: str) -> None:
    """Ends a check: the plugin breaks its promise, and this is how."""
    raise CheckFailure(message)


def require(holds: object, message: str) -> None:
    """Ends a check unless `holds`."""
    if not holds:
        fail(message)


def make_checks(functions: Sequence[Callable[[Subject], None]]) -> list[Check[Subject]]:
    """Returns a check for each function, under the function's name."""
    return [Check(function.__name__, function) for function in functions]


def check_names(checks: Sequence[Check[Any]], names: Sequence[str], what: str) -> None:
    """Raises ConfigError where one of `names` is no check, with a did-you-mean."""
    known = [check.name for check in checks]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{what} names '{name}', which is no check.{did_you_mean(name, known)} "
                f"Checks: {', '.join(known)}."
            )


def run_checks(
    checks: Sequence[Check[Subject]],
    subject: Subject,
    *,
    expected_failures: Mapping[str, str] | None = None,
    report: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Runs every check on one subject and returns what became of each, in order.

    Args:
        expected_failures: names of checks that are known to fail, each with the reason.
        report: called with each outcome as soon as it is known.
    Raises:
        ConfigError: `expected_failures` names no check.
    """
    announced = dict(expected_failures or {})
    check_names(checks, list(announced), "expected_failures")
    outcomes = []
    for check in checks:
        outcome = _outcome(check, subject, announced.get(check.name))
        outcomes.append(outcome)
        if report is not None:
            report(outcome)
    return outcomes


def _outcome(check: Check[Subject], subject: Subject, reason: str | None) -> Outcome:
    started = time.perf_counter()
    state: State = "passed"
    message = ""
    try:
        check.run(subject)
    except NotApplicable as skipped:
        state, message = "skipped", str(skipped)
    except CheckFailure as failure:
        state, message = "failed", str(failure)
    if reason is not None and state == "failed":
        state, message = "expected", reason
    elif reason is not None and state == "passed":
        state, message = "unexpected", f"it was announced to fail ({reason}) and passes"
    return Outcome(check.name, state, message, time.perf_counter() - started)


def pytest_cases(
    checks: Sequence[Check[Subject]],
    subject: Callable[[], Subject],
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Any]:
    """Returns a `pytest.param` for each check: a function of no arguments that makes it.

        @pytest.mark.parametrize("check", algorithm_checks("loo"))
        def test_conformance(check):
            check()

    Args:
        subject: makes what is checked; called once, when the first case runs.
        expected_failures: names of checks that are known to fail, each with the reason; one that
            passes is a failure.
    Raises:
        ConfigError: `expected_failures` names no check.
    """
    import pytest

    announced = dict(expected_failures or {})
    check_names(checks, list(announced), "expected_failures")
    made: list[Subject] = []

    def case(check: Check[Subject]) -> Callable[[], None]:
        def run() -> None:
            __tracebackhide__ = True
            if not made:
                made.append(subject())
            try:
                check.run(made[0])
            except NotApplicable as reason:
                pytest.skip(str(reason))

        run.__name__ = run.__qualname__ = check.name
        run.__doc__ = check.promise
        return run

    def marks(check: Check[Subject]) -> list[Any]:
        reason = announced.get(check.name)
        return [pytest.mark.xfail(reason=reason, strict=True)] if reason is not None else []

    return [pytest.param(case(check), id=check.name, marks=marks(check)) for check in checks]
