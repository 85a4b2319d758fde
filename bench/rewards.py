"""What the rewards of the zoo reach on human judgement, beside a character n-gram model.

    ALIGNZOO_DATA=path/to/data python bench/rewards.py                      every data set
    ALIGNZOO_DATA=path/to/data python bench/rewards.py cold --seeds 3       one of them
    python bench/rewards.py cold --file cold=train.jsonl --eval-file cold=test.jsonl

For each data set and each seed, a fifth of the prompts (of the texts, where there are no prompts)
is held out by a hash that the seed salts. The zoo's reward and a logistic regression on the
response's character n-grams (tf-idf of one to five characters within words, its C chosen on a
split of the training prompts) learn from the rest, and both are measured on what is held out. A
figure is the mean over seeds; its 95 % interval draws prompts again, 1,000 times, all seeds at
once, and the interval of a difference draws the same prompts for both.

With an evaluation file there is one split, the one given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import alignzoo as az
from alignzoo.data import read_judgements, read_rows
from alignzoo.reward_report import Measure, measure
from alignzoo.reward_report.judged import Judged, judge
from alignzoo.reward_report.measures import Measurer
from alignzoo.training_data import prompt_key

HELD_OUT = 0.2
DOCS = Path(__file__).parents[1] / "docs" / "rewards" / "README.md"
BASELINE_C = (0.3, 1.0, 4.0, 10.0)

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """One data set: how it is read, and what learns from it.

    Args:
        name: what people type.
        file: in the data folder.
        kind: of judgement.
        reward: id in the zoo.
        options: the reward's, where not the default.
        against: options of the same reward that it is also compared with.
        make: turns a row of the file into rows with our columns.
        metric: the figure to look at.
        target: what it is to reach; None where there is no such promise.
    """

    name: str
    file: str
    kind: str
    reward: str
    metric: str
    options: Mapping[str, Any] = field(default_factory=dict)
    against: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]] = lambda row: [row]
    target: float | None = None


def offensive(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """cold: 1 is offensive."""
    return [{"text": row["text"], "label": row["offensive"]}]


def votes(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """toxicity_votes: the mean vote, where hate is 0, offensive 0.5 and neither 1."""
    worth = (0.5 * row["offensive"] + row["neither"]) / row["n"]
    return [{"text": row["text"], "rating": worth}]


def majority(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """toxicity_votes: the class most people voted for."""
    return [{"text": row["text"], "label": row["label"]}]


def criticism(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """ilf_text_feedback: a program that fails its tests and what was written of it; its repair.

    Line ends, blank lines and the prompt, which differ between the two, are left out. Which of the
    two stands first is drawn by hash.
    """
    prompt, before, after = row["prompt"], row["original"], row["refinement"]
    rows = [(before.removeprefix(prompt), row["feedback"], 0.0), (after, "", 1.0)]
    made = [
        {"prompt": prompt, "completion": plain_code(code), "feedback": text, "rating": rating}
        for code, text, rating in rows
    ]
    return made[:: 1 if hashlib.sha256(prompt.encode()).digest()[0] % 2 else -1]


def plain_code(code: str) -> str:
    """Returns a program without blank lines and trailing white space."""
    return "\n".join(line.rstrip() for line in code.splitlines() if line.strip())


CASES = [
    Case(
        "correctness",
        "correctness_pairs_train.jsonl",
        "preferences",
        "preference",
        "accuracy",
        target=0.75,
    ),
    Case(
        "cold",
        "cold_zh_train.jsonl",
        "classes",
        "classification",
        "macro_f1",
        options={"classes": {"0": 1.0, "1": 0.0}},
        make=offensive,
        target=0.88,
    ),
    Case(
        "toxicity",
        "toxicity_votes_en.jsonl",
        "ratings",
        "regression",
        "spearman",
        make=votes,
    ),
    Case(
        "toxicity_classes",
        "toxicity_votes_en.jsonl",
        "classes",
        "classification",
        "macro_f1",
        options={
            "classes": {"hate": 0.0, "offensive": 0.5, "neither": 1.0},
            "class_weight": "balanced",
        },
        make=majority,
    ),
    Case("hh", "hh_harmless_pairs.jsonl", "preferences", "preference", "accuracy"),
    Case("oasst", "oasst_rankings.jsonl", "rankings", "preference", "accuracy"),
    Case(
        "ilf",
        "ilf_text_feedback.jsonl",
        "text_feedback",
        "text_feedback",
        "pair_accuracy",
        options={
            "features": ["words", "characters"],
            "within_prompts": True,
            "use_feedback": True,
        },
        against={"use_feedback": False},
        make=criticism,
    ),
]


class CharacterNgrams(az.RewardModel):
    """The model beside every reward: logistic regression on character n-grams of the response.

    Of comparisons it learns the difference of two responses; of ratings, moved to 0 .. 1, each
    row counts as both classes by its rating.
    """

    learns_from = tuple(case.kind for case in CASES)

    def __init__(self, classes: Mapping[str, float] | None = None) -> None:
        super().__init__(az.RewardConfig())
        self.class_values = dict(classes or {})

    def fit(self, data: Any, *, seed: int = 0) -> Mapping[str, float]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.kind, rows = read_judgements(data, self.learns_from)
        self.vectorizer = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True
        )
        inputs, labels, weights, keys = self._examples(rows)
        # the first byte is that of the outer split, where the same prompts would be drawn again
        is_inner = np.array([key[1] < 51 for key in keys])
        fits = [self._fit(inputs, labels, weights, ~is_inner, c) for c in BASELINE_C]
        losses = [
            log_loss(model, inputs[is_inner], labels[is_inner], weights[is_inner]) for model in fits
        ]
        best = BASELINE_C[int(np.argmin(losses))]
        self.model = self._fit(inputs, labels, weights, np.ones(len(labels), dtype=bool), best)
        return {"C": best}

    def _examples(self, rows: Sequence[Any]) -> tuple[Any, Any, Any, list[bytes]]:
        """Returns inputs, labels, weights and the key of the prompt, one for each example."""
        from scipy.sparse import vstack

        keys = [prompt_key(row) for row in rows]
        if self.kind in ("preferences", "rankings"):
            answers = [
                (row.chosen, row.rejected) if self.kind == "preferences" else row.completions
                for row in rows
            ]
            pairs = [
                (x, y, key)
                for texts, key in zip(answers, keys, strict=True)
                for i, x in enumerate(texts)
                for y in texts[i + 1 :]
            ]
            self.vectorizer.fit([text(side) for x, y, _ in pairs for side in (x, y)])
            better, worse = (
                self.vectorizer.transform([text(pair[side]) for pair in pairs]) for side in (0, 1)
            )
            gap = better - worse
            labels = np.repeat([1, 0], len(pairs))
            keys = [key for _, _, key in pairs] * 2
            return vstack([gap, -gap]).tocsr(), labels, np.ones(2 * len(pairs)), keys
        inputs = self.vectorizer.fit_transform([text(row.completion) for row in rows])
        if self.kind == "classes":
            return inputs, np.array([row.label for row in rows]), np.ones(len(rows)), keys
        ratings = np.array([row.rating for row in rows])
        self.low, self.high = float(ratings.min()), float(ratings.max())
        share = (ratings - self.low) / (self.high - self.low)
        labels = np.repeat([1, 0], len(rows))
        return vstack([inputs, inputs]).tocsr(), labels, np.r_[share, 1 - share], keys * 2

    def _fit(self, inputs: Any, labels: Any, weights: Any, chosen: Any, c: float) -> Any:
        from sklearn.linear_model import LogisticRegression

        compared = self.kind in ("preferences", "rankings")
        model = LogisticRegression(C=c, max_iter=2000, fit_intercept=not compared)
        return model.fit(inputs[chosen], labels[chosen], weights[chosen])

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> Any:
        inputs = self.vectorizer.transform(responses)
        if self.kind in ("preferences", "rankings"):
            return self.model.decision_function(inputs)
        found = self.model.predict_proba(inputs)
        if self.kind == "classes":
            return found @ [self.class_values[name] for name in self.model.classes_]
        return self.low + (self.high - self.low) * found[:, 1]

    def class_probabilities(self, prompts: Sequence[Any], responses: Sequence[str]) -> Any:
        if self.kind != "classes":
            return None
        found = self.model.predict_proba(self.vectorizer.transform(responses))
        return dict(zip(self.model.classes_.tolist(), found.T, strict=True))


def log_loss(model: Any, inputs: Any, labels: Any, weights: Any) -> float:
    """Returns the mean of -log of the probability given to the labels; infinite for none."""
    if not len(labels):
        return math.inf
    found = model.predict_proba(inputs)
    columns = np.searchsorted(model.classes_, labels)
    return float(-(weights * np.log(found[np.arange(len(labels)), columns])).sum() / weights.sum())


def text(completion: Any) -> str:
    """Returns a completion as text."""
    return az.data.plain_text(completion)


@dataclass
class Fold:
    """What models reached on the rows held out with one seed, each under its name."""

    judged: dict[str, Judged]
    keys: list[bytes]  # of the rows held out
    train_rows: int
    training_mean: float
    seconds: dict[str, float]
    fit: dict[str, float]


def read_case(case: Case, path: Path) -> list[Any]:
    """Returns a file's rows, typed."""
    rows = [made for row in read_rows(path) for made in case.make(row.values)]
    return read_judgements(rows, [case.kind], name=path.name)[1]


