"""The small model of a task: made here, and taught until it is right now and then.

A Llama of two layers and width 64 with a token per byte, 0.12 million parameters. Each step of
teaching is one of AdamW on the mean negative log-likelihood of the answers' tokens in a batch, as
`sft` does it; it is written out here so that the model stays the same whatever becomes of `sft`.

First it is shown right answers, until the ones it samples are right. Then, for some more steps, the
teacher slips: a share of the letters it writes are drawn at random. So the model knows what is
right, and says it as often as the teacher does. One that is stopped half way, while it is still
finding out how, is a worse place to start from: steps that teach this one make that one fall apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import alignzoo as az

if TYPE_CHECKING:
    from torch import Tensor

    from alignzoo import Policy

RECIPE = 1  # to be raised when the model that comes out is another
WIDTH, NUM_LAYERS = 64, 2
CHECK_EVERY = 10  # steps between looks at how right the model is
WARM_UP = 20  # steps in which the learning rate rises from 0
SAMPLES_AT_ONCE = 512

Example = tuple[str, str]  # prompt and right answer
Row = tuple[list[int], int]  # tokens, and how many are the prompt's


@dataclass(frozen=True)
class Recipe:
    """How a model is taught.

    Args:
        examples: to learn from, drawn with replacement.
        checks: prompts, not among those held out, that say how right the model is.
        score: gives each prompt's answer its score, by prompts and answers.
        enough: mean score of sampled answers at which the teacher begins to slip, or ends.
        max_new_tokens: longest answer, its end included.
        context_length: longest prompt and answer, in tokens.
        slip: share of the answers' tokens that are drawn from `letters` instead; 0 for no slips.
        letters: a text whose tokens a slip may write.
        learning_rate, batch_size: of a step.
        max_steps: the teacher begins to slip here at the latest.
        slip_steps: and goes on for so many.
        seed: of the first weights, of the order, and of the answers looked at.
    """

    examples: Sequence[Example]
    checks: Sequence[str]
    score: Callable[[Sequence[str], Sequence[str]], Sequence[float]]
    enough: float
    max_new_tokens: int
    context_length: int
    slip: float = 0.0
    letters: str = ""
    learning_rate: float = 2e-3
    batch_size: int = 64
    max_steps: int = 800
    slip_steps: int = 100
    seed: int = 0


def make_policy(recipe: Recipe) -> Policy:
    """Returns the model before it is taught anything."""
    return az.Policy.tiny(
        recipe.seed, width=WIDTH, num_layers=NUM_LAYERS, context_length=recipe.context_length
    )


def teach(policy: Policy, recipe: Recipe) -> tuple[int, float]:
    """Teaches the model in place; returns how many steps it took, and its score at the end.

    Raises:
        RunError: after `max_steps` it scores less than half of what is enough.
    """

    generator = np.random.default_rng(recipe.seed)
    encoded = [_encode(policy, example) for example in recipe.examples]
    letters = policy.tokenizer.encode(recipe.letters, add_special_tokens=False)
    optimizer = _optimizer(policy)
    step, score = 0, 0.0
    while score < recipe.enough and step < recipe.max_steps:
        step += 1
        chosen = generator.integers(len(encoded), size=recipe.batch_size)
        _step(policy, optimizer, [encoded[row] for row in chosen], step, recipe.learning_rate)
        if step % CHECK_EVERY == 0:
            score = _look(policy, recipe)
    if score < recipe.enough / 2:
        raise az.RunError(
            f"the task's model scores {score:.3f} after {step} steps of teaching, and "
            f"{recipe.enough:g} was wanted; give the task options that are easier to learn"
        )
    for number in range(1, recipe.slip_steps + 1 if recipe.slip else 0):
        chosen = generator.integers(len(encoded), size=recipe.batch_size)
        rows = [_slip(*encoded[row], recipe.slip, letters, generator) for row in chosen]
        _step(policy, optimizer, rows, number, recipe.learning_rate)
    return step, _look(policy, recipe)


def _look(policy: Policy, recipe: Recipe) -> float:
    answers = sample(policy, recipe.checks, recipe.max_new_tokens, seed=recipe.seed)
    return float(np.mean(recipe.score(recipe.checks, answers)))


def _optimizer(policy: Policy) -> Any:
    import torch

    return torch.optim.AdamW(policy.model.parameters(), weight_decay=0.0)


def _step(policy: Policy, optimizer: Any, rows: Sequence[Row], number: int, rate: float) -> None:
    import torch

    for group in optimizer.param_groups:
        group["lr"] = rate * min(1.0, number / WARM_UP)
    loss = _loss(policy.model, rows, policy.tokenizer.pad_token_id)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
    optimizer.step()


def _encode(policy: Policy, example: Example) -> Row:
    """Returns the tokens of a prompt, its answer and the end, and how many are of the prompt."""
    prompt = policy.tokenizer.encode(example[0])
    answer = policy.tokenizer.encode(example[1], add_special_tokens=False)
    return [*prompt, *answer, policy.end_token_id], len(prompt)


def _slip(
    tokens: list[int], start: int, share: float, letters: list[int], generator: np.random.Generator
) -> Row:
    """Returns a row in which the answer's tokens, but for the end, may be slips."""
    size = len(tokens) - start - 1
    slips = generator.random(size) < share
    drawn = generator.choice(letters, size=size)
    answer = np.where(slips, drawn, tokens[start:-1])
    return [*tokens[:start], *answer.tolist(), tokens[-1]], start


def _loss(model: Any, rows: Sequence[Row], padding: int) -> Tensor:
    """Returns the mean negative log-likelihood of the answers' tokens, in nats."""
    import torch

    longest = max(len(tokens) for tokens, _ in rows)
    ids = torch.full((len(rows), longest), padding)
    labels = torch.full((len(rows), longest), -100)
    for row, (tokens, start) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def sample(
    policy: Policy,
    prompts: Sequence[Any],
    max_new_tokens: int,
    *,
    seed: int,
    num_samples: int = 1,
) -> list[str]:
    """Returns `num_samples` sampled answers to each prompt, those to one prompt side by side."""
    found: list[str] = []
    size = max(1, SAMPLES_AT_ONCE // num_samples)
    for start in range(0, len(prompts), size):
        some = [{"prompt": prompt} for prompt in prompts[start : start + size]]
        part = az.data.encode_prompts(policy.tokenizer, az.data.read_prompts(some))
        generation = policy.generate(
            [prompt.token_ids for prompt in part],
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            seed=seed,
            row_ids=np.arange(len(part) * num_samples) + start * num_samples,
        )
        found += policy.decode(generation.token_ids)
    return found


def state_of(policy: Policy) -> dict[str, Any]:
    """Returns the model's parameters as arrays; tied ones are there once."""
    return {name: p.detach().cpu().numpy().copy() for name, p in policy.model.named_parameters()}


def set_state(policy: Policy, state: dict[str, Any]) -> Policy:
    """Returns the policy, its model's parameters set to what `state_of` returned."""
    import torch

    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(state[name])))
    return policy


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread within the block: sums are then in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
