"""`alignzoo bench ALGO... --task T...`: compares algorithms under equal conditions, over seeds."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignzoo.cli.arguments import Parser
from alignzoo.cli.options import OptionSet
from alignzoo.cli.output import print_table
from alignzoo.cli.workers import run_cells
from alignzoo.config import Config
from alignzoo.errors import ConfigError, did_you_mean
from alignzoo.plugin_registry import Registry, registry

if TYPE_CHECKING:
    from alignzoo.benchmark import Line, Plan, Results

USAGE = "alignzoo bench ALGO... --task T... --seeds N --out DIR"


class BenchOptions(Config):
    """What `alignzoo bench` can be told."""

    task: list[str] = Field(..., min_length=1, description="id, or id:{json options}")
    seeds: int = Field(5, gt=0, description="runs of each algorithm on each task, seeds 0, 1, ...")
    out: str = Field(..., description="folder of results; goes on where the same was interrupted")
    budget: str | None = Field(
        None,
        description="samples=N: responses each run may sample, or read, dropped ones included; "
        "default the task's",
    )
    threads: int = Field(1, gt=0, description="CPU threads of each run")
    jobs: int = Field(1, gt=0, description="runs at a time; changes no result but seconds")
    option: list[str] = Field(
        default_factory=list, description="ALGO.name=value, an option of one of the algorithms"
    )


def run(arguments: list[str]) -> int:
    """Runs what is missing of a benchmark and prints what it came to."""
    parser = Parser("bench", "Compares algorithms on tasks under equal conditions, over seeds.")
    parser.add_argument("algorithms", metavar="ALGO", nargs="*", help="ids of algorithms")
    options = OptionSet({"bench": BenchOptions})
    options.add_to(parser)
    parser.usage = USAGE
    namespace = parser.parse(arguments)
    given = options.read(namespace).build(BenchOptions, "bench")
    if not namespace.algorithms:
        raise ConfigError(f"give the algorithms first: {USAGE}")
    found = registry()
    from alignzoo.benchmark import Results, make_plan

    plan = make_plan(
        found,
        namespace.algorithms,
        given.task,
        num_seeds=given.seeds,
        budget=parse_budget(given.budget),
        threads=given.threads,
        given=parse_options(given.option, namespace.algorithms, found),
    )
    results = Results(given.out)
    results.open(_identities(found, plan))
    _run_cells(found, plan, results, jobs=given.jobs)
    return _summarise(plan, results)


def parse_budget(text: str | None) -> int | None:
    """Returns the number of samples that `samples=N` says."""
    if text is None:
        return None
    unit, _, amount = text.partition("=")
    if unit != "samples" or not amount.replace("_", "").isdecimal() or int(amount) < 1:
        raise ConfigError(f"--budget is '{text}'; expected samples=N, such as samples=6400")
    return int(amount)


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


def _identities(found: Registry, plan: Plan) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Returns what each cell's result is to follow from."""
    from alignzoo.benchmark import identify, make_algorithm, make_task

    identities = {}
    for cell in plan.cells:
        task = make_task(found, cell.task)
        algorithm = make_algorithm(found, task, cell.algorithm, cell.given)
        identities[cell.key] = identify(found, cell, task, algorithm)
    return identities


def _run_cells(found: Registry, plan: Plan, results: Results, *, jobs: int) -> None:
    """Runs the cells that have no result yet, and says how each ended."""
    missing = [cell for cell in plan.cells if cell.key not in results.rows]
    if len(missing) < len(plan.cells):
        _say(f"{len(plan.cells) - len(missing)} of {len(plan.cells)} runs are done already")
    order = [cell.key for cell in plan.cells]
    done = run_cells(found, missing, results.folder, jobs=jobs)
    for number, (cell, row) in enumerate(done, start=1):
        results.add(row, order)
        name = f"{number}/{len(missing)} {cell.task} {cell.algorithm} seed {cell.seed}"
        if row["status"] == "ok":
            _say(f"{name}: {row['score']:.4f}, {row['seconds']:.1f} s")
        else:
            _say(f"{name}: failed: {row['error']}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _summarise(plan: Plan, results: Results) -> int:
    """Prints a table for each task; returns 1 where a run failed."""
    from alignzoo.benchmark import ranked, summarise, write_page

    rows = list(results.rows.values())
    num_failed = 0
    for task in plan.tasks:
        lines = [summarise(rows, task, id) for id in plan.algorithms]
        num_failed += sum(line.num_failed for line in lines)
        one = next(row for row in rows if row["task"] == task)
        _print_task(one, ranked(lines))
    page = results.folder / "report.html"
    write_page(rows, plan, page)
    print(f"results: {results.path}")
    print(f"report:  {page}")
    if num_failed:
        _say(f"runs that failed: {num_failed}; the same command makes them again")
    return int(num_failed > 0)


def _print_task(row: Mapping[str, Any], lines: Sequence[Line]) -> None:
    optimum = "" if row["optimum"] is None else f", optimum {row['optimum']:g}"
    low, high = row["range"]
    title = (
        f"{row['task']}: {row['metric']}, range {low:g} to {high:g}{optimum}; "
        f"{row['budget']['samples']:,} samples a run"
    )
    heads = ("algorithm", "mean", "95 % interval", "of range", "KL, nats", "seconds", "runs")
    print_table(title, heads, [_cells(line) for line in lines])


def _cells(line: Line) -> tuple[str, ...]:
    from alignzoo.benchmark import number

    has_interval = math.isfinite(line.low)
    failed = f", {line.num_failed} failed" if line.num_failed else ""
    return (
        line.algorithm,
        number(line.mean, ".4f"),
        f"{line.low:.4f} to {line.high:.4f}" if has_interval else "-",
        number(line.share, ".1%"),
        number(line.kl, ".2f"),
        number(line.seconds, ".1f"),
        f"{len(line.rows)}{failed}",
    )