def split(rows: Sequence[Any], seed: int) -> tuple[list[Any], list[Any]]:
    """Returns rows to learn from and rows held out, by a hash of the prompt that the seed salts."""
    limit = int(HELD_OUT * 2**64)
    sides: tuple[list[Any], list[Any]] = ([], [])
    for row in rows:
        key = int.from_bytes(prompt_key(row, f"bench {seed}")[:8], "big")
        sides[key < limit].append(row)
    return sides


def run(case: Case, seed: int, train_file: Path, eval_file: Path | None) -> Fold:
    """Fits the reward and the models beside it on one split, and scores the rows held out."""
    rows = read_case(case, train_file)
    if eval_file is None:
        train, held_out = split(rows, seed)
    else:
        train, held_out = rows, read_case(case, eval_file)
    models: dict[str, Any] = {
        "zoo": az.make_reward(case.reward, **case.options),
        "character n-grams": CharacterNgrams(case.options.get("classes")),
    }
    if case.against:
        models["against"] = az.make_reward(case.reward, **{**case.options, **case.against})
    judged, seconds, fit = {}, {}, {}
    for name, model in models.items():
        began = time.perf_counter()
        found = model.fit(train, seed=seed)
        seconds[name] = time.perf_counter() - began
        if name == "zoo":
            fit = dict(found)
        judged[name] = judge(model, case.kind, held_out, seed=seed)
    ratings = [row.rating for row in train if hasattr(row, "rating")]
    keys = [prompt_key(row) for row in held_out]
    mean = float(np.nanmean(ratings)) if ratings else math.nan
    return Fold(judged, keys, len(train), mean, seconds, fit)


