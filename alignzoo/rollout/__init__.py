"""The rollout buffer: one columnar store for on-policy, off-policy and offline data.

Importing this package imports neither NumPy nor torch; its names load what they need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alignzoo.rollout.columns import Column

if TYPE_CHECKING:
    from alignzoo.rollout.batch import RolloutBatch, last_action_positions
    from alignzoo.rollout.buffer import RolloutBuffer

__all__ = ["Column", "RolloutBatch", "RolloutBuffer", "last_action_positions"]


def __getattr__(name: str) -> Any:
    if name == "RolloutBuffer":
        from alignzoo.rollout.buffer import RolloutBuffer

        return RolloutBuffer
    if name in ("RolloutBatch", "last_action_positions"):
        from alignzoo.rollout import batch

        return getattr(batch, name)
    raise AttributeError(f"module 'alignzoo.rollout' has no attribute '{name}'")
