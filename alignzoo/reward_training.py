"""Training a reward on human judgement: read, split by prompt, fit, measure, save."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignzoo.data import dataset_fingerprint, read_judgements
from alignzoo.errors import ConfigError, DataError, RunError
from alignzoo.reward import RewardModel, declared_arguments
from alignzoo.reward_folder import TRAINED_REWARD_FILE
from alignzoo.reward_report import RewardReport, evaluate, quick_metrics, write_reward_report
from alignzoo.reward_report.judged import list_items, score_items

if TYPE_CHECKING:
    from alignzoo.overoptimisation import BestOfN

DataSource = str | Path | Sequence[Any]
FORMAT = 1
MAX_TRAINING_ROWS = 1000  # rows learned from that the report also looks at
CHECKED_ROWS = 8  # rows that the saved reward must score as the trained one does
LIBRARIES = ("alignzoo", "numpy", "scipy", "scikit-learn", "torch", "transformers", "safetensors")


@dataclass(frozen=True)
class Judgements:
    """Rows to learn from and rows held out, of one kind, and notes for the user."""

    kind: str
    train: list[Any]
    held_out: list[Any]
    fingerprint: str
    notes: list[str]


def train_reward(
    reward: RewardModel,
    data: DataSource,
    *,
    out: str | Path,
    seed: int = 0,
    eval_data: DataSource | None = None,
    eval_fraction: float = 0.2,
    columns: Mapping[str, str] | None = None,
    record: Mapping[str, Any] | None = None,
    best_of_n: BestOfN | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> RewardReport:
    """Trains a reward, measures it on held-out prompts and writes it to a new folder.

    The folder appears whole or not at all. It holds reward.json, what the reward itself saves,
    report.json and report.html; it is a `--reward` of `alignzoo train`.

    Args:
        reward: one that learns; it is fitted in place.
        data: path, hub id, or rows, of a kind in `reward.learns_from`.
        out: the folder.
        seed: of the fit, the bootstrap and the samples of `best_of_n`.
        eval_data: held-out rows; default a share of the prompts of `data`.
        eval_fraction: that share, in [0, 1).
        columns: what the data calls our columns, by ours.
        record: what reward.json says besides: id, distribution, version, revision.
        best_of_n: adds the curve of true against proxy score under best-of-n.
        say: is called with a line whenever a new part of the work begins.
    Raises:
        ConfigError: the reward is a rule, the folder is taken, or an option is wrong.
        DataError: a row is wrong, or there is nothing to learn or to measure; it says where.
        RunError: the reward scores otherwise once it is saved and loaded.
    """
    began = time.perf_counter()
    check_learns(reward, (record or {}).get("id"))
    folder = Path(out).expanduser()
    check_free(folder)
    judgements = read_and_split(reward, data, eval_data, eval_fraction, columns or {})
    if best_of_n is not None:
        best_of_n = best_of_n.with_prompts(judgements.held_out)
    train_rows, held_out_rows = len(judgements.train), len(judgements.held_out)
    say(f"{train_rows:,} rows to learn from, {held_out_rows:,} held out ({judgements.kind})")
    measures = fit_reward(reward, judgements.train, seed=seed)
    report = _report(reward, judgements, measures, seed, best_of_n, say)
    about = _about(reward, judgements, seed, record or {})
    about["seconds"] = round(time.perf_counter() - began, 3)
    report = replace(report, about=about)
    _write(reward, report, judgements, folder)
    return report


def check_learns(reward: RewardModel, id: str | None = None) -> None:
    """Checks that there is something the reward can learn.

    Raises:
        ConfigError: it is a rule.
    """
    if not reward.learns_from:
        name = id or type(reward).__name__
        raise ConfigError(
            f"reward '{name}' is a rule; it has nothing to learn. Use it as it is: --reward {name}"
        )


def check_free(folder: Path) -> None:
    """Checks that a reward can be written to the folder without writing over anything.

    Raises:
        ConfigError: it holds a reward already, or other files, is a file, or cannot be looked at.
    """
    try:
        if (folder / TRAINED_REWARD_FILE).exists():
            raise ConfigError(f"out '{folder}' already holds a trained reward; give another folder")
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise ConfigError(f"out: '{path}' is a file; expected a folder to make")
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"out '{folder}' is not empty; give a new folder")
    except OSError as error:
        raise ConfigError(f"out '{folder}' cannot be written: {error.strerror or error}") from error


def read_and_split(
    reward: RewardModel,
    data: DataSource,
    eval_data: DataSource | None,
    eval_fraction: float,
    columns: Mapping[str, str],
) -> Judgements:
    """Returns the rows to learn from and those held out.

    Raises:
        DataError: a row is wrong, or the held-out rows are of another kind.
    """
    kind, rows = read_judgements(data, reward.learns_from, columns=columns)
    from alignzoo.training_data import MIN_ROWS_TO_SPLIT, split_by_prompt  # it imports torch

    if eval_data is not None:
        _, held_out = read_judgements(eval_data, [kind], columns=columns, name="eval_data")
        notes = _shared_prompts(rows, held_out)
        return Judgements(kind, rows, held_out, dataset_fingerprint([*rows, *held_out]), notes)
    train, held_out = split_by_prompt(rows, eval_fraction)
    notes = []
    if not held_out:
        notes.append(
            "nothing is held out, so nothing says how good the reward is: "
            + (
                "eval_fraction is 0"
                if eval_fraction == 0
                else f"there are fewer than {MIN_ROWS_TO_SPLIT} different prompts; give eval_data"
            )
        )
    return Judgements(kind, train, held_out, dataset_fingerprint(rows), notes)


def _shared_prompts(train: Sequence[Any], held_out: Sequence[Any]) -> list[str]:
    """Returns a note where held-out rows have prompts that are also learned from."""
    known = {repr(row.prompt) for row in train if row.prompt}
    shared = sum(repr(row.prompt) in known for row in held_out)
    if not shared:
        return []
    return [
        f"{shared:,} of {len(held_out):,} held-out rows have a prompt that was also learned from; "
        "the figures say less of new prompts"
    ]


def fit_reward(reward: RewardModel, rows: Sequence[Any], *, seed: int) -> dict[str, float]:
    """Fits the reward and returns what it measured; `seed` is given if it is declared."""
    names, takes_all = declared_arguments(reward.fit)
    given = {"seed": seed} if takes_all or "seed" in names else {}
    found: Any = reward.fit(list(rows), **given)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"{type(reward).__name__}.fit returned {type(found).__name__}; expected measures by "
            "name, such as {'loss': 0.3}"
        )
    return {str(name): float(value) for name, value in found.items()}


def _report(
    reward: RewardModel,
    judgements: Judgements,
    fit: Mapping[str, float],
    seed: int,
    best_of_n: BestOfN | None,
    say: Callable[[str], None],
) -> RewardReport:
    say("measuring")
    ratings = [
        item.truth
        for item in list_items(judgements.kind, judgements.train)
        if item.truth == item.truth
    ]
    held_out = None
    if judgements.held_out:
        held_out = evaluate(
            reward,
            judgements.kind,
            judgements.held_out,
            seed=seed,
            training_mean=float(np.mean(ratings)) if ratings else math.nan,
        )
    sample = _spread(judgements.train, MAX_TRAINING_ROWS)
    try:
        training = quick_metrics(reward, judgements.kind, sample, seed=seed)
    except DataError:  # none of these few rows has a judgement
        training = {}
    curve = None
    if best_of_n is not None:
        from alignzoo.overoptimisation import overoptimise

        say(f"drawing the curve of best-of-{best_of_n.best_of}")
        curve = overoptimise(reward, best_of_n, seed=seed)
    notes = [*judgements.notes, *(held_out.notes if held_out is not None else [])]
    return RewardReport({}, fit, held_out, training, curve, notes)


def _spread(rows: Sequence[Any], most: int) -> list[Any]:
    from alignzoo.training_data import spread_evenly

    return spread_evenly(rows, most)


def _about(
    reward: RewardModel, judgements: Judgements, seed: int, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what reward.json says, its measures aside."""
    kind = type(reward)
    return {
        "format": FORMAT,
        "id": None,
        **record,
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "options": reward.config.model_dump(mode="json"),
        "learned_from": judgements.kind,
        "seed": seed,
        "data": {
            **dict(record.get("data", {})),
            "fingerprint": judgements.fingerprint,
            "train_rows": len(judgements.train),
            "held_out_rows": len(judgements.held_out),
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write(reward: RewardModel, report: RewardReport, judgements: Judgements, folder: Path) -> None:
    """Writes everything beside the folder and renames it; what fails leaves nothing behind."""
    folder = folder.resolve()
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        reward.save(aside)
        metrics = {name: value.to_json() for name, value in report.metrics.items()}
        text = json.dumps({**report.about, "metrics": metrics}, ensure_ascii=False, allow_nan=False)
        (aside / TRAINED_REWARD_FILE).write_text(text + "\n", encoding="utf-8")
        _check_saved(reward, judgements, aside)
        write_reward_report(report, aside)
        check_free(folder)
        aside.rename(folder)
    except OSError as error:
        raise ConfigError(f"out '{folder}' cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_saved(reward: RewardModel, judgements: Judgements, folder: Path) -> None:
    """Checks that what was saved scores a few rows as the trained reward does.

    Raises:
        RunError: it does not; its `save` or `load` is at fault.
    """
    rows = _spread(judgements.held_out or judgements.train, CHECKED_ROWS)
    items = list_items(judgements.kind, rows)
    loaded = type(reward)(reward.config)
    loaded.load(folder)
    before, after = (score_items(r, judgements.kind, rows, items) for r in (reward, loaded))
    if not np.allclose(before, after, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise RunError(
            f"{type(reward).__name__} scores otherwise once it is saved and loaded, by up to "
            f"{np.nanmax(np.abs(before - after)):.3g}; its save or load leaves something out"
        )
