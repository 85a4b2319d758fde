"""`alignzoo bench ALGO... --task T...`: compares algorithms under equal conditions, over seeds."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignzoo.cli.arguments import Parser
from alignzoo.cli.bench_output import compare, report
from alignzoo.cli.options import Given, OptionSet
from alignzoo.cli.workers import prepare_tasks, run_cells
from alignzoo.config import Config
from alignzoo.errors import ConfigError, did_you_mean
from alignzoo.plugin_registry import Registry, registry

if TYPE_CHECKING:
    from alignzoo.benchmark import Plan, Results
    from alignzoo.benchmark.tuning import Trial

USAGE = """alignzoo bench ALGO... --task T... --seeds N --out DIR
       alignzoo bench --report DIR
       alignzoo bench --compare DIR DIR"""


class BenchOptions(Config):
    """What `alignzoo bench` can be told."""

    task: list[str] = Field(..., min_length=1, description="id, or id:{json options}")
    seeds: int = Field(5, gt=0, description="runs of each algorithm on each task, seeds 0, 1, ...")
    out: str = Field(..., description="folder of results; goes on where the same was interrupted")
    budget: str | None = Field(
        None,
        description="samples=N, tokens=N or seconds=X: what each run may use up; responses or "
        "their tokens, dropped ones included, or time of sampling and learning; default the "
        "task's samples",
    )
    threads: int = Field(1, gt=0, description="CPU threads of each run")
    jobs: int = Field(1, gt=0, description="runs at a time; changes no result but seconds")
    option: list[str] = Field(
        default_factory=list, description="ALGO.name=value, an option of one of the algorithms"
    )
    sweep: list[str] = Field(
        default_factory=list,
        description="NAME=V1,V2,...: values of an option to choose from for every algorithm that "
        "has it, on seeds that are not reported; several make a grid",
    )
    tuning_seeds: int = Field(3, gt=0, description="runs at each point of the sweep's grid")


class ReportOptions(Config):
    """What the report of finished runs can be told."""

    kl: float | None = Field(
        None,
        gt=0,
        description="nats at which scores are compared; default the median of the algorithms' "
        "final KL on a task",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the way from the range's low end to the optimum that samples are "
        "counted to; default 0.9",
    )


def run(arguments: list[str]) -> int:
    """Runs what is missing of a benchmark and prints what it came to."""
    parser = Parser("bench", "Compares algorithms on tasks under equal conditions, over seeds.")
    parser.add_argument("algorithms", metavar="ALGO", nargs="*", help="ids of algorithms")
    parser.add_argument("--report", metavar="DIR", help="report on the results in DIR; runs none")
    parser.add_argument(
        "--compare", metavar="DIR DIR", help="compare the results in two folders; runs none"
    )
    options = OptionSet({"bench": BenchOptions, "report": ReportOptions})
    options.add_to(parser)
    parser.usage = USAGE
    namespace = parser.parse(arguments)
    given, words = options.read(namespace), list(namespace.algorithms)
    asked = given.build(ReportOptions, "bench")
    if namespace.report is not None:
        _check_mode("report", [namespace.report, *words], 1, given)
        return report(namespace.report, **dict(asked))
    if namespace.compare is not None:
        _check_mode("compare", [namespace.compare, *words], 2, given)
        return compare(namespace.compare, *words)
    if not words:
        raise ConfigError("give the algorithms first: alignzoo bench ALGO... --task T --out DIR")
    return _run(words, given.build(BenchOptions, "bench"), asked)


def _check_mode(mode: str, folders: Sequence[str], count: int, given: Given) -> None:
    """Checks what stands beside `--report DIR` or `--compare DIR DIR`."""
    if len(folders) != count:
        wanted = "one folder" if count == 1 else "two folders"
        raise ConfigError(
            f"--{mode} has {len(folders)}: {', '.join(folders)}; expected {wanted} of results"
        )
    for name in BenchOptions.model_fields:
        if name in given.values:
            raise ConfigError(f"--{mode} runs nothing, so it takes no {given.spelling[name]}")


def _run(algorithms: Sequence[str], given: BenchOptions, asked: ReportOptions) -> int:
    """Checks everything, chooses options where asked, runs what is missing, and reports."""
    from alignzoo.benchmark import Results, make_plan, parse_budget
    from alignzoo.benchmark.tuning import choose, make_trials, parse_grid

    found = registry()
    options = parse_options(given.option, algorithms, found)
    make = partial(
        make_plan,
        found,
        budget=parse_budget(given.budget),
        threads=given.threads,
        given=options,
    )
    plan = make(algorithms, given.task, seeds=range(given.seeds))
    results = Results(given.out)
    results.check_place()
    if given.sweep:
        results.check_conditions(plan.identities)
        grid = parse_grid(given.sweep)
        trials = make_trials(
            *(found, algorithms, given.task),
            grid=grid,
            num_seeds=given.tuning_seeds,
            given=options,
            make=make,
        )
        _prepare(found, given.task, given.threads)
        tuned = choose(_try(found, trials, results, jobs=given.jobs), grid)
        plan = make(algorithms, given.task, seeds=range(given.seeds), tuned=tuned)
    results.open(plan.identities)
    if not given.sweep:
        missing = dict.fromkeys(c.task for c in plan.cells if c.key not in results.rows)
        _prepare(found, missing, given.threads)
    with results.lock():
        _run_cells(found, plan, results, jobs=given.jobs)
    return report(given.out, plan=plan, **dict(asked))


def _try(
    found: Registry, trials: Sequence[Trial], results: Results, *, jobs: int
) -> list[tuple[Trial, list[dict[str, Any]]]]:
    """Runs what is missing of a sweep's trials; returns each with its rows."""
    from alignzoo.benchmark import Results

    tried = []
    with results.lock():
        for trial in trials:
            folder = Results(results.folder / trial.place)
            folder.open(trial.plan.identities)
            _run_cells(found, trial.plan, folder, jobs=jobs)
            tried.append((trial, [folder.rows[key] for key in trial.plan.order]))
    return tried


