"""`alignzoo train ALGO`: aligns a language model and keeps a folder that says how."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.checkpoint import list_checkpoints
from alignzoo.cli.arguments import Parser
from alignzoo.cli.options import Given, OptionSet
from alignzoo.errors import ConfigError, DataError
from alignzoo.plugin_registry import Entry, Registry, registry, select_plugins, selected_plugins
from alignzoo.run_folder import RunFolder
from alignzoo.run_options import RunOptions, TrainerOptions

if TYPE_CHECKING:
    from alignzoo.trainer import Trainer

USAGE = "alignzoo train ALGO --policy P --out DIR [--prompts F | --data F] [--reward R]..."
PATH_OPTIONS = ("policy", "prompts", "data", "eval_prompts", "eval_data")


def run(arguments: list[str]) -> int:
    """Trains, or goes on with a run, and prints where the model and the report are."""
    saved = _saved_config(arguments)
    if saved is not None:
        select_plugins(saved.get("plugins", []) or selected_plugins())
    found = registry()
    id, rest = _algorithm_id(arguments, saved)
    if saved is not None:
        _check_installed(found, saved)
    config_class = found.algorithm(id).Config
    parser = Parser(f"train {id}", found.find("algorithm", id).spec.summary)
    options = OptionSet({"run": RunOptions, id: config_class})
    options.add_to(parser)
    parser.switch("resume", "go on with the run in --out; everything else comes from there")
    parser.switch("allow-changed", "resume although data, options or plugins differ")
    namespace = parser.parse(rest)
    given = options.read(namespace)
    if saved is not None:
        given = _merge(saved, given)
    run_options = given.build(RunOptions, f"train {id}")
    algorithm_options = given.build(config_class, id)
    if saved is not None and not namespace.allow_changed:
        _check_unchanged(saved, given, {**dict(run_options), **dict(algorithm_options)})
    if saved is None:
        RunFolder(run_options.out).check_free()
    set_threads(run_options.threads)
    quiet_transformers()
    trainer = _make_trainer(found, id, run_options, dict(algorithm_options))
    try:
        lines = trainer.run(
            run_options.steps, resume=saved is not None, allow_changed=namespace.allow_changed
        )
    except (ConfigError, DataError):
        raise
    except BaseException:
        _say_where(trainer, run_options)
        raise
    _summarise(trainer, lines)
    return 0


def _saved_config(arguments: list[str]) -> dict[str, Any] | None:
    """Returns the config.yaml of the run to resume, or None where none is asked for."""
    parser = Parser("train", USAGE)
    parser.switch("resume", "")
    parser.add_argument("--out")
    known = [word for word in arguments if word.startswith("--resume")]
    if not known or not parser.parse([known[-1]]).resume:
        return None
    for i, word in enumerate(arguments):
        if word == "--out" and i + 1 < len(arguments):
            return _read_run(arguments[i + 1])
        if word.startswith("--out="):
            return _read_run(word.partition("=")[2])
    raise ConfigError("--resume needs --out DIR, the folder of the run to go on with")


def _read_run(out: str) -> dict[str, Any]:
    """Returns the config.yaml of a run that the command line started."""
    saved = RunFolder(out).read_config()
    wanted: dict[str, set[str]] = {"run": set(), "options": set(), "algorithm": {"id", "options"}}
    for section, keys in wanted.items():
        found = saved.get(section)
        if not isinstance(found, dict) or not keys <= set(found) or "steps" not in saved:
            raise ConfigError(
                f"'{out}/config.yaml' does not say how to go on, in '{section}'; a run that was "
                "started from Python is resumed there, with run(steps, resume=True)"
            )
    return saved


def _algorithm_id(arguments: list[str], saved: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    if arguments and not arguments[0].startswith("-"):
        id, rest = arguments[0], arguments[1:]
        if saved is not None and id != saved["algorithm"]["id"]:
            raise ConfigError(
                f"the run was started with algorithm '{saved['algorithm']['id']}', not '{id}'; "
                "resume it unchanged"
            )
        return id, rest
    if saved is not None:
        return str(saved["algorithm"]["id"]), arguments
    if any(word in ("-h", "--help") for word in arguments):
        raise ConfigError(f"name an algorithm to see its options: {USAGE} --help")
    raise ConfigError(f"give the algorithm first: {USAGE}")


def _check_installed(found: Registry, saved: Mapping[str, Any]) -> None:
    """Checks that the algorithm of a saved run is still there.

    Raises:
        ConfigError: it is not; the message names the distribution that had it.
    """
    about = saved["algorithm"]
    owner = about.get("distribution")
    if owner and not found.matches("algorithm", about["id"]):
        raise ConfigError(
            f"the run was started with algorithm '{about['id']}' of {owner} {about['version']}, "
            "which provides it no longer or is not installed; see `alignzoo plugins --check`"
        )


def _saved_options(saved: Mapping[str, Any]) -> dict[str, Any]:
    options = {**saved["run"], **saved["options"], **saved["algorithm"]["options"]}
    return {**options, "steps": saved["steps"]}


def _merge(saved: Mapping[str, Any], given: Given) -> Given:
    """Returns the options of a saved run with those given now over them."""
    values = {**_saved_options(saved), **given.values}
    return Given(values, given.spelling, given.explicit, given.from_file)


def _check_unchanged(saved: Mapping[str, Any], given: Given, now: Mapping[str, Any]) -> None:
    """Checks that an option given again is what the run was started with; only steps may grow.

    Raises:
        ConfigError: naming the option, with both values.
    """
    before = _saved_options(saved)
    if now["steps"] < before["steps"]:
        raise ConfigError(
            f"--steps is {now['steps']}, but the run was started with {before['steps']}; steps may "
            "only grow"
        )
    # Another device or number of threads is a warning, which the trainer gives.
    for name in (given.explicit | given.from_file) - {"out", "steps", "threads", "device"}:
        value = _normal(name, now[name])
        if value != before.get(name):
            raise ConfigError(
                f"{given.spelling[name]} is {value!r}, but the run was started with "
                f"{before.get(name)!r}; leave it out, or say --allow-changed"
            )


def _normal(name: str, value: Any) -> Any:
    """Returns an option as config.yaml keeps it: paths that exist are absolute."""
    if name in PATH_OPTIONS and isinstance(value, str) and Path(value).exists():
        return str(Path(value).resolve())
    if name == "reward":
        return [_normal_reward(text) for text in value]
    return value


def _normal_reward(text: str) -> str:
    function = re.match(r"(.+\.py)(:.*)$", text)
    if function and Path(function[1]).exists():
        return str(Path(function[1]).resolve()) + function[2]
    return str(Path(text).resolve()) if Path(text).is_dir() else text


def _make_trainer(
    found: Registry, id: str, options: RunOptions, algorithm_options: Mapping[str, Any]
) -> Trainer:
    entry = found.find("algorithm", id)
    from alignzoo.collection import check_batch_size
    from alignzoo.policy import Policy, find_device
    from alignzoo.scoring import resolve_rewards
    from alignzoo.trainer import Trainer
    from alignzoo.training_data import check_source

    algorithm = found.build("algorithm", id, algorithm_options)
    source = algorithm.needs.source
    names = ("prompts", "reward", "eval_prompts", "data", "eval_data")
    given = {"--" + name.replace("_", "-"): getattr(options, name) for name in names}
    check_source(id, source, options.batch_size, given)
    check_batch_size(options.batch_size, algorithm.needs.group_size)
    reward = resolve_rewards(options.reward, found) if source == "rollouts" else None
    device = find_device(options.device, option="--device")
    rows = _read_rows(source, options)  # before the policy: a wrong file is told at once
    policy = Policy.from_pretrained(
        options.policy,
        dtype=options.dtype,
        device=device,
        autocast=options.autocast,
        decoding=options.decoding,
        seed=options.seed,
        lora_rank=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_targets=options.lora_targets,
        steering=options.steering,
    )
    return Trainer(
        policy=policy,
        algorithm=algorithm,
        reward=reward,
        **rows,
        out=options.out,
        observers=[found.on_update],
        record=_record(found, entry, options),
        **options.model_dump(include=set(TrainerOptions.model_fields)),
    )


def _read_rows(source: str, options: RunOptions) -> dict[str, Any]:
    """Returns the rows of each file that was given, by the name of the trainer's argument."""
    from alignzoo.data import read_prompts
    from alignzoo.training_data import KINDS

    read = read_prompts if source == "rollouts" else KINDS[source].read
    names = ("prompts", "data", "eval_prompts", "eval_data")
    given = {name: getattr(options, name) for name in names}
    return {name: read(path) for name, path in given.items() if path is not None}


