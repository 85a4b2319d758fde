"""Numbers worked by hand, which an algorithm's class gives as `examples`.

Each is a mapping. What goes in, padded with 0 where rows differ in length:

    options             of the algorithm
    lengths             [B], tokens of each response; default as wide as what is given
    response_mask       [B, T], 0 at tokens that the policy did not choose
    scores              [B]; default what the rewards sum to
    rewards             [B, T]; default the score at the last token
    log_probs           [B, T], of the policy that is trained; `loss` and `gradient` need them
    old_log_probs       [B, T], of the policy that sampled; default log_probs
    sampler_log_probs   [B, T]; default old_log_probs
    ref_log_probs       [B, T], of the reference; default old_log_probs
    values              [B, T], V before each token as it was when the rollout was made; default 0
    new_values          [B, T], what the value head says now; default values
    entropy             [B, T]; default 0
    bootstrap_values    [B], V after the last token; default 0
    group_ids           [B]; default one group after another, each as large as needs.group_size
    pair_labels         [B]; default 1, 0, 1, 0, ... for preferences
    truncated           [B]; default none is

What must come out, at least one of them:

    advantages, returns, weights, or a column of its own    as `prepare` writes them
    loss                the value of `loss`
    gradient            [B, T], d loss / d log_probs
    value_gradient      [B, T], d loss / d new_values
    metrics             by name; those given are compared
    tolerance           largest absolute difference; default 1e-5
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.config import build_config
from alignzoo.errors import ConfigError, did_you_mean
from alignzoo.testing.algorithms.subject import AlgorithmSubject
from alignzoo.testing.checks import CheckFailure, NotApplicable, fail, require

if TYPE_CHECKING:
    from alignzoo.algorithm import Algorithm
    from alignzoo.rollout import RolloutBatch

Floats = NDArray[np.float64]

TOKEN_INPUTS = (
    "rewards", "log_probs", "old_log_probs", "sampler_log_probs", "ref_log_probs", "values",
    "new_values", "entropy", "response_mask",
)  # fmt: skip
ROW_INPUTS = ("lengths", "scores", "bootstrap_values", "group_ids", "pair_labels", "truncated")
WRITTEN = ("advantages", "returns", "weights")
OF_LOSS = ("loss", "gradient", "value_gradient", "metrics")
TOLERANCE = 1e-5


def examples_hold(subject: AlgorithmSubject) -> None:
    """The numbers worked by hand, which the class gives as `examples`, come out."""
    examples = subject.target.examples
    if not examples:
        raise NotApplicable("its class gives no examples")
    for number, example in enumerate(examples, start=1):
        try:
            _check_example(subject, example)
        except (CheckFailure, ValueError) as error:  # ConfigError is one
            fail(f"examples[{number - 1}]: {error}")


def _check_example(subject: AlgorithmSubject, example: Mapping[str, Any]) -> None:
    require(isinstance(example, Mapping), f"it is a {type(example).__name__}; expected a dict")
    algorithm = _make(subject, dict(example.get("options", {})))
    own = tuple(algorithm.needs.columns)
    outputs = (*WRITTEN, *own, *OF_LOSS)
    known = ("options", "tolerance", *TOKEN_INPUTS, *ROW_INPUTS, *outputs)
    for name in example:
        require(
            name in known,
            f"it has no use for '{name}'.{did_you_mean(name, known)} It takes {', '.join(known)}.",
        )
    expected = {name: example[name] for name in outputs if name in example}
    require(expected, f"it says nothing that must come out: give one of {', '.join(outputs)}.")
    given = Given(example, algorithm)
    found = _computed(algorithm, given, set(expected))
    tolerance = float(example.get("tolerance", TOLERANCE))
    wanted = dict(expected)
    for name, value in wanted.pop("metrics", {}).items():
        metrics = found["metrics"]
        require(name in metrics, f"metric '{name}' is not reported; those are: {sorted(metrics)}")
        _require_close(f"metric '{name}'", metrics[name], value, tolerance)
    for name, value in wanted.items():
        _require_close(f"'{name}'", found[name], value, tolerance)


def _make(subject: AlgorithmSubject, options: dict[str, Any]) -> Any:
    """Returns an algorithm with an example's own options: it holds whatever else is checked.

    What is required and not among them is taken from the options of the check.
    """
    config = subject.target.Config
    try:
        return subject.target(build_config(config, options, subject.entry.id))
    except ConfigError:
        return subject.target(build_config(config, {**subject.given, **options}, subject.entry.id))


class Given:
    """What an example gives, completed: tokens [B, T] and rows [B], float64."""

    def __init__(self, example: Mapping[str, Any], algorithm: Algorithm) -> None:
        self.needs = algorithm.needs
        self.tokens = {n: _array(n, example[n], 2) for n in TOKEN_INPUTS if n in example}
        self.rows = {n: _array(n, example[n], 1) for n in ROW_INPUTS if n in example}
        for name in WRITTEN:
            array = np.asarray(example[name]) if name in example and not self.tokens else None
            if array is not None and array.ndim == 2:  # nothing else says how wide the rows are
                self.tokens["rewards"] = np.zeros(array.shape)
        count, width = self._shape()
        self.lengths = self.rows.get("lengths", np.full(count, width)).astype(int)
        inside = np.arange(width) < self.lengths[:, None]
        self.mask = (self.tokens.get("response_mask", np.ones((count, width))) > 0) & inside
        self._complete(count, width)

    def _shape(self) -> tuple[int, int]:
        shapes = {name: array.shape for name, array in self.tokens.items()}
        lengths = self.rows.get("lengths")
        if not shapes and lengths is None:
            size = len(next(iter(self.rows.values()), ()))
            require(size, "it gives no rows: say rewards, scores or log_probs")
            return size, 1
        count, width = next(iter(shapes.values()), (0, 0))
        if lengths is not None:
            count, width = len(lengths), max(width, int(lengths.max()))
        for name, shape in shapes.items():
            require(
                shape == (count, width),
                f"'{name}' has shape {list(shape)}; the others have [B, T] = [{count}, {width}]",
            )
        for name, array in self.rows.items():
            require(len(array) == count, f"'{name}' has {len(array)} rows; the others {count}")
        return count, width

    def _complete(self, count: int, width: int) -> None:
        tokens, rows, zeros = self.tokens, self.rows, np.zeros((count, width))
        if "rewards" not in tokens:
            tokens["rewards"] = zeros.copy()
            last = width - 1 - self.mask[:, ::-1].argmax(axis=1)
            tokens["rewards"][np.arange(count), last] = rows.get("scores", np.zeros(count))
        rows.setdefault("scores", (tokens["rewards"] * self.mask).sum(axis=1))
        tokens.setdefault("old_log_probs", tokens.get("log_probs", zeros))
        for name in ("sampler_log_probs", "ref_log_probs"):
            tokens.setdefault(name, tokens["old_log_probs"])
        tokens.setdefault("values", zeros)
        tokens.setdefault("new_values", tokens["values"])
        tokens.setdefault("entropy", zeros)
        rows.setdefault("bootstrap_values", np.zeros(count))
        rows.setdefault("truncated", np.zeros(count))
        are_pairs = self.needs.source == "preferences"
        size = 2 if are_pairs else self.needs.group_size
        places = np.arange(count, dtype=np.float64)
        rows.setdefault("group_ids", places // size)
        rows.setdefault("pair_labels", 1 - places % 2 if are_pairs else np.full(count, -1.0))

    def batch(self, algorithm: Algorithm) -> RolloutBatch:
        """Returns the rows as the algorithm sees them in a run of float64."""
        from alignzoo.learner import restrict
        from alignzoo.rollout import RolloutBuffer

        needs, rows = self.needs, self.rows
        buffer = RolloutBuffer(needs.columns, float_dtype="float64")
        truncated = rows["truncated"] > 0
        buffer.append(
            [[1]] * len(self.lengths),
            [[7] * length for length in self.lengths],
            policy_version=0,
            response_masks=self.mask,
            group_ids=rows["group_ids"].astype(int),
            pair_labels=rows["pair_labels"].astype(int),
            scores=rows["scores"],
            truncated=truncated,
            terminated=~truncated,
        )
        names = ["rewards", "old_log_probs", "sampler_log_probs"]
        names += ["ref_log_probs"] if needs.ref_log_probs else []
        names += ["values"] if needs.values else []
        for name in names:
            buffer.set(name, self.tokens[name])
        if needs.bootstrap_values:
            buffer.set("bootstrap_values", rows["bootstrap_values"])
        return restrict(buffer.batch(), algorithm, may_write=True)


def _computed(algorithm: Algorithm, given: Given, wanted: set[str]) -> dict[str, Any]:
    """Returns what `prepare` writes, and what `loss` says where that is wanted."""
    batch = given.batch(algorithm)
    algorithm.prepare(batch)
    found: dict[str, Any] = {}
    for name in wanted - set(OF_LOSS):
        require(name in batch.written, f"prepare writes no '{name}'")
        found[name] = getattr(batch, name).double().numpy()
    if wanted & set(OF_LOSS):
        found |= _loss(algorithm, given, batch)
    return found


def _loss(algorithm: Algorithm, given: Given, batch: RolloutBatch) -> dict[str, Any]:
    import torch

    from alignzoo.algorithm import Metrics
    from alignzoo.policy import PolicyOutput

    require("log_probs" in given.tokens, "a loss needs log_probs: the policy's, [B, T]")

    def leaf(name: str) -> Any:
        return torch.tensor(given.tokens[name] * given.mask, requires_grad=True)

    log_probs, values = leaf("log_probs"), leaf("new_values")
    out = PolicyOutput(log_probs, leaf("entropy"), values if given.needs.values else None)
    loss = algorithm.loss(batch, out)
    gradients: Any = (None, None)
    if loss.value.requires_grad:
        gradients = torch.autograd.grad(loss.value, [log_probs, values], allow_unused=True)
    zeros = np.zeros(given.mask.shape)
    one, other = (zeros if g is None else g.double().numpy() for g in gradients)
    return {
        "loss": float(loss.value.detach()),
        "gradient": one,
        "value_gradient": other,
        "metrics": Metrics(loss.metrics).result(),
    }


def _array(name: str, value: Any, num_dims: int) -> Floats:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        fail(f"'{name}' is no table of numbers; rows of unequal length are padded with 0")
        raise
    words = "[B, T]" if num_dims == 2 else "[B]"
    require(array.ndim == num_dims, f"'{name}' has {array.ndim} dimensions; expected {words}")
    return array


def _require_close(name: str, found: Any, expected: Any, tolerance: float) -> None:
    a, b = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    require(a.shape == b.shape, f"{name} has shape {list(a.shape)}; {list(b.shape)} is expected")
    wrong = ~(np.abs(a - b) <= tolerance)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        where = {0: "", 1: f" of row {place}", 2: f" at row, token {place}"}[min(2, len(place))]
        fail(
            f"{name}{where.replace(',)', ')')} is {a[place]:.7g}; worked by hand it is "
            f"{b[place]:.7g}. Whole: {np.round(a, 6).tolist()}"
        )