def summarise(case: Case, folds: Sequence[Fold]) -> dict[str, Any]:
    """Returns the figures of a data set: means over seeds, with intervals over prompts."""
    number = {key: i for i, key in enumerate(dict.fromkeys(k for fold in folds for k in fold.keys))}
    models = list(folds[0].judged)
    measurers = [
        {name: Measurer(fold.judged[name], training_mean=fold.training_mean) for name in models}
        for fold in folds
    ]
    places = [{name: _group_places(fold.judged[name], number) for name in models} for fold in folds]

    def statistic(weights: Numbers) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for parts, place in zip(measurers, places, strict=True):
            for name, measurer in parts.items():
                own = weights[place[name]]
                for key, value in measurer.metrics(own).items():
                    found.setdefault(f"{name}: {key}", []).append(value)
            own = weights[place["zoo"]]
            for key, value in parts["zoo"].baselines(own).items():
                found.setdefault(f"null: {key}", []).append(value)
        means = {key: float(np.nanmean(values)) for key, values in found.items()}
        for name in models[1:]:
            means[f"gain over {name}"] = (
                means[f"zoo: {case.metric}"] - means[f"{name}: {case.metric}"]
            )
        return means

    measures = measure(statistic, len(number), seed=0)
    per_seed = [m["zoo"].metrics(np.ones(m["zoo"].judged.num_groups, int)) for m in measurers]
    return {
        "case": case.name,
        "file": case.file,
        "reward": case.reward,
        "options": dict(case.options),
        "metric": case.metric,
        "target": case.target,
        "seeds": len(folds),
        "train_rows": [fold.train_rows for fold in folds],
        "held_out_rows": [len(fold.keys) for fold in folds],
        "measures": {name: value.to_json() for name, value in measures.items()},
        "per_seed": [found[case.metric] for found in per_seed],
        "seconds": {name: [fold.seconds[name] for fold in folds] for name in models},
        "fit": [fold.fit for fold in folds],
    }


def _group_places(judged: Judged, number: Mapping[bytes, int]) -> Numbers:
    """Returns the number of the prompt of each group, [G]."""
    found = np.zeros(judged.num_groups, dtype=np.int64)
    for item, group in zip(judged.items, judged.groups, strict=True):
        found[group] = number[prompt_key(item.source)]
    return found


