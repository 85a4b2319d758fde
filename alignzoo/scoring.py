"""Scoring responses: several rewards as one weighted sum, each result checked.

A reward is named on the command line by an id, a function in a Python file, or a folder that
`alignzoo train-reward` wrote; `resolve_reward` turns that text into an object. This module knows
no registry: it is handed one.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import AlignzooError, ConfigError, PluginError
from alignzoo.reward import FunctionReward, Prompt, RewardModel, declared_arguments, load_function
from alignzoo.reward_folder import RewardRegistry, load_trained_reward

# Columns of these names do not reach a reward: they are its own arguments.
RESERVED_COLUMNS = frozenset({"self", "prompts", "responses", "completions"})


class WeightedReward(NamedTuple):
    """One term of a sum.

    Args:
        name: what its metrics are called.
        reward: scores responses.
        weight: finite; may be negative. With weight 0 it is only logged.
        label: what errors call it; default "reward 'NAME'".
    """

    name: str
    reward: RewardModel
    weight: float = 1.0
    label: str = ""


@dataclass(frozen=True)
class Scores:
    """Scores of B responses.

    Args:
        total: [B], float64, the weighted sum; NaN where any part is NaN.
        parts: each reward's own scores, before its weight, [B] by name.
    """

    total: NDArray[np.float64]
    parts: dict[str, NDArray[np.float64]] = field(default_factory=dict)


class RewardSum:
    """The weighted sum of several rewards.

    Args:
        rewards: `WeightedReward`, or tuples in its order; equal names become `name`, `name#2`.
    Raises:
        ConfigError: no reward, or a weight that is not finite.
    """

    def __init__(self, rewards: Iterable[WeightedReward | tuple[str, RewardModel, float]]) -> None:
        terms = [WeightedReward(*term) for term in rewards]
        if not terms:
            raise ConfigError("no reward was given; say at least one.")
        names = _unique([term.name for term in terms])
        self.terms = tuple(
            term._replace(
                name=name,
                weight=_check_weight(term.weight, name),
                label=term.label or f"reward '{name}'",
            )
            for term, name in zip(terms, names, strict=True)
        )

    @classmethod
    def of(cls, reward: Any) -> RewardSum:
        """Returns the sum of a reward, a function, pairs of either and a weight, or a list of such.

        Raises:
            ConfigError: something in it can score nothing.
        """
        if isinstance(reward, cls):
            return reward
        if isinstance(reward, (str, bytes)):
            raise ConfigError(f"reward is the text {reward!r}; expected a reward or a function.")
        return cls(map(_as_term, reward if isinstance(reward, list) else [reward]))

    @property
    def names(self) -> tuple[str, ...]:
        """The rewards' names, in order."""
        return tuple(term.name for term in self.terms)

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> Scores:
        """Returns the weighted sum of every reward's scores, and each reward's own.

        A response that some reward cannot score has the total NaN. A score that is infinite
        leaves the total infinite.

        Args:
            prompts: B prompts, text or chat messages.
            responses: B responses, text.
            columns: further columns of the data, each of length B, by name.
        Raises:
            ConfigError: a reward returned the wrong number of scores, or something else than
                numbers; the message names it.
            DataError: a reward function declares a column that the data lacks.
            PluginError: a reward raised; the message names it, and the original is its cause.
        """
        others = {k: v for k, v in (columns or {}).items() if k not in RESERVED_COLUMNS}
        parts = {
            term.name: _run(term, list(prompts), list(responses), others) for term in self.terms
        }
        return Scores(_weighted_sum(parts, [term.weight for term in self.terms]), parts)


def _weighted_sum(
    parts: Mapping[str, NDArray[np.float64]], weights: Sequence[float]
) -> NDArray[np.float64]:
    """Returns the sum of parts by weight; infinities of both signs do not cancel to NaN."""
    values = np.stack(list(parts.values()))  # [R, B]
    factors = np.asarray(weights, dtype=np.float64)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        terms = np.where((factors == 0) & ~np.isnan(values), 0.0, values * factors)
        total: NDArray[np.float64] = terms.sum(axis=0)
    cancelled = np.isnan(total) & ~np.isnan(values).any(axis=0)
    return np.where(cancelled, np.inf, total)


def _run(
    term: WeightedReward,
    prompts: list[Prompt],
    responses: list[str],
    columns: Mapping[str, Sequence[Any]],
) -> NDArray[np.float64]:
    if not responses:
        return np.zeros(0)
    available: dict[str, Any] = {"prompts": prompts, "responses": responses, **columns}
    try:
        score = term.reward.score
        names, takes_all = declared_arguments(score)
        result = score(**{k: v for k, v in available.items() if takes_all or k in names})
    except AlignzooError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{term.label} failed: {type(error).__name__}: {error}") from error
    return checked_scores(result, len(responses), term.label)


def checked_scores(result: Any, expected: int, label: str) -> NDArray[np.float64]:
    """Returns what a reward returned as [B], float64; None becomes NaN.

    Raises:
        ConfigError: it is not one number per response.
    """
    wanted = f"expected {expected} numbers, one per response"
    if hasattr(result, "tolist"):
        result = result.tolist()
    if isinstance(result, (str, bytes, Mapping)) or not isinstance(result, Iterable):
        raise ConfigError(f"{label} returned {_shown(result)}; {wanted}.")
    values = list(result)
    if len(values) != expected:
        raise ConfigError(f"{label} returned {len(values)} scores; {wanted}.")
    return np.array([_number(value, row, label) for row, value in enumerate(values)], dtype=float)