def _record(found: Registry, entry: Entry, options: RunOptions) -> dict[str, Any]:
    """Returns what config.yaml says beside the trainer's own: options, ids and their owners."""
    own = set(RunOptions.model_fields) - set(TrainerOptions.model_fields) - {"out", "steps"}
    run = {name: _normal(name, getattr(options, name)) for name in sorted(own)}
    return {
        "run": run,
        "plugins": list(selected_plugins()),
        "algorithm": {"id": entry.id, **_owner(entry)},
        "rewards": [{"reward": text, **_reward_owner(found, text)} for text in run["reward"]],
    }


def _owner(entry: Entry) -> dict[str, Any]:
    return {
        "distribution": entry.plugin.distribution or None,
        "version": entry.plugin.version or None,
        "revision": getattr(entry.spec, "revision", None),
        "paper": getattr(entry.spec, "paper", None),
    }


def _reward_owner(found: Registry, text: str) -> dict[str, Any]:
    """Returns whose a reward is; one in a file or folder is known by what it says of itself."""
    import hashlib

    from alignzoo.reward_folder import TRAINED_REWARD_FILE
    from alignzoo.scoring import parse_reward

    parsed = parse_reward(text, lambda name: bool(found.matches("reward", name)))
    if parsed.kind == "id":
        return _owner(found.find("reward", parsed.name))
    path = Path(parsed.name.rpartition(":")[0])
    if parsed.kind == "folder":
        path = Path(parsed.name) / TRAINED_REWARD_FILE
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}


