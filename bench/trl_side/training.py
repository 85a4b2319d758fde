"""A benchmark's cell by TRL's GRPO or RLOO; `trl` is not imported before `train` is called."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("alignzoo", "torch", "transformers", "trl", "accelerate", "datasets")


class Clock:
    """Seconds of TRL's steps, and what was sampled in them.

    A step begins when TRL has fetched its prompts and ends when parameters have moved: sampling,
    scoring and learning. What lies between steps, measuring included, does not count.
    """

    def __init__(self) -> None:
        self.seconds, self.samples, self.tokens = 0.0, 0, 0
        self._started = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._started


def train(
    algorithm: str,
    options: Mapping[str, Any],
    *,
    task: Any,
    settings: Any,
    seed: int,
    budget: int,
    num_points: int,
    same_draws: bool = False,
) -> dict[str, Any]:
    """Returns what a run of TRL came to, as the end of a row of results.jsonl.

    Args:
        algorithm: "grpo" or "rloo".
        options: what `match.trl_options` returns.
        task: the benchmark's; gives the policy, prompts, reward and held-out measurement.
        settings: the trainer's, such as batch_size.
        budget: responses sampled.
        num_points: of the curve, beside its start.
        same_draws: our sampler draws, with the numbers it draws for our own run.
    """
    from transformers import TrainerCallback

    from alignzoo.benchmark.measuring import Judge
    from alignzoo.training_data import Cursor, load_prompts

    policy = task.policy()
    judge = Judge(task, policy.snapshot(), settings, seed=seed)
    whole = settings.model_copy(update={"eval_fraction": 0.0, "seed": seed})
    prompts = load_prompts(policy, list(task.prompts()), None, whole).train
    size, epochs = settings.batch_size, options["num_iterations"]
    num_updates = budget // size
    num_groups = num_updates * size // options["num_generations"]
    rows = [prompts[i] for i in Cursor(len(prompts), seed).take(num_groups)]
    clock = Clock()
    curve: list[dict[str, Any]] = []

    def measure(step: int) -> None:
        policy.model.eval()
        counts = {"step": step, "samples": clock.samples, "tokens": clock.tokens}
        curve.append({**counts, **judge.measure(policy)._asdict()})

    class Watch(TrainerCallback):
        """Keeps the time of each step, and measures where it is due."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.stop()
            update, rest = divmod(state.global_step, epochs)
            if rest == 0 and is_due(update, size, budget, num_points):
                measure(update)

    measure(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            algorithm,
            {**options, "max_steps": num_updates * epochs},
            policy=policy,
            rows=[encoded.row for encoded in rows],
            reward=counting(task.reward(seed), clock),
            callback=Watch(),
            folder=Path(folder),
        )
        check_prompts(trainer, rows)
        if same_draws:
            draw_as_ours(trainer, policy, settings, seed)
        trainer.train()
    return outcome(curve, clock)


def is_due(update: int, size: int, budget: int, num_points: int) -> bool:
    """Whether the benchmark measures after an update: at each tenth of the budget, and the last."""
    tenths = (num_points * done * size // budget for done in (update, update - 1))
    return next(tenths) > next(tenths) or (update + 1) * size > budget


def make_trainer(
    algorithm: str,
    options: Mapping[str, Any],
    *,
    policy: Any,
    rows: Sequence[Any],
    reward: Any,
    callback: Any,
    folder: Path,
) -> Any:
    """Returns TRL's trainer of a policy's very model; it has nothing but `folder` to write to."""
    import trl
    from datasets import Dataset

    config, trainer = {
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
    }[algorithm]
    if options["beta"]:  # TRL makes its reference from where the model says that it came from
        policy.save(folder / "reference")
        policy.model.config._name_or_path = str(folder / "reference")
    policy.tokenizer.clean_up_tokenization_spaces = False  # as our decoding has it
    names = dict.fromkeys(name for row in rows for name in row.columns)
    columns = {name: [row.columns.get(name) for row in rows] for name in names}
    return trainer(
        model=policy.model,
        reward_funcs=reward,
        args=config(output_dir=str(folder / "out"), **options),
        train_dataset=Dataset.from_dict({"prompt": [row.prompt for row in rows], **columns}),
        processing_class=policy.tokenizer,
        callbacks=[callback],
    )


def counting(reward: Any, clock: Clock) -> Any:
    """Returns a task's reward as TRL calls it, which also counts samples and tokens."""
    from alignzoo.scoring import RewardSum

    scores = RewardSum.of(reward)

    def score(
        prompts: Any,
        completions: Any,
        completion_ids: Any,
        trainer_state: Any = None,
        log_extra: Any = None,
        log_metric: Any = None,
        **columns: Any,
    ) -> list[float]:
        clock.samples += len(completion_ids)
        clock.tokens += sum(map(len, completion_ids))
        texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
        total: list[float] = scores.score(prompts, texts, columns).total.tolist()
        return total

    return score


def check_prompts(trainer: Any, rows: Sequence[Any]) -> None:
    """Checks that TRL gives the model the tokens that ours does.

    Raises:
        DataError: it does not.
    """
    from alignzoo.errors import DataError

    found = trainer._tokenize_prompts([encoded.row.prompt for encoded in rows])[0]
    for encoded, theirs in zip(rows, found, strict=True):
        if list(encoded.token_ids) != list(theirs):
            raise DataError(
                f"{encoded.row.where}: TRL reads the prompt as {list(theirs)}, and alignzoo as "
                f"{list(encoded.token_ids)}; the two would not learn from the same"
            )


def draw_as_ours(trainer: Any, policy: Any, settings: Any, seed: int) -> None:
    """Puts our sampler in the place of TRL's, with the random numbers of our run of that seed."""
    import numpy as np

    from alignzoo.random_streams import derive_seed

    is_grpo = type(trainer).__name__ == "GRPOTrainer"
    num_drawn = 0

    def draw(prompt_ids: Any, *_: Any, **__: Any) -> Any:
        nonlocal num_drawn
        generation = policy.generate(
            prompt_ids,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=derive_seed(seed, "sampling"),
            row_ids=num_drawn + np.arange(len(prompt_ids)),
        )
        num_drawn += len(prompt_ids)
        ids = [row.tolist() for row in generation.token_ids]
        return (ids, None) if is_grpo else ids

    trainer._generate_single_turn = draw


def outcome(curve: list[dict[str, Any]], clock: Clock) -> dict[str, Any]:
    """Returns what a row says of a run, as the benchmark's own rows do."""
    last = curve[-1]
    return {
        "score": last["score"],
        "kl": last["kl"],
        "proxy": last.get("proxy"),
        "samples": last["samples"],
        "tokens": last["tokens"],
        "updates": last["step"],
        "skipped_updates": 0,
        "curve": curve,
        "seconds": clock.seconds,
        "peak_memory": peak_memory(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def peak_memory() -> int | None:
    """Returns the most memory this process has held, in bytes; None where that is not told.

    Linux hands `ru_maxrss` on from the process that started this one, so it is asked for VmHWM.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
