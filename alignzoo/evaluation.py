"""Sampling and scoring text, and what a policy is worth on prompts it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.data import EncodedPrompt, gather_columns
from alignzoo.random_streams import derive_seed, preserved_globals
from alignzoo.rollout import RolloutBuffer
from alignzoo.scoring import RewardSum, Scores

if TYPE_CHECKING:
    from alignzoo.learner import Learner
    from alignzoo.policy import Generation, Policy


@dataclass(frozen=True)
class ScoredResponses:
    """Responses to prompts, in order: each prompt beside its tokens, text and score."""

    prompts: list[EncodedPrompt]
    generation: Generation
    texts: list[str]
    scores: Scores

    def sample(self, row: int, **more: Any) -> dict[str, Any]:
        """Returns one line of samples.jsonl."""
        score = float(self.scores.total[row])
        return {
            **more,
            "prompt": self.prompts[row].row.prompt,
            "response": self.texts[row],
            "score": score if np.isfinite(score) else None,
            "stop_reason": self.generation.stop_reasons[row],
        }


def sample_and_score(
    policy: Policy,
    reward: RewardSum,
    prompts: Sequence[EncodedPrompt],
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    row_ids: NDArray[np.int64] | None = None,
    values: bool = False,
) -> ScoredResponses:
    """Samples `num_samples` responses to each prompt and scores them."""
    generation = policy.generate(
        [prompt.token_ids for prompt in prompts],
        num_samples=num_samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        row_ids=row_ids,
        values=values,
    )
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    texts = policy.decode(generation.token_ids)
    rows = [prompt.row for prompt in repeated]
    scores = reward.score([row.prompt for row in rows], texts, gather_columns(rows))
    return ScoredResponses(repeated, generation, texts, scores)


def append_responses(
    buffer: RolloutBuffer, scored: ScoredResponses, *, group_size: int, version: int
) -> NDArray[np.int64]:
    """Stores scored responses and returns their row numbers; a group is one draw of a prompt."""
    generation = scored.generation
    num_rows = len(scored.texts)
    ended = np.array([reason == "end" for reason in generation.stop_reasons])
    rows = buffer.append(
        [prompt.token_ids for prompt in scored.prompts],
        generation.token_ids,
        policy_version=version,
        sampler_log_probs=generation.log_probs,
        terminated=ended,
        truncated=~ended,
        group_ids=np.arange(num_rows) // group_size,
        scores=scored.scores.total,
        **({} if generation.values is None else {"values": generation.values}),
    )
    return np.asarray(rows, dtype=np.int64)


def evaluate_rollouts(
    learner: Learner,
    reward: RewardSum,
    prompts: Sequence[EncodedPrompt],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> tuple[dict[str, float], ScoredResponses]:
    """Returns `eval_*` metrics of one response to each held-out prompt, and the responses.

    Every evaluation of a run draws with the same random numbers, so that two of them differ by
    the policy alone; the run's own streams are left as they were.
    """
    with preserved_globals():
        scored = sample_and_score(
            learner.policy,
            reward,
            prompts,
            num_samples=1,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=derive_seed(seed, "evaluation"),
        )
        buffer = RolloutBuffer()
        rows = append_responses(buffer, scored, group_size=1, version=0)
        batch = buffer.batch(rows, device=learner.policy.device)
        metrics = score_metrics(scored.scores, prefix="eval_")
        metrics["eval_response_length_mean"] = batch.num_tokens / len(batch)
        if learner.policy.has_reference:
            gap = learner.evaluate(batch).log_probs - learner.reference_log_probs(batch)
            metrics["eval_kl"] = float(gap.double().sum(1).mean())
    return metrics, scored


def score_metrics(scores: Scores, *, prefix: str = "") -> dict[str, float]:
    """Returns the mean score, and each reward's own mean where there are several."""
    named = {f"{prefix}score_mean": scores.total}
    if len(scores.parts) > 1:
        named |= {f"{prefix}score/{name}": part for name, part in scores.parts.items()}
    finite = {name: values[np.isfinite(values)] for name, values in named.items()}
    return {name: float(values.mean()) for name, values in finite.items() if values.size}