def table(summaries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the lines of the table in docs/rewards."""
    heads = ("data", "reward", "splits", "figure", "held out, 95 %", "character n-grams")
    yield f"| {' | '.join((*heads, 'gain, 95 %', 'longer wins', 'first wins'))} |"
    yield "|" + "---|" * (len(heads) + 3)
    for line in summaries:
        found = {name: _measure(value) for name, value in line["measures"].items()}
        beside = found[f"character n-grams: {line['metric']}"]
        cells = [
            f"`{line['case']}`",
            f"`{line['reward']}`",
            str(line["seeds"]),
            line["metric"].replace("_", " "),
            str(found[f"zoo: {line['metric']}"]),
            f"{beside.value:.3f}",
            str(found["gain over character n-grams"]),
            f"{found['null: longer wins'].value:.3f}",
            f"{found['null: first wins'].value:.3f}",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "Null baselines are accuracies over comparisons of two held-out responses."
    for line in summaries:
        if "gain over against" in line["measures"]:
            without = _measure(line["measures"][f"against: {line['metric']}"])
            gain = _measure(line["measures"]["gain over against"])
            yield (
                f"`{line['case']}` without the feedback: {without}; with it "
                f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})."
            )


def _measure(value: Mapping[str, float | None]) -> Measure:
    low, middle, high = (
        math.nan if value[name] is None else float(value[name] or 0.0)
        for name in ("low", "value", "high")
    )
    return Measure(middle, low, high)


def write_docs(lines: Sequence[str]) -> None:
    """Puts the table between its marks in docs/rewards/README.md."""
    content = DOCS.read_text(encoding="utf-8")
    marks = ("<!-- bench: rewards -->\n", "<!-- end -->")
    found = re.subn(
        f"({re.escape(marks[0])}).*?({re.escape(marks[1])})",
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2],
        content,
        count=1,
        flags=re.DOTALL,
    )
    assert found[1] == 1, f"{DOCS} has no place for the table"
    DOCS.write_text(found[0], encoding="utf-8")


def named_paths(given: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, Path]:
    """Returns what `NAME=PATH` arguments say."""
    found = {}
    for item in given:
        name, equals, path = item.partition("=")
        if not equals or name not in {case.name for case in CASES}:
            parser.error(
                f"'{item}' is no NAME=PATH; NAME is one of {', '.join(c.name for c in CASES)}"
            )
        if not Path(path).is_file():
            parser.error(f"there is no file {path}")
        found[name] = Path(path)
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line; `files` and `eval_files` are paths by name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join(names)}; default all; none measures nothing"
    )
    parser.add_argument("--seeds", type=int, default=5, help="splits of each data set")
    parser.add_argument("--jobs", type=int, default=2, help="fits at a time, one thread each")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("ALIGNZOO_DATA"))
    parser.add_argument(
        "--file", action="append", default=[], metavar="NAME=PATH", help="instead of --data-dir's"
    )
    parser.add_argument(
        "--eval-file", action="append", default=[], metavar="NAME=PATH", help="rows to measure on"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results/rewards.json"))
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - {*names, "all", "none"}
    if unknown:
        parser.error(f"no data set is called {', '.join(sorted(unknown))}; there are {names}")
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; at least 1 is needed")
    wanted = names if not given.names or "all" in given.names else given.names
    given.cases = [case for case in CASES if case.name in wanted]
    given.eval_files = named_paths(given.eval_file, parser)
    given.files = named_paths(given.file, parser)
    for case in given.cases:
        if case.name not in given.files:
            if given.data_dir is None:
                parser.error("--data-dir or ALIGNZOO_DATA names the folder with the data")
            given.files[case.name] = Path(given.data_dir) / case.file
            if not given.files[case.name].is_file():
                parser.error(f"there is no file {given.files[case.name]}")
    return given


def folds_of(given: argparse.Namespace) -> Iterator[tuple[Case, list[Fold]]]:
    """Yields each data set with what was measured on each of its splits."""
    os.environ |= {"ALIGNZOO_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # for the runs
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        pending = []
        for case in given.cases:
            eval_file = given.eval_files.get(case.name)
            seeds = range(1 if eval_file is not None else given.seeds)
            file = given.files[case.name]
            runs = [pool.submit(run_case, case.name, seed, file, eval_file) for seed in seeds]
            pending.append((case, runs))
        for case, runs in pending:
            yield case, [future.result() for future in runs]


def run_case(name: str, seed: int, train_file: Path, eval_file: Path | None) -> Fold:
    """Runs one split of the case of this name, in a process of its own."""
    return run(next(c for c in CASES if c.name == name), seed, train_file, eval_file)


def write_results(path: Path, ordered: Sequence[Mapping[str, Any]]) -> None:
    """Writes what is known so far, and of which machine and versions."""
    facts = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("alignzoo", "scikit-learn", "scipy", "numpy")},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"facts": facts, "summary": ordered}, allow_nan=False) + "\n")


def main() -> None:
    given = parse()
    known = json.loads(given.out.read_text())["summary"] if given.out.exists() else []
    summaries = {line["case"]: line for line in known}
    ordered = known
    for case, folds in folds_of(given):
        summaries[case.name] = summarise(case, folds)
        print(list(table([summaries[case.name]]))[2], flush=True)
        if case.target is not None:
            reached = summaries[case.name]["measures"][f"zoo: {case.metric}"]["value"]
            print(f"  to reach: {case.target}; reached: {reached >= case.target}", flush=True)
        ordered = [summaries[c.name] for c in CASES if c.name in summaries]
        write_results(given.out, ordered)
    lines = list(table(ordered))
    print("\n".join(lines))
    if given.write_docs:
        write_docs(lines)


if __name__ == "__main__":
    main()
