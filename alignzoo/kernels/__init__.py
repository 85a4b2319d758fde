"""Fast building blocks of alignment algorithms: NumPy in, NumPy out; torch in, torch out.

Arrays are NumPy arrays, or torch tensors on the CPU or a CUDA device, float32 or float64; logits
and hidden states may be bfloat16 or float16, whose statistics come back in float32. Per-token
arrays are padded `[B, T]` with a `mask` (bool, or integers 0 and 1), or packed `[N]` with
`cu_seqlens` `[B + 1]`. What lies under a mask is never used in arithmetic, so it may be NaN, and
outputs there are 0. Empty arrays are legal.

Equal inputs give bitwise equal results for any number of threads (`ALIGNZOO_NUM_THREADS`), for any
batch around a row, and on AVX2 and AVX-512 alike. Sums run within a row from its start, then over
the rows in order, so padding at the right changes no bit. A wrong argument is a `TypeError` or
`ValueError` that names it, raised before any work.

On a CUDA device a function puts its work on torch's current stream and returns: it never waits, and
can be captured in a graph. Results are bitwise equal from run to run and for any batch around a
row, and within rounding of the CPU's. What only the data can tell (a target out of range) cannot be
raised without waiting: it gives NaN, and `check_faults()` tells.

`alignzoo.kernels.reference` has each function again in plain NumPy float64.
"""

from alignzoo.kernels.faults import check_faults
from alignzoo.kernels.logits import (
    kl_divergence,
    linear_token_log_probs,
    max_and_gather,
    sample_tokens,
    token_log_probs,
)
from alignzoo.kernels.losses import huber, kl_penalty, policy_loss, value_loss
from alignzoo.kernels.returns import (
    discounted_returns,
    gae,
    td_lambda_returns,
    td_targets,
    vtrace,
)
from alignzoo.kernels.statistics import group_advantages, masked_whiten

__all__ = [
    "check_faults",
    "discounted_returns",
    "gae",
    "group_advantages",
    "huber",
    "kl_divergence",
    "kl_penalty",
    "linear_token_log_probs",
    "masked_whiten",
    "max_and_gather",
    "policy_loss",
    "sample_tokens",
    "td_lambda_returns",
    "td_targets",
    "token_log_probs",
    "value_loss",
    "vtrace",
]
