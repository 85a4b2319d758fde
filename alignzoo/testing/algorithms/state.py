"""Whether everything that an update depends on is kept, seeded and restored."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from alignzoo.rollout.columns import WRITABLE
from alignzoo.testing.algorithms.subject import AlgorithmSubject
from alignzoo.testing.checks import fail, require

if TYPE_CHECKING:
    from pathlib import Path

    from alignzoo.algorithm import Algorithm
    from alignzoo.testing.algorithms.scenes import Scene

SEEDS = (
    "Draw random numbers from torch's, NumPy's or Python's global generators, which the run seeds; "
    "depend on no clock, no set order and no file."
)


def state_dict_holds_all_state(subject: AlgorithmSubject) -> None:
    """Restored from state_dict and its modules, it goes on as if it had never been away."""
    old = subject.scene()
    old.play()
    new = subject.scene()
    _restore(new, old)
    for _ in range(2):
        found = [_one_update(scene) for scene in (old, new)]
        for name, value in found[0].items():
            if not _equal(value, found[1].get(name)):
                fail(f"after it was restored, {name} {_differ(old.algorithm, new.algorithm)}")


def _restore(new: Scene, old: Scene) -> None:
    """Puts `new` where `old` stands, by what a checkpoint keeps."""
    try:
        state = json.loads(json.dumps(old.algorithm.state_dict()))
    except (TypeError, ValueError) as error:
        fail(
            f"state_dict returns what JSON cannot hold ({error}); keep tensors in the module that "
            "build returns."
        )
    tensors = {name: tensor.clone() for name, tensor in old.learner.state_tensors().items()}
    new.learner.load_state(tensors, old.learner.num_steps)
    if old.algorithm.needs.replay:
        new.buffer = copy.deepcopy(old.buffer)
        new.learner.set_buffer(new.buffer)
    new.algorithm.load_state_dict(state)
    new.number, new._random = old.number, old._random


def _one_update(scene: Scene) -> dict[str, Any]:
    """Returns everything that comes out of a rollout and an update, by what it is called."""
    batch = scene.collect()
    writable = {*WRITABLE, *scene.algorithm.needs.columns}
    columns = {
        f"the '{name}' that prepare writes": getattr(batch, name)
        for name in sorted(writable.intersection(batch.columns))
    }
    scene.drift()
    start = len(scene.learner.gradients)
    metrics = scene.update(batch)
    gradients = {
        f"gradient {number} of the update": scene.learner.gradient_vector(gradient)
        for number, gradient in enumerate(scene.learner.gradients[start:], start=1)
    }
    named = {f"metric '{name}'": value for name, value in metrics.items()}
    return {**columns, **gradients, **named, "the parameters": scene.learner.get_vector()}


def _equal(one: Any, other: Any) -> bool:
    if hasattr(one, "equal"):
        return other is not None and bool(one.equal(other))
    return bool(one == other or (one != one and other != other))


def _differ(old: Algorithm, new: Algorithm) -> str:
    """Returns which attributes are not what they were, and what to do."""
    names = sorted({*vars(old), *vars(new)} - {"config"})
    plain = [n for n in names if _is_plain(vars(old).get(n)) and _is_plain(vars(new).get(n))]
    lost = [n for n in plain if not _equal(vars(old).get(n), vars(new).get(n))]
    why = f" It keeps {', '.join(f'self.{name}' for name in lost)} for itself." if lost else ""
    return (
        f"is another.{why} Name plain attributes in `saved`, keep tensors in the module that build "
        "returns, and compute what belongs to a batch from that batch each time."
    )


def _is_plain(value: Any) -> bool:
    return value is None or hasattr(value, "equal") or isinstance(value, int | float | str | list)


def seeded_runs_are_equal(subject: AlgorithmSubject) -> None:
    """Two runs with the same seed are equal, to the bit."""
    from alignzoo.testing.algorithms.runs import STOP, lines_of

    runs = subject.runs
    _compare_lines(lines_of(runs.whole)[:STOP], lines_of(runs.part), SEEDS)
    tensors = [
        folder / "checkpoints" / f"step_{STOP}" / "state.safetensors"
        for folder in (runs.whole, runs.part)
    ]
    require(
        tensors[0].read_bytes() == tensors[1].read_bytes(),
        f"parameters differ after {STOP} updates of two runs alike. {SEEDS}",
    )


def resume_equals_uninterrupted(subject: AlgorithmSubject) -> None:
    """A run that is stopped and resumed ends as one that was not, to the bit."""
    from alignzoo.testing.algorithms.runs import lines_of

    runs = subject.runs
    remedy = (
        "Name what update, prepare and after_update remember in `saved` (JSON-able), and keep "
        "tensors in the module that build returns."
    )
    _compare_lines(lines_of(runs.whole), lines_of(runs.resumed), remedy)
    for name in ("samples.jsonl", "final/model.safetensors"):
        one, other = (_content(folder / name) for folder in (runs.whole, runs.resumed))
        require(one == other, f"{name} is another after resuming. {remedy}")


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _compare_lines(one: list[Any], other: list[Any], remedy: str) -> None:
    """Fails where two runs' metrics differ, apart from held-out ones that one of them lacks."""
    require(len(one) == len(other), f"one run made {len(one)} updates, the other {len(other)}.")
    for a, b in zip(one, other, strict=True):
        for name in sorted(a.keys() & b.keys()):
            require(
                _equal(a[name], b[name]),
                f"update {a['step']}: '{name}' is {a[name]} in one run and {b[name]} in the other. "
                f"{remedy}",
            )
