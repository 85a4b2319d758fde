"""What the checks of a reward look at: one reward, and responses for it to score."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from alignzoo.errors import ConfigError, DataError
from alignzoo.plugin_registry import Entry
from alignzoo.testing.checks import NotApplicable, fail, require
from alignzoo.testing.records import PluginSubject
from alignzoo.testing.rewards.judgements import bad_response, good_response, judgement_rows

EXAMPLE_KEYS = ("prompt", "completion", "options", "score", "tolerance")
TEXTS: tuple[tuple[Any, str], ...] = (
    ("Say 1.", good_response(1)),
    ("Say 2.", bad_response(2)),
    ("What is 3 + 4?", "The answer is 7."),
    ("说五。", "谢谢，五。"),
    ("Say 6, often.", "[6] " * 40),
    ("", "A response to nothing at all."),
    ("Write JSON.", '{"numbers": [1, 2.5], "text": null}'),
)
ANY_VALUE = "1"  # of a column that a reward asks for and no example gives
SEED = 1  # of every fit
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # a model rounds otherwise in a batch of another shape


@dataclass(frozen=True)
class Case:
    """One response to score."""

    prompt: Any
    response: str
    columns: Mapping[str, Any] = field(default_factory=dict)


class RewardSubject(PluginSubject):
    """One reward, made and trained once, scored by many checks."""

    def __init__(self, entry: Entry, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(entry, options)
        self.measures: dict[str, dict[str, float]] = {}  # of the fit, by kind of judgement
        self._fitted: dict[str, Any] = {}
        self._guessed: dict[str, Any] = {}
        self._trained: Any = None  # as `reward` was before it scored anything

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of judgement it learns from; empty for a rule."""
        return tuple(self.target.learns_from)

    def require_learning(self) -> None:
        """Ends a check that is of no use to a rule."""
        if not self.kinds:
            raise NotApplicable("it is a rule: it learns from nothing")

    @cached_property
    def reward(self) -> Any:
        """A reward that can score: made, and trained where it learns."""
        reward = self.make()
        if self.kinds:
            reward = self.fitted(self.kinds[0])
            with contextlib.suppress(Exception):
                self._trained = copy.deepcopy(reward)
        self._guess_columns(reward)
        return reward

    def fitted(self, kind: str, *, again: bool = False) -> Any:
        """Returns a reward that learned from generic judgements of a kind, made once.

        Args:
            again: make another.
        """
        from alignzoo.reward_training import fit_reward

        if again or kind not in self._fitted:
            reward = self.make()
            measures = fit_reward(reward, self.judgements(kind), seed=SEED)
            if again:
                return reward
            self._fitted[kind] = reward
            self.measures[kind] = measures
        return self._fitted[kind]

    def fresh(self) -> Any:
        """Returns a reward that can score and has scored nothing yet."""
        if not self.kinds:
            return self.make()
        _ = self.reward
        if self._trained is None:  # it holds what cannot be copied, such as a lock
            return self.fitted(self.kinds[0], again=True)
        return copy.deepcopy(self._trained)

    def judgements(self, kind: str, count: int = 40, *, start: int = 0) -> list[Any]:
        """Returns rows of a kind, as `alignzoo train-reward` hands them to `fit`."""
        from alignzoo.data import JUDGEMENTS, read_judgements

        if kind not in JUDGEMENTS:
            fail(f"learns_from names '{kind}'; expected of: {', '.join(JUDGEMENTS)}.")
        return read_judgements(judgement_rows(kind, count, start=start), [kind])[1]

    @cached_property
    def examples(self) -> list[Mapping[str, Any]]:
        """The class's own examples that hold a response."""
        return [
            example
            for example in self.target.examples
            if isinstance(example, Mapping) and isinstance(example.get("completion"), str)
        ]

    @property
    def cases(self) -> list[Case]:
        """Responses of every sort: those of the examples, then ours, in several languages."""
        own = [Case(e.get("prompt", ""), e["completion"], _columns(e)) for e in self.examples]
        return [*own, *(Case(prompt, response) for prompt, response in TEXTS)]

    def call(self, reward: Any, cases: Sequence[Case]) -> Any:
        """Returns what the reward returns, called as a run calls it: by keyword."""
        from alignzoo.reward import declared_arguments

        given = self.arguments(cases)
        names, takes_all = declared_arguments(reward.score)
        return reward.score(**{k: v for k, v in given.items() if takes_all or k in names})

    def arguments(self, cases: Sequence[Case]) -> dict[str, Any]:
        """Returns prompts, responses and columns, each a list of the cases' length.

        A case without a column that others have takes the first example's.
        """
        others = dict(self._guessed)
        for example in reversed(self.examples):
            others |= _columns(example)
        return {
            "prompts": [case.prompt for case in cases],
            "responses": [case.response for case in cases],
            **{k: [case.columns.get(k, other) for case in cases] for k, other in others.items()},
        }

    def score(self, reward: Any, cases: Sequence[Case]) -> list[float]:
        """Returns one number per case; NaN where the reward returned None.

        Raises:
            CheckFailure: it returned something else.
        """
        from alignzoo.scoring import checked_scores

        try:
            found = checked_scores(self.call(reward, cases), len(cases), "score")
        except ConfigError as error:
            if error.__traceback__ is not None and _is_ours(error):
                fail(f"{error} Return a list with a float for each of `responses`.")
            raise
        return [float(score) for score in found]

    def _guess_columns(self, reward: Any) -> None:
        """Finds which columns of the data it cannot do without, where no example says so."""
        for _ in range(5):
            try:
                self.call(reward, self.cases[:1])
            except (KeyError, TypeError, DataError) as error:
                named = re.search(r"'(\w+)'", str(error))
                if named is None or named[1] in self._guessed:
                    return
                self._guessed[named[1]] = ANY_VALUE
            except Exception:  # a check will meet it, and say so
                return
            else:
                return


def _columns(example: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the columns of the data that an example has."""
    return {key: value for key, value in example.items() if key not in EXAMPLE_KEYS}


def _is_ours(error: ConfigError) -> bool:
    """Whether the host refused what the reward returned, rather than the reward what it got."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__") == "alignzoo.scoring"


def is_same(a: float, b: float) -> bool:
    """Whether two scores are equal up to rounding; what cannot be scored is equal to itself."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def require_same(
    wanted: Sequence[float], found: Sequence[float], cases: Sequence[Case], message: str
) -> None:
    """Ends a check unless two scorings of the same responses agree; shows the first that differs.

    Args:
        message: what was done, and what to do about a difference.
    """
    for a, b, case in zip(wanted, found, cases, strict=True):
        require(is_same(a, b), f"{shown(case.response)} scored {a:.6g}, then {b:.6g}: {message}")


def shown(text: str) -> str:
    """Returns a response as messages show it."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def make_subject(entry: Entry, options: Mapping[str, Any]) -> RewardSubject:
    """Returns what the checks of a reward look at; imports nothing yet."""
    return RewardSubject(entry, options)