def parse_options(
    texts: Sequence[str], algorithms: Sequence[str], found: Registry
) -> dict[str, dict[str, Any]]:
    """Returns the options of each algorithm, by name, as its configuration has them.

    Raises:
        ConfigError: no `ALGO.name=value`, an algorithm that is not compared, or an unknown option.
    """
    raw: dict[str, dict[str, Any]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        id, dot, name = left.rpartition(".")
        if not (equals and dot and name):
            raise ConfigError(
                f"--option is '{text}'; expected ALGO.name=value, such as ppo.clip_range=0.1"
            )
        if id not in algorithms:
            hint = did_you_mean(id, algorithms)
            raise ConfigError(
                f"--option {text}: '{id}' is not compared here.{hint} "
                f"Algorithms given: {', '.join(algorithms)}"
            )
        name = name.replace("-", "_")
        if name in raw.setdefault(id, {}):
            raise ConfigError(f"--option {id}.{name} is given twice")
        raw[id][name] = value
    return {id: _typed(found, id, values) for id, values in raw.items()}


def _typed(found: Registry, id: str, raw: Mapping[str, str]) -> dict[str, Any]:
    """Returns option texts as values; what the text of a flag of `alignzoo train` would be."""
    from alignzoo.config import build_config

    config_class = found.algorithm(id).Config
    for name in raw:
        if name not in config_class.model_fields:
            build_config(config_class, {name: None}, id)  # raises, with a did-you-mean
    read = OptionSet({id: config_class}).read(Namespace(**raw))
    spelling = {name: f"--option {id}.{name}" for name in raw}
    config = build_config(config_class, dict(read.values), id, spelling=spelling)
    return {name: getattr(config, name) for name in raw}


def _prepare(found: Registry, tasks: Iterable[str], threads: int) -> None:
    """Lets the tasks make what their runs start from, before any folder is made."""
    for task, seconds in prepare_tasks(found, tasks, threads=threads):
        _say(f"made what task '{task}' starts from: {seconds:.1f} s")


def _run_cells(found: Registry, plan: Plan, results: Results, *, jobs: int) -> None:
    """Runs the cells that have no result yet, and says how each ended."""
    missing = [cell for cell in plan.cells if cell.key not in results.rows]
    if len(missing) < len(plan.cells):
        _say(f"{len(plan.cells) - len(missing)} of {len(plan.cells)} runs are done already")
    done = run_cells(found, missing, results.folder, jobs=jobs)
    for number, (cell, row) in enumerate(done, start=1):
        results.add(row, plan.order)
        options = "".join(f" {name}={value}" for name, value in cell.tuned.items())
        name = f"{number}/{len(missing)} {cell.task} {cell.algorithm}{options} seed {cell.seed}"
        if row["status"] == "ok":
            _say(f"{name}: {row['score']:.4f}, {row['seconds']:.1f} s")
        else:
            _say(f"{name}: failed: {row['error']}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
