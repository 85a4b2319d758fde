"""What holds of a reward that learns from human judgement."""

from __future__ import annotations

import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from alignzoo.errors import ConfigError
from alignzoo.testing.checks import fail, require
from alignzoo.testing.rewards.judgements import judgement_rows
from alignzoo.testing.rewards.subject import RewardSubject, require_same

LEARNED_SHARE = 0.7  # of held-out comparisons that a trained reward gets right, at least
INERT = frozenset({".csv", ".jinja", ".json", ".jsonl", ".md", ".model", ".npy", ".safetensors"})
INERT |= {".bpe", ".tsv", ".txt", ".vocab", ".yaml", ".yml"}
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # zip: torch.save


def it_learns_from_its_judgements(subject: RewardSubject) -> None:
    """Trained on judgements that are easy to learn, it prefers what people preferred."""
    from alignzoo.reward_report.judged import judge

    subject.require_learning()
    for kind in subject.kinds:
        reward = subject.fitted(kind)
        judged = judge(reward, kind, subject.judgements(kind, 20, start=100))
        share = float(judged.wins(judged.scores).mean())
        require(
            share >= LEARNED_SHARE,
            f"after fit on 40 rows of {kind} such as {judgement_rows(kind, 1)[0]} it gets "
            f"{share:.0%} of held-out comparisons right; at least {LEARNED_SHARE:.0%} is easy, by "
            "words or by length. Is higher better? Does fit use what it was given? Give it the "
            "options that it needs for such rows.",
        )
        measures = subject.measures[kind].items()
        wrong = {name: value for name, value in measures if not math.isfinite(value)}
        require(not wrong, f"fit on {kind} returned {wrong}; expected finite measures.")


def the_same_seed_learns_the_same(subject: RewardSubject) -> None:
    """Trained twice on the same rows with the same seed, it scores the same."""
    subject.require_learning()
    kind = subject.kinds[0]
    first = subject.score(subject.reward, subject.cases)
    _draw_from_every_global_stream()
    again = subject.fitted(kind, again=True)
    require_same(
        first,
        subject.score(again, subject.cases),
        subject.cases,
        "it was trained again, on the same rows with the same seed. Draw everything from `seed`, "
        "such as numpy.random.default_rng(seed), never from a global stream.",
    )


def _draw_from_every_global_stream() -> None:
    """Puts the global random streams elsewhere, as other code in a process does."""
    random.random()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.random()
    if "torch" in sys.modules:
        sys.modules["torch"].rand(1)


def it_scores_the_same_after_saving(subject: RewardSubject) -> None:
    """What save wrote, load reads into a new reward, and it scores the same."""
    subject.require_learning()
    for kind in subject.kinds:
        reward, again = subject.fitted(kind), subject.make()
        with tempfile.TemporaryDirectory() as folder:
            reward.save(Path(folder))
            require(
                any(Path(folder).iterdir()),
                "save wrote nothing, so that what was learned is lost; alignzoo.model_files "
                "writes settings and arrays.",
            )
            again.load(Path(folder))
        cases = subject.cases
        require_same(
            subject.score(reward, cases),
            subject.score(again, cases),
            cases,
            f"trained on {kind}, it was saved and loaded; save or load leaves something out.",
        )


def it_saves_nothing_that_runs(subject: RewardSubject) -> None:
    """What save writes holds data alone: no pickle, no code."""
    subject.require_learning()
    with tempfile.TemporaryDirectory() as folder:
        subject.reward.save(Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                _check_inert(path, Path(folder))


def _check_inert(path: Path, folder: Path) -> None:
    """Fails where a file is, or may be, run by who reads it."""
    head = path.read_bytes()[:512]
    is_pickle = head.startswith(PICKLES) or (path.suffix == ".npy" and b"'|O'" in head)
    require(
        path.suffix.lower() in INERT and not is_pickle,
        f"save wrote {path.relative_to(folder)}, which "
        f"{'is a pickle' if is_pickle else 'may hold code'}: whoever loads a reward would run it. "
        "Write safetensors and JSON, with alignzoo.model_files.",
    )


def untrained_it_says_so(subject: RewardSubject) -> None:
    """Asked for scores before it was trained, it raises ConfigError."""
    subject.require_learning()
    remedy = (
        'raise alignzoo.ConfigError("... has learned nothing yet; train it with train-reward").'
    )
    found: Any
    try:
        found = subject.call(subject.make(), subject.cases[:1])
    except ConfigError:
        return
    except Exception as error:
        fail(f"it raised {type(error).__name__}: {error}; {remedy}")
    fail(f"it scored {found!r} without having learned anything; {remedy}")
