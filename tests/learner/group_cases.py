"""How far a gradient or a policy is from another."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignzoo.testing import TokenMDP


def cosine(a: Any, b: Any) -> float:
    """Returns the cosine of the angle between two gradients."""
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def score_missed(mdp: TokenMDP, logits: Any) -> float:
    """Returns how far the expected score is from the best, as a share of best minus worst."""
    scores = [sum(mdp.rewards[step] for step in mdp.steps(row)) for row in mdp.responses]
    return float((max(scores) - mdp.objective(logits)) / (max(scores) - min(scores)))