def _number(value: Any, row: int, label: str) -> float:
    if hasattr(value, "item") and np.ndim(value) == 0:
        value = value.item()
    if value is None:
        return math.nan
    if not isinstance(value, (Real, Decimal)):
        raise ConfigError(
            f"{label} returned {_shown(value)} for row {row}; expected a number, "
            "or None where a response cannot be scored."
        )
    try:
        return float(value)
    except OverflowError:
        return math.inf if str(value)[0] != "-" else -math.inf


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def _unique(names: Sequence[str]) -> list[str]:
    """Returns the names, the second of two equal ones with `#2` added."""
    taken: list[str] = []
    for name in names:
        number, unique = 2, name
        while unique in taken:
            unique, number = f"{name}#{number}", number + 1
        taken.append(unique)
    return taken


def _check_weight(weight: Any, owner: str) -> float:
    if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
        raise ConfigError(f"{owner}: option 'weight' is {weight!r}; expected a finite number.")
    return float(weight)


def _as_term(reward: Any) -> WeightedReward:
    if isinstance(reward, WeightedReward):
        return reward
    weight = 1.0
    if isinstance(reward, tuple) and len(reward) == 2:
        reward, weight = reward
    if isinstance(reward, tuple) and len(reward) == 3:
        return WeightedReward(*reward)
    if inspect.isclass(reward):
        raise ConfigError(
            f"reward is the class {reward.__name__}; make one: {reward.__name__}(...)"
        )
    if hasattr(reward, "score"):
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(reward).__name__).lower()
        return WeightedReward(getattr(reward, "name", name), reward, weight)
    if callable(reward):
        function = FunctionReward(reward)
        return WeightedReward(function.name, function, weight)
    raise ConfigError(
        f"reward is {_shown(reward)}; expected a reward, a function, or a list of them."
    )


class ParsedReward(NamedTuple):
    """What a reward's text says; `name` is the id, `file.py:function` or folder."""

    kind: Literal["id", "function", "folder"]
    name: str
    options: dict[str, Any]
    weight: float


def parse_reward(text: str, is_known: Callable[[str], bool] | None = None) -> ParsedReward:
    """Returns what `NAME[:{json options}]` says, `weight` apart from the other options.

    NAME is, in this order, a known id, `file.py:function`, or a folder; what is none of these
    counts as an id.

    Args:
        is_known: says whether a name is an id or `distribution:id`; without it none is.
    Raises:
        ConfigError: the options are no JSON object, the weight is no finite number, or options
            were given to a function or folder, which take `weight` alone.
    """
    start = text.find(":{")
    name = text if start < 0 else text[:start]
    options = {} if start < 0 else _parse_options(name, text[start + 1 :])
    weight = _check_weight(options.pop("weight", 1.0), f"reward '{name}'")
    if is_known is not None and is_known(name):
        return ParsedReward("id", name, options, weight)
    kind: Literal["id", "function", "folder"] = "id"
    if re.search(r"\.py(:|$)", name):
        kind = "function"
    elif Path(name).expanduser().is_dir():
        kind = "folder"
    if kind != "id" and options:
        raise ConfigError(
            f"reward '{name}' has no option '{next(iter(options))}'; a {kind} takes 'weight' alone."
        )
    return ParsedReward(kind, name, options, weight)


def _parse_options(name: str, text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        example = f"'{name}:" + '{"weight": 0.5}\''
        raise ConfigError(
            f"reward '{name}': its options {text} are not JSON: {error}. "
            f"Quote the whole, such as {example}."
        ) from None
    assert isinstance(options, dict), "text that starts with { holds an object"
    return options


def resolve_reward(text: str, registry: RewardRegistry) -> WeightedReward:
    """Returns the reward that a text names; see `parse_reward`.

    Raises:
        ConfigError: nothing is called so, with a did-you-mean; or its options are wrong.
        PluginError: the plugin's class cannot be imported or made.
    """

    def is_known(name: str) -> bool:
        return bool(registry.matches("reward", name))

    parsed = parse_reward(text, is_known)
    if parsed.kind == "function":
        function = FunctionReward(load_function(parsed.name))
        label = f"reward '{parsed.name}'"
        return WeightedReward(function.name, function, parsed.weight, label)
    if parsed.kind == "folder":
        folder = Path(parsed.name).expanduser().resolve()
        reward = load_trained_reward(folder, registry)
        return WeightedReward(folder.name, reward, parsed.weight, f"reward '{parsed.name}'")
    if not is_known(parsed.name):
        _explain_unknown(parsed.name, is_known)
    label = registry.find("reward", parsed.name).label
    reward = registry.build("reward", parsed.name, parsed.options)
    return WeightedReward(parsed.name.rpartition(":")[2], reward, parsed.weight, label)


def _explain_unknown(name: str, is_known: Callable[[str], bool]) -> None:
    """Raises where more can be said than that no reward is called so."""
    head, colon, rest = name.partition(":")
    if colon and is_known(head):
        example = head + ':{"weight": 0.5}'
        raise ConfigError(
            f"reward '{head}' is followed by '{rest}'; options are JSON: '{example}'."
        )
    if "/" in name or "\\" in name:
        raise ConfigError(
            f"no folder {name}. A reward is an id (`alignzoo list`), file.py:function, or a folder "
            "that `alignzoo train-reward` wrote."
        )


def resolve_rewards(texts: Sequence[str], registry: RewardRegistry) -> RewardSum:
    """Returns the weighted sum of the rewards that the texts name."""
    return RewardSum(resolve_reward(text, registry) for text in texts)
