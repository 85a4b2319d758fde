"""`alignzoo demo`: the whole road on a model made from scratch, in a few minutes.

A tiny model learns from generated instructions to write one sentence about what it is asked for. A
simulated annotator, who is wrong now and then, compares pairs of its sentences; a reward model
learns from that, and PPO from the reward model. What the annotator wants is known here (sentences
that are happy, in the park and of good length, and never sad), so every stage is also measured by
the truth, and the reward model's report shows where the two part. Nothing is downloaded.
"""

from __future__ import annotations

import json
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
    from alignzoo.reward import RewardModel
    from alignzoo.reward_report import RewardReport
    from alignzoo.scoring import RewardSum

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
BEST_OF = 16
STAGES = ("sft", "reward-model", "ppo")


class DemoOptions(Config):
    """What `alignzoo demo` can be told."""

    out: str = Field("demo-out", description="folder to make; holds every stage")
    seed: int = Field(0, ge=0, description="of the data and of every stage")
    sft_steps: int = Field(400, gt=0, description="updates of instruction tuning")
    pairs: int = Field(700, ge=40, description="pairs of responses that the annotator compares")
    noise: float = Field(
        0.1, ge=0, lt=0.5, description="share of the pairs where the annotator prefers the worse"
    )
    ppo_steps: int = Field(15, gt=0, description="updates of PPO")
    threads: int | None = Field(None, gt=0, description="CPU threads; default torch's own choice")


def run(arguments: list[str]) -> int:
    """Runs every stage and prints what each was worth."""
    parser = Parser("demo", "Instruction tuning, a reward model and PPO on a model from scratch.")
    options = OptionSet({"demo": DemoOptions})
    options.add_to(parser)
    given = options.read(parser.parse(arguments)).build(DemoOptions, "demo")
    from alignzoo.reward_training import check_free

    out = Path(given.out).expanduser()
    for stage in STAGES:
        check_free(out / stage)
    set_threads(given.threads)
    quiet_transformers()
    start = time.perf_counter()
    reward, report = _teach_and_compare(given, out)
    lines = _align(given, out, reward)
    _print_stages(_look_at_stages(given, out, reward), lines[-1])
    _print_reward(report)
    print(f"\n{time.perf_counter() - start:.0f} s in all. Curves, samples and the reward model:")
    for stage in STAGES:
        print(f"  {out / stage / 'report.html'}")
    print(f"The aligned model, for transformers: {out / 'ppo' / 'final'}")
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


def compare(
    prompts: Sequence[Any], texts: Sequence[str], truth: Sequence[float], *, noise: float, seed: int
) -> list[dict[str, Any]]:
    """Returns what an annotator says of neighbours, each two responses to one prompt.

    The one with the higher true score is chosen, but for a share `noise` of the pairs; where both
    are equally good, the annotator says so.
    """
    draw = random.Random(seed)
    rows = []
    for one in range(0, len(texts), 2):
        best, worst = (one, one + 1) if truth[one] >= truth[one + 1] else (one + 1, one)
        if draw.random() < noise:
            best, worst = worst, best
        if texts[best] == texts[worst]:
            continue
        row = {"prompt": prompts[one], "chosen": texts[best], "rejected": texts[worst]}
        rows.append({**row, "tie": True} if truth[best] == truth[worst] else row)
    return rows


def _teach_and_compare(options: DemoOptions, out: Path) -> tuple[RewardModel, RewardReport]:
    """Tunes the model, has its responses compared, and returns the reward model and its report."""
    from alignzoo.overoptimisation import BestOfN
    from alignzoo.policy import Policy
    from alignzoo.reward_training import train_reward

    print("1/4 instruction tuning: sft on generated instructions", flush=True)
    _tune(options, out / "sft")
    tuned = Policy.from_pretrained(out / "sft" / "final", seed=options.seed)
    wrong = f"{options.noise:.0%} of them the wrong way round"
    print(f"2/4 comparisons: {options.pairs} pairs by a simulated annotator, {wrong}", flush=True)
    judged = _look(tuned, _truth(), options.seed + 1, num_samples=_num_samples(options))
    rows = compare(
        [prompt.row.prompt for prompt in judged.prompts],
        [text.replace("\0", "") for text in judged.texts],  # no text of a file may hold one
        judged.scores.total.tolist(),
        noise=options.noise,
        seed=options.seed,
    )[: options.pairs]
    write_pairs(out / "pairs.jsonl", rows)
    print("3/4 reward model: preference on the tuned model", flush=True)
    reward = make_reward(
        "preference",
        policy=str(out / "sft" / "final"),
        learning_rate=5e-4,
        minibatch_size=32,
        num_epochs=2,
    )
    report = train_reward(
        reward,
        out / "pairs.jsonl",
        out=out / "reward-model",
        seed=options.seed,
        record={"id": "preference"},
        best_of_n=BestOfN(
            policy=tuned, true_reward=_truth(), best_of=BEST_OF, max_new_tokens=MAX_NEW_TOKENS
        ),
    )
    return reward, report


