"""Batches for the losses, and their gradients."""

import torch
from kernel_cases import make_mask

AGGREGATES = ("token_mean", "sequence_mean", "sequence_sum_norm", "token_sum")


def value_and_grad(function, leaf, *others, **options):
    """A loss, its statistics, and its gradient in the first argument."""
    held = leaf.clone().requires_grad_()
    loss, stats = function(held, *others, **options)
    loss.backward()
    return loss.detach(), stats, held.grad


def batch_of_losses(rng, num_rows=8, length=13):
    """The arrays of policy_loss in float64, and a ragged mask with holes."""
    arrays = rng.normal(size=(3, num_rows, length)) * 0.4
    mask = make_mask("right_padded", (num_rows, length), rng) & (
        rng.random((num_rows, length)) < 0.8
    )
    mask[:, 0] = True
    return [torch.from_numpy(x) for x in (*arrays, mask)]
