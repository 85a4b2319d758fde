"""What the metrics of a run mean, in what unit, in which order they are shown, and as what text."""

from __future__ import annotations

import math
from typing import NamedTuple

HELD_OUT_PREFIX = "eval_"
SCORE_PREFIX = "score/"


class Meaning(NamedTuple):
    """A metric's unit and one line of explanation, each empty where there is none."""

    unit: str = ""
    text: str = ""


MEANINGS = {
    "score_mean": Meaning("", "mean score of the responses, before any KL penalty"),
    "kl": Meaning("nats per response", "log-ratio to the reference, summed over a response"),
    "loss": Meaning("", "training loss"),
    "response_length_mean": Meaning("tokens", "mean length of a response"),
    "truncated_fraction": Meaning("", "share of responses cut off by max_new_tokens"),
    "policy_loss": Meaning("", "loss of the policy"),
    "entropy": Meaning("nats per token", "entropy of the next token"),
    "approx_kl": Meaning("nats per token", "ratio - 1 - log ratio to the policy before the update"),
    "clip_frac": Meaning("", "share of tokens whose ratio was clipped"),
    "ratio_max": Meaning("", "largest ratio of a token to the policy before the update"),
    "kl_coef": Meaning("", "weight of the KL penalty"),
    "value_loss": Meaning("", "loss of the value head"),
    "explained_variance": Meaning("", "share of the returns' variance that the values explain"),
    "accuracy": Meaning(
        "", "share of pairs whose chosen response has the higher reward; ties half"
    ),
    "margin": Meaning("", "implicit reward of the chosen response less the rejected one's"),
    "chosen_log_probs": Meaning("nats per response", "log-prob of chosen responses"),
    "rejected_log_probs": Meaning("nats per response", "log-prob of rejected responses"),
    "chosen_rewards": Meaning("", "implicit reward of chosen or desirable responses"),
    "rejected_rewards": Meaning("", "implicit reward of rejected or undesirable responses"),
    "kl_point": Meaning("nats per response", "reference point, measured on mismatched responses"),
    "weight_max": Meaning("", "largest weight of a response; their mean is 1"),
    "best_score_mean": Meaning("", "mean score of the responses that are imitated"),
    "reward_clip_frac": Meaning("", "share of the responses whose score was limited"),
    "kept_fraction": Meaning("", "share of the sampled responses that were learned from"),
    "q_loss": Meaning("", "Huber loss of Q at the tokens that were taken"),
    "q_values": Meaning("", "mean Q of the tokens that were taken"),
    "q_targets": Meaning("", "mean of what these Q are led to"),
    "surrogate_before": Meaning("", "mean ratio times advantage before the step"),
    "surrogate_after": Meaning("", "mean ratio times advantage after the step"),
    "mean_kl": Meaning("nats per token", "KL(old || new) of the step, over the vocabulary"),
    "step_fraction": Meaning("", "share of the full step that was taken; 0 is none"),
    "line_search_steps": Meaning("", "step lengths that were tried"),
    "cg_residual": Meaning("", "what conjugate gradient left of the equation, relative"),
    "aux_value_loss": Meaning("", "loss of the values that teach the trunk"),
    "aux_critic_loss": Meaning("", "loss of the critic in the auxiliary phase"),
    "aux_kl": Meaning("nats per token", "KL(old || policy) in the auxiliary phase"),
    "aux_grad_norm": Meaning("", "norm of the auxiliary phase's gradient before clipping"),
    "grad_norm": Meaning("", "norm of the gradient before clipping"),
    "learning_rate": Meaning("", "of the policy"),
    "sampler_mismatch": Meaning(
        "nats per token", "mean gap between log-probs of sampler and training"
    ),
    "sampler_mismatch_max": Meaning(
        "nats", "largest gap between log-probs of sampler and training"
    ),
    "skipped_updates": Meaning("", "optimiser steps skipped so far, as not finite"),
    "unscorable": Meaning("", "responses so far that the reward could not score"),
    "samples": Meaning("", "responses so far"),
    "tokens": Meaning("tokens", "response tokens so far"),
    "tokens_per_second": Meaning("tokens/s", "response tokens over the seconds of the update"),
    "seconds": Meaning("seconds", "wall clock of the update"),
}


def meaning(name: str) -> Meaning:
    """Returns what is known of the metric `name`; held-out twins mean what their metric means."""
    bare = name.removeprefix(HELD_OUT_PREFIX)
    if bare.startswith(SCORE_PREFIX):
        return Meaning("", "mean score by this reward alone")
    found = MEANINGS.get(bare, Meaning())
    if bare == name or not found.text:
        return found
    return found._replace(text=f"{found.text}; on held-out data")


def order(name: str) -> tuple[int, str]:
    """Returns a sort key: each reward's score, then known metrics in our order, then others."""
    bare = name.removeprefix(HELD_OUT_PREFIX)
    if bare.startswith(SCORE_PREFIX):
        return -1, name
    return list(MEANINGS).index(bare) if bare in MEANINGS else len(MEANINGS), name


def format_number(value: float) -> str:
    """Returns `value` with up to four significant digits: 0.9531, 12.3, 1,234,567, 3e-5."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e12:
        return f"{int(value):,}"
    if abs(value) < 1e-3 or abs(value) >= 1e9:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_seconds(seconds: float) -> str:
    """Returns a duration as people say it: 0.84 s, 41 s, 3 min 20 s, 1 h 04 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"
