"""Every kernel again in plain NumPy float64, slow and obvious: the truth that tests compare with.

Same names and arguments as `alignzoo.kernels`, whose docstrings cite the papers. Input is anything
NumPy can convert, output is float64. A function with a backward has a twin `<name>_grad` that
returns the gradient written out by hand. Arguments are checked only where the check is part of the
definition; every other check belongs to the kernels.
"""

from alignzoo.kernels.reference.advantages import (
    discounted_returns,
    gae,
    group_advantages,
    masked_whiten,
    td_lambda_returns,
    td_targets,
    vtrace,
)
from alignzoo.kernels.reference.log_probs import (
    kl_divergence,
    kl_divergence_grad,
    linear_token_log_probs,
    linear_token_log_probs_grad,
    max_and_gather,
    max_and_gather_grad,
    philox,
    sample_distribution,
    sample_tokens,
    token_log_probs,
    token_log_probs_grad,
    uniform,
)
from alignzoo.kernels.reference.losses import (
    huber,
    huber_grad,
    kl_penalty,
    kl_penalty_grad,
    policy_loss,
    policy_loss_grad,
    value_loss,
    value_loss_grad,
)

__all__ = [
    "discounted_returns",
    "gae",
    "group_advantages",
    "huber",
    "huber_grad",
    "kl_divergence",
    "kl_divergence_grad",
    "kl_penalty",
    "kl_penalty_grad",
    "linear_token_log_probs",
    "linear_token_log_probs_grad",
    "masked_whiten",
    "max_and_gather",
    "max_and_gather_grad",
    "philox",
    "policy_loss",
    "policy_loss_grad",
    "sample_distribution",
    "sample_tokens",
    "td_lambda_returns",
    "td_targets",
    "token_log_probs",
    "token_log_probs_grad",
    "uniform",
    "value_loss",
    "value_loss_grad",
    "vtrace",
]