def _num_samples(options: DemoOptions) -> int:
    """Returns how many responses to each prompt make the pairs, an even number."""
    return 2 * -(-options.pairs // len(make_prompts()))


def write_pairs(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def _tune(options: DemoOptions, out: Path) -> None:
    from alignzoo.policy import Policy
    from alignzoo.trainer import Trainer

    Trainer(
        policy=Policy.from_pretrained("tiny", seed=options.seed),
        algorithm=make(
            "sft",
            learning_rate=2.5e-3,
            warmup_steps=10,
            schedule="cosine",
            decay_steps=options.sft_steps,
        ),
        data=make_demonstrations(4000, options.seed),
        out=out,
        seed=options.seed,
        batch_size=16,
        eval_every=options.sft_steps,
        checkpoint_every=options.sft_steps,
    ).run(options.sft_steps)


def _align(options: DemoOptions, out: Path, reward: RewardModel) -> list[dict[str, Any]]:
    """Runs PPO on the reward model; the truth is logged beside it and not learned from."""
    from alignzoo.policy import Policy
    from alignzoo.trainer import Trainer

    print("4/4 alignment: ppo towards the reward model", flush=True)
    lines: list[dict[str, Any]] = Trainer(
        policy=Policy.from_pretrained(out / "sft" / "final", seed=options.seed),
        algorithm=make("ppo", learning_rate=3e-4, kl_coef=0.1),  # its scores span several nats
        reward=[("reward_model", reward, 1.0), ("truth", make_reward("keywords", **REWARD), 0.0)],
        prompts=make_prompts(),
        eval_fraction=0.25,
        out=out / "ppo",
        seed=options.seed,
        batch_size=48,
        max_new_tokens=MAX_NEW_TOKENS,
        eval_every=10,
        checkpoint_every=options.ppo_steps,
    ).run(options.ppo_steps)
    return lines


def _truth() -> RewardSum:
    from alignzoo.scoring import RewardSum

    return RewardSum.of(("truth", make_reward("keywords", **REWARD), 1.0))


def _look(policy: Policy, reward: RewardSum, seed: int, *, num_samples: int = 1) -> ScoredResponses:
    """Returns scored responses to each prompt; every stage draws with the same numbers."""
    from alignzoo.data import encode_prompts, read_prompts
    from alignzoo.evaluation import sample_and_score

    return sample_and_score(
        policy,
        reward,
        encode_prompts(policy.tokenizer, read_prompts(make_prompts())),
        num_samples=num_samples,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=1.0,
        seed=seed,
    )


def _look_at_stages(
    options: DemoOptions, out: Path, reward: RewardModel
) -> dict[str, ScoredResponses]:
    """Returns, by stage, a response to each prompt with its true and its reward model's score."""
    from alignzoo.policy import Policy
    from alignzoo.scoring import RewardSum

    both = RewardSum.of(
        [("reward_model", reward, 1.0), ("truth", make_reward("keywords", **REWARD), 0.0)]
    )
    sources: dict[str, str | Path] = {
        "before": "tiny",
        "after sft": out / "sft" / "final",
        "after ppo": out / "ppo" / "final",
    }
    return {
        stage: _look(Policy.from_pretrained(source, seed=options.seed), both, options.seed)
        for stage, source in sources.items()
    }


def _print_stages(stages: dict[str, ScoredResponses], last: dict[str, Any]) -> None:
    kl = {"before": "-", "after sft": "0.0", "after ppo": f"{last.get('eval_kl', last['kl']):.1f}"}
    print(f"\n{'stage':<12}{'truth':>8}{'reward model':>14}{'KL to sft, nats':>18}{'words':>8}")
    for stage, responses in stages.items():
        words = sum(len(text.split()) for text in responses.texts) / len(responses.texts)
        truth, proxy = (responses.scores.parts[name].mean() for name in ("truth", "reward_model"))
        print(f"{stage:<12}{truth:>8.3f}{proxy:>14.3f}{kl[stage]:>18}{words:>8.1f}")
    for row in (0, 13, 26):
        prompt = stages["before"].prompts[row].row.prompt
        print(f"\n> {prompt[0]['content'] if isinstance(prompt, list) else prompt}")
        for stage, responses in stages.items():
            print(f"  {stage:<10}  {responses.texts[row]!r}")


def _print_reward(report: RewardReport) -> None:
    print("\nThe reward model, on prompts it was not trained on:")
    print(f"  {report.summary()}")
    assert report.overoptimisation is not None
    print(f"  {report.overoptimisation.summary()}")