def set_threads(count: int | None) -> None:
    """Limits torch and the kernels to `count` threads."""
    if count is None:
        return
    os.environ["ALIGNZOO_NUM_THREADS"] = str(count)
    import torch

    torch.set_num_threads(count)


def quiet_transformers() -> None:
    """Leaves the terminal to our own progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _say_where(trainer: Trainer, options: RunOptions) -> None:
    """Tells how to go on with a run that failed or was interrupted."""
    saved = list_checkpoints(trainer.folder.checkpoints)
    if saved:
        print(
            f"the run can go on from update {saved[-1].name.removeprefix('step_')}: "
            f"alignzoo train --resume --out {options.out}",
            file=sys.stderr,
        )


def _summarise(trainer: Trainer, lines: list[dict[str, Any]]) -> None:
    last = lines[-1] if lines else {}
    parts = []
    for name in ("score_mean", "loss"):
        if last.get(name) is not None and lines[0].get(name) is not None:
            parts.append(f"{name} {lines[0][name]:.4g} -> {last[name]:.4g}")
    for name, before in trainer.baseline.items():
        after = last.get(name)
        if name in ("eval_score_mean", "eval_loss") and None not in (before, after):
            parts.append(f"{name} {before:.4g} -> {after:.4g}")
    if last.get("kl") is not None:
        parts.append(f"kl {last['kl']:.4g} nats")
    print(f"{len(lines)} updates: {', '.join(parts)}" if parts else f"{len(lines)} updates")
    print(f"model:  {trainer.folder.final}")
    print(f"report: {trainer.folder.path / 'report.html'}")
    if trainer.policy.shape_logits is not None:
        print(
            "the critic in the model's folder alignzoo/ steers it in `alignzoo generate` and "
            "Policy.from_pretrained; plain transformers loads the unsteered model"
        )
