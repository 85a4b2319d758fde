"""`alignzoo demo`: instruction tuning and PPO on a model made from scratch, in a few minutes.

A tiny model learns from generated instructions to write one sentence about what it is asked for;
PPO then makes it write what a reward asks: sentences that are happy, in the park and of good
length, and never sad. Nothing is downloaded.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignzoo.cli.arguments import Parser
from alignzoo.cli.options import OptionSet
from alignzoo.cli.train import quiet_transformers, set_threads
from alignzoo.config import Config
from alignzoo.plugin_registry import make, make_reward

if TYPE_CHECKING:
    from alignzoo.evaluation import ScoredResponses
    from alignzoo.policy import Policy

WHO = ("dog", "cat", "bird", "girl", "boy", "fox", "horse", "king", "baker", "frog")
KIND = ("little", "old", "brown", "quiet", "clever", "small", "young", "lazy")
DID = ("walked", "played", "rested", "waited", "sang", "ran", "sat", "danced")
WHERE = ("in the park", "by the river", "at home", "in the garden", "near the sea", "on a hill")
MOOD = ("happy", "sad", "tired", "calm", "scared", "proud", "hungry", "glad")
ASK = (
    "Write a sentence about a {who}.",
    "Tell me about a {who}.",
    "What did the {who} do today?",
    "Say something with the word {who}.",
)
REWARD: dict[str, Any] = {
    "include": ["happy", "park"],
    "avoid": ["sad", "scared"],
    "min_words": 8,
    "max_words": 14,
}
MAX_NEW_TOKENS = 72


class DemoOptions(Config):
    """What `alignzoo demo` can be told."""

    out: str = Field("demo-out", description="folder to make; holds both runs")
    seed: int = Field(0, ge=0, description="of the data and both runs")
    sft_steps: int = Field(600, gt=0, description="updates of instruction tuning")
    ppo_steps: int = Field(50, gt=0, description="updates of PPO")
    threads: int | None = Field(None, gt=0, description="CPU threads; default torch's own choice")


def run(arguments: list[str]) -> int:
    """Runs both stages and prints what each was worth."""
    parser = Parser("demo", "Instruction tuning and PPO on a model made from scratch.")
    options = OptionSet({"demo": DemoOptions})
    options.add_to(parser)
    given = options.read(parser.parse(arguments)).build(DemoOptions, "demo")
    set_threads(given.threads)
    quiet_transformers()
    start = time.perf_counter()
    stages = _run_stages(given)
    _print_stages(stages)
    print(f"\n{time.perf_counter() - start:.0f} s in all. Curves and samples:")
    for name in ("sft", "ppo"):
        print(f"  {Path(given.out) / name / 'report.html'}")
    print(f"The aligned model, for transformers: {Path(given.out) / 'ppo' / 'final'}")
    return 0


def make_demonstrations(count: int, seed: int) -> list[dict[str, str]]:
    """Returns instructions and sentences that answer them, in moods and places drawn at random."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        who = draw.choice(WHO)
        prompt = draw.choice(ASK).format(who=who)
        sentence = f"The {draw.choice(KIND)} {who} {draw.choice(DID)} {draw.choice(WHERE)}"
        ending = draw.choice(("and was {mood}.", "and felt very {mood}.", "because it was {mood}."))
        rows.append(
            {"instruction": prompt, "output": f"{sentence} {ending.format(mood=draw.choice(MOOD))}"}
        )
    return rows


def make_prompts() -> list[list[dict[str, str]]]:
    """Returns every instruction once, as a chat."""
    return [[{"role": "user", "content": ask.format(who=who)}] for who in WHO for ask in ASK]


def _run_stages(options: DemoOptions) -> list[tuple[str, ScoredResponses, float | None]]:
    """Returns, for each stage: its name, responses to the same prompts, and the KL in nats."""
    from alignzoo.policy import Policy
    from alignzoo.scoring import RewardSum
    from alignzoo.trainer import Trainer

    out, seed = Path(options.out), options.seed
    reward = RewardSum.of(make_reward("keywords", **REWARD))
    prompts = make_prompts()
    policy = Policy.from_pretrained("tiny", seed=seed)
    before = _look(policy, reward, prompts, seed)
    print("1/2 instruction tuning: sft on generated instructions")
    Trainer(
        policy=policy,
        algorithm=make(
            "sft",
            learning_rate=2.5e-3,
            warmup_steps=10,
            schedule="cosine",
            decay_steps=options.sft_steps,
        ),
        data=make_demonstrations(4000, seed),
        out=out / "sft",
        seed=seed,
        batch_size=16,
        eval_every=options.sft_steps,
        checkpoint_every=options.sft_steps,
    ).run(options.sft_steps)
    tuned = _look(policy, reward, prompts, seed)
    print("2/2 alignment: ppo towards the keywords reward")
    lines = Trainer(
        policy=Policy.from_pretrained(out / "sft" / "final", seed=seed),
        algorithm=make("ppo", learning_rate=3e-4),
        reward=reward,
        prompts=prompts,
        eval_fraction=0.25,
        out=out / "ppo",
        seed=seed,
        batch_size=48,
        max_new_tokens=MAX_NEW_TOKENS,
        eval_every=10,
        checkpoint_every=options.ppo_steps,
    ).run(options.ppo_steps)
    aligned = _look(Policy.from_pretrained(out / "ppo" / "final"), reward, prompts, seed)
    return [
        ("before", before, None),
        ("after sft", tuned, 0.0),
        ("after ppo", aligned, lines[-1].get("eval_kl", lines[-1]["kl"])),
    ]


def _look(policy: Policy, reward: Any, prompts: Sequence[Any], seed: int) -> ScoredResponses:
    """Returns one scored response to each prompt; every stage draws with the same numbers."""
    from alignzoo.data import encode_prompts, read_prompts
    from alignzoo.evaluation import sample_and_score

    encoded = encode_prompts(policy.tokenizer, read_prompts(list(prompts)))
    return sample_and_score(
        policy,
        reward,
        encoded,
        num_samples=1,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=1.0,
        seed=seed,
    )


def _print_stages(stages: Sequence[tuple[str, ScoredResponses, float | None]]) -> None:
    print(f"\n{'stage':<12}{'score':>8}{'KL to sft, nats':>18}{'words':>8}")
    for name, responses, kl in stages:
        words = sum(len(text.split()) for text in responses.texts) / len(responses.texts)
        shown = "-" if kl is None else f"{kl:.1f}"
        print(f"{name:<12}{responses.scores.total.mean():>8.3f}{shown:>18}{words:>8.1f}")
    for row in (0, 13, 26):
        prompt = stages[0][1].prompts[row].row.prompt
        print(f"\n> {prompt[0]['content'] if isinstance(prompt, list) else prompt}")
        for name, responses, _ in stages:
            print(f"  {name:<10}  {responses.texts[row]!r}")
