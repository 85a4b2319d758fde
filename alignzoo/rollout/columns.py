"""What a column is, and the columns every buffer has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from alignzoo.errors import ConfigError

DTYPES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column: its shape and dtype.

    Args:
        shape: "token" for [B, T] over response tokens, "sequence" for [B].
        dtype: NumPy name, such as "float32" or "bool".
    Raises:
        ConfigError: an unknown shape or dtype.
    """

    shape: Literal["token", "sequence"]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.shape not in ("token", "sequence"):
            raise ConfigError(f"a column's shape is 'token' or 'sequence', not {self.shape!r}.")
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"a column's dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}."
            )


# What the buffer itself keeps true: given on append, never set again.
STRUCTURE = frozenset(
    {"prompt_ids", "response_ids", "response_mask", "group_ids", "pair_labels", "policy_version"}
)
# Filled only where an algorithm's needs ask for them.
ON_REQUEST = frozenset({"values", "ref_log_probs", "bootstrap_values"})
# What an algorithm may write, besides its own columns.
WRITABLE = frozenset({"advantages", "returns", "weights"})
# In every batch, whatever was declared. `token_ids` is [B, L], prompt then response.
ALWAYS_READABLE = frozenset(
    {"token_ids", "prompt_lengths", "response_lengths", "response_ids", "response_mask", "rows"}
    | {"group_ids", "pair_labels", "policy_version"}
)
# Inclusive bounds. Log-probs may exceed 0 by rounding alone.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "sampler_log_probs": (float("-inf"), 1e-3),
    "old_log_probs": (float("-inf"), 1e-3),
    "ref_log_probs": (float("-inf"), 1e-3),
    "pair_labels": (-1, 1),
}


def builtin_columns(float_dtype: str) -> dict[str, Column]:
    """Returns the columns of every buffer by name; `float_dtype` is that of the real ones."""
    tokens = (
        "sampler_log_probs", "old_log_probs", "ref_log_probs", "rewards", "values", "advantages",
        "returns",
    )  # fmt: skip
    sequences = ("scores", "bootstrap_values", "weights")
    return {
        "response_ids": Column("token", "int32"),
        "response_mask": Column("token", "bool"),
        **{name: Column("token", float_dtype) for name in tokens},
        **{name: Column("sequence", float_dtype) for name in sequences},
        "terminated": Column("sequence", "bool"),
        "truncated": Column("sequence", "bool"),
        "group_ids": Column("sequence", "int64"),
        "pair_labels": Column("sequence", "int8"),
        "policy_version": Column("sequence", "int64"),
        "agent_ids": Column("sequence", "int64"),
    }


def all_columns(
    own: Mapping[str, Column], float_dtype: str, reserved: set[str]
) -> dict[str, Column]:
    """Returns the built-in columns and an algorithm's own.

    Raises:
        ConfigError: an own column takes a name in use (`reserved` are the batch's attributes) or
            has a name that no attribute can have.
    """
    if float_dtype not in ("float32", "float64"):
        raise ConfigError(f"float_dtype is 'float32' or 'float64', not {float_dtype!r}.")
    builtin = builtin_columns(float_dtype)
    for name in own:
        if name in builtin or name in ALWAYS_READABLE or name in reserved or name == "prompt_ids":
            raise ConfigError(f"column '{name}' is taken by the buffer; choose another name.")
        if not name.isidentifier() or name.startswith("_"):
            raise ConfigError(f"column {name!r} is no attribute name; use letters, digits and _.")
    return {**builtin, **own}
