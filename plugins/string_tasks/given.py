"""Options of a task on a policy that is given, and prompts from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import alignzoo as az
from alignzoo import options

if TYPE_CHECKING:
    from alignzoo import Policy


class GivenConfig(az.TaskConfig):
    """Options of a task whose policy may be given."""

    learning_rate: options.LearningRate = Field(
        3e-4, description="given to every algorithm; that of a larger model is smaller"
    )
    device: str = Field("cpu", description="where a given policy lives: cpu, cuda or cuda:N")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of a given policy's weights"
    )


def load_policy(config: Any) -> Policy:
    """Returns the policy that is given.

    Raises:
        ConfigError: there is none there.
    """
    return az.Policy.from_pretrained(config.policy, dtype=config.dtype, device=config.device)


def read_rows(source: str, name: str) -> list[dict[str, Any]]:
    """Returns the prompts of a file or hub id, with their columns.

    Raises:
        DataError: it has no column 'prompt', or there is nothing.
    """
    return [
        {**row.columns, "prompt": row.prompt} for row in az.data.read_prompts(source, name=name)
    ]


def hold_out(rows: list[Any], most: int, name: str) -> tuple[list[Any], list[Any]]:
    """Returns rows to train on and rows held out: half of them, or `most`, in a fixed random order.

    Raises:
        ConfigError: there are fewer than two different prompts.
    """
    import numpy as np

    different = list({repr(row["prompt"]): row for row in rows}.values())
    if len(different) < 2:
        raise az.ConfigError(
            f"{name} has {len(different)} different prompts; at least 2 are needed, half of "
            "which are held out"
        )
    order = np.random.default_rng(0).permutation(len(different))
    shuffled = [different[i] for i in order]
    count = min(most, len(different) // 2)
    return shuffled[count:], shuffled[:count]
