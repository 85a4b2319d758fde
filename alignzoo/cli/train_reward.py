"""`alignzoo train-reward ID`: trains a reward on human judgement and reports on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.cli.arguments import Parser
from alignzoo.cli.options import OptionSet
from alignzoo.cli.train import quiet_transformers, set_threads
from alignzoo.errors import AlignzooError, ConfigError
from alignzoo.plugin_registry import Entry, Registry, registry
from alignzoo.run_options import TrainRewardOptions

if TYPE_CHECKING:
    from alignzoo.overoptimisation import BestOfN
    from alignzoo.reward import RewardModel

USAGE = "alignzoo train-reward ID --data F --out DIR"
CURVE_OPTIONS = ("true_reward", "sampler", "prompts", "best_of", "max_new_tokens")


def run(arguments: list[str]) -> int:
    """Trains a reward and prints what it scores on held-out rows, and where it is."""
    id, rest = _reward_id(arguments)
    found = registry()
    entry = found.find("reward", id)
    config_class = found.load(entry).Config
    parser = Parser(f"train-reward {id}", entry.spec.summary)
    options = OptionSet({"training": TrainRewardOptions, id: config_class})
    options.add_to(parser)
    namespace = parser.parse(rest)
    _check_learns(found, entry)
    read = options.read(namespace)
    given = read.build(TrainRewardOptions, f"train-reward {id}")
    reward = found.build("reward", id, dict(read.build(config_class, id)))
    _check_curve(given, read.explicit | read.from_file)
    from alignzoo.reward_training import check_free, train_reward

    check_free(Path(given.out).expanduser())
    rows, eval_rows = _read_rows(given, reward)  # before torch: a wrong file is told at once
    set_threads(given.threads)
    if given.overoptimise or getattr(reward.config, "policy", None):
        quiet_transformers()
    report = train_reward(
        reward,
        rows,
        out=given.out,
        seed=given.seed,
        eval_data=eval_rows,
        eval_fraction=given.eval_fraction,
        record=_record(entry, given),
        best_of_n=_best_of_n(given, reward, found) if given.overoptimise else None,
        say=_say,
    )
    for note in report.notes:
        _say(f"note: {note}")
    print(report.summary())
    if report.overoptimisation is not None:
        print(report.overoptimisation.summary())
    print(f"reward: {given.out}")
    print(f"report: {Path(given.out) / 'report.html'}")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _reward_id(arguments: list[str]) -> tuple[str, list[str]]:
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if any(word in ("-h", "--help") for word in arguments):
        raise ConfigError(f"name a reward to see its options: {USAGE} --help")
    raise ConfigError(f"give the reward's id first: {USAGE}")


def _check_learns(found: Registry, entry: Entry) -> None:
    """Checks that the reward learns.

    Raises:
        ConfigError: it is a rule; the message names those that learn.
    """
    if found.load(entry).learns_from:
        return
    learning = []
    for other in found.rewards:
        try:
            if found.load(other).learns_from:
                learning.append(other.id)
        except AlignzooError:  # a broken plugin is no reason to hide the others
            continue
    raise ConfigError(
        f"reward '{entry.id}' is a rule; it has nothing to learn. Use it as it is: --reward "
        f"{entry.id}. Rewards that learn: {', '.join(learning) or 'none is installed'}."
    )


def _read_rows(
    given: TrainRewardOptions, reward: RewardModel
) -> tuple[list[Any], list[Any] | None]:
    """Returns the rows to learn from, and those to measure on where a file of them is given."""
    from alignzoo.data import read_judgements

    kind, rows = read_judgements(given.data, reward.learns_from, columns=given.columns)
    if given.eval_data is None:
        return rows, None
    return rows, read_judgements(given.eval_data, [kind], columns=given.columns)[1]


def _check_curve(given: TrainRewardOptions, told: frozenset[str]) -> None:
    """Checks that options of the curve come with --overoptimise."""
    idle = [name for name in CURVE_OPTIONS if name in told and not given.overoptimise]
    if idle:
        raise ConfigError(
            f"--{idle[0].replace('_', '-')} is of use only with --overoptimise; add it, or leave "
            "the option out"
        )


def _best_of_n(given: TrainRewardOptions, reward: RewardModel, found: Registry) -> BestOfN:
    """Returns what the curve is drawn from.

    Raises:
        ConfigError: the true reward or the sampler is missing.
    """
    sampler = given.sampler or getattr(reward.config, "policy", None)
    if not given.true_reward:
        raise ConfigError(
            "--overoptimise needs --true-reward, what the trained reward stands for, such as "
            "--true-reward file.py:function"
        )
    if not sampler:
        raise ConfigError("--overoptimise needs --sampler, the policy whose responses are scored")
    from alignzoo.data import read_prompts
    from alignzoo.overoptimisation import BestOfN
    from alignzoo.policy import Policy
    from alignzoo.scoring import resolve_rewards

    true_reward = resolve_rewards(given.true_reward, found)
    prompts = None if given.prompts is None else read_prompts(given.prompts)
    return BestOfN(
        policy=Policy.from_pretrained(sampler, seed=given.seed),
        true_reward=true_reward,
        prompts=prompts,
        best_of=given.best_of,
        max_new_tokens=given.max_new_tokens,
    )


def _record(entry: Entry, given: TrainRewardOptions) -> dict[str, Any]:
    """Returns what reward.json says beside the training's own: whose the reward is, which data."""
    data = {"path": _place(given.data), "columns": dict(given.columns)}
    if given.eval_data is not None:
        data["eval_path"] = _place(given.eval_data)
    return {
        "id": entry.id,
        "distribution": entry.plugin.distribution or None,
        "version": entry.plugin.version or None,
        "revision": entry.spec.revision,
        "data": data,
    }


def _place(source: str) -> str:
    """Returns a path that exists as an absolute one, a hub id as it is."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
