"""Which gradients the losses give, and to whom."""

import numpy as np
import pytest
import torch
from kernel_bounds import assert_exact_to
from kernel_device import kernels
from loss_cases import value_and_grad


def losses_away_from_kinks(rng):
    """Scalar functions of one [3, 7] tensor, smooth around the tensor given."""
    old, advantages, weights = (
        torch.tensor(x)
        for x in (rng.normal(size=(3, 7)), rng.normal(size=(3, 7)), rng.random((3, 7)))
    )
    mask = torch.tensor(rng.random((3, 7)) < 0.7)
    clip = {"clip_range": 0.2, "clip_range_high": 0.3}

    def policy(**options):
        return lambda x: kernels.policy_loss(x, old, advantages, mask, **(clip | options))[0]

    return {
        "clip": policy(),
        "dual_clip": policy(dual_clip=1.5),
        "sequence": policy(level="sequence", aggregate="sequence_mean"),
        "sequence_plain": policy(level="sequence", kind="plain", behaviour_weights=weights),
        "plain": policy(kind="plain", behaviour_weights=weights),
        "sequence_sum_norm": policy(aggregate="sequence_sum_norm", denominator=11),
        "token_sum": policy(aggregate="token_sum"),
        "value": lambda x: kernels.value_loss(x, old, advantages, mask, clip_range=0.3)[0],
        "huber": lambda x: kernels.huber(x, delta=0.5),
        **{
            name: lambda x, name=name: kernels.kl_penalty(x, old, estimator=name)
            for name in ("k1", "k2", "k3", "abs")
        },
    }


@pytest.mark.parametrize("name", sorted(losses_away_from_kinks(np.random.default_rng(0))))
def test_gradcheck_passes(name):
    function = losses_away_from_kinks(np.random.default_rng(0))[name]
    x = torch.tensor(np.random.default_rng(1).normal(size=(3, 7)), requires_grad=True)
    assert torch.autograd.gradcheck(function, (x,))


def test_an_upstream_gradient_scales_the_gradient():
    rng = np.random.default_rng(2)
    new, old, advantages = torch.from_numpy(rng.normal(size=(3, 4, 5)))
    _, _, grad = value_and_grad(kernels.policy_loss, new, old, advantages, clip_range=0.2)
    held = new.clone().requires_grad_()
    loss, _ = kernels.policy_loss(held, old, advantages, clip_range=0.2)
    (-3 * loss).backward()
    assert_exact_to(held.grad, -3 * grad.numpy(), 1e-15)


def test_statistics_carry_no_gradient_and_are_at_least_float32():
    new = torch.randn(2, 3, requires_grad=True)
    old, advantages = torch.randn(2, 2, 3)
    for function, options in ((kernels.policy_loss, {"clip_range": 0.2}), (kernels.value_loss, {})):
        loss, stats = function(new, old, advantages, **options)
        assert loss.requires_grad
        assert loss.shape == ()
        for value in stats.values():
            assert not value.requires_grad
            assert value.dtype in (torch.float32, torch.float64)


def test_gradients_go_to_the_current_policy_and_values_alone():
    tensors = [torch.randn(2, 3, requires_grad=True) for _ in range(4)]
    new, old, advantages, weights = tensors
    loss, _ = kernels.policy_loss(new, old, advantages, clip_range=0.2, behaviour_weights=weights)
    loss.backward()
    assert new.grad is not None
    assert all(x.grad is None for x in (old, advantages, weights))
