"""The kernels as citizens of torch: autograd, subclasses, storage, devices."""

import pytest
import torch
from kernel_cases import bits

from alignzoo import kernels


def every_loss(logits: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """One scalar through every kernel with a backward; logits [6, 11], hidden [6, 4]."""
    targets = torch.tensor([0, 5, -100, 10, 3, 3])
    log_probs, entropy = kernels.token_log_probs(logits, targets, entropy=True)
    linear = kernels.linear_token_log_probs(hidden, weight, targets)
    new, old = log_probs.view(2, 3), linear.view(2, 3)
    policy, _ = kernels.policy_loss(new, old.detach(), new.detach() + 1, clip_range=0.2)
    value, _ = kernels.value_loss(old, new.detach(), new.detach(), clip_range=0.5)
    kl = kernels.kl_penalty(new, old.detach(), estimator="k3").mean()
    kl = kl + kernels.kl_divergence(logits, hidden @ weight.T, temperature=0.7).mean()
    largest, _, chosen = kernels.max_and_gather(logits, targets.clamp(0))
    return policy + value + kl + kernels.huber(entropy + largest - chosen, delta=0.1).sum()


def leaves() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 11), (6, 4), (11, 4))
    return [torch.randn(s, generator=generator).double().requires_grad_() for s in shapes]


def test_a_loss_through_every_kernel_has_the_gradient_of_its_differences():
    # log-prob-dependent constants are detached, so gradcheck would see another function: compare
    # with the same graph of plain torch operations instead.
    ours, theirs = leaves(), leaves()
    every_loss(*ours).backward()

    targets = torch.tensor([0, 5, 0, 10, 3, 3])
    counted = torch.tensor([1, 1, 0, 1, 1, 1]).bool()

    def picked(logits: torch.Tensor) -> torch.Tensor:
        chosen = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        return torch.where(counted, chosen, 0.0)

    logits, hidden, weight = theirs
    new, old = picked(logits), picked(hidden @ weight.T)
    log_p = logits.log_softmax(-1)
    entropy = torch.where(counted, -(log_p.exp() * log_p).sum(-1), 0.0)
    ratio, advantages = (new - old.detach()).exp(), new.detach() + 1
    policy = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    clipped = new.detach() + (old - new.detach()).clamp(-0.5, 0.5)
    squares = torch.maximum((old - new.detach()) ** 2, (clipped - new.detach()) ** 2)
    q = old.detach() - new
    sides = [(x / 0.7).log_softmax(-1) for x in (logits, hidden @ weight.T)]
    kl = (q.exp() - 1 - q).mean() + (sides[0].exp() * (sides[0] - sides[1])).sum(-1).mean()
    advantage = logits.max(-1).values - logits.gather(-1, targets[:, None])[:, 0]
    huber = torch.nn.functional.huber_loss(
        entropy + advantage, torch.zeros_like(entropy), reduction="sum", delta=0.1
    )
    (policy + 0.5 * squares.mean() + kl + huber).backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-13)


def test_backward_twice_through_a_kept_graph_gives_the_same_bits():
    held = leaves()
    loss = every_loss(*held)
    first = torch.autograd.grad(loss, held, retain_graph=True)
    second = torch.autograd.grad(loss, held)
    assert [bits(x) for x in first] == [bits(x) for x in second]


X = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
DIFFERENTIABLE = {
    "token_log_probs": lambda x: kernels.token_log_probs(x, torch.tensor([1, 2])),
    "entropy": lambda x: kernels.token_log_probs(x, torch.tensor([1, 2]), entropy=True)[1],
    "linear_token_log_probs": lambda x: kernels.linear_token_log_probs(x, X, torch.tensor([1, 0])),
    "policy_loss": lambda x: kernels.policy_loss(x, X, X, clip_range=0.2)[0],
    "value_loss": lambda x: kernels.value_loss(x, X, X)[0],
    "kl_penalty": lambda x: kernels.kl_penalty(x, X, estimator="k3"),
    "huber": kernels.huber,
    "kl_divergence": lambda x: kernels.kl_divergence(x, X),
    "kl_divergence_reverse": lambda x: kernels.kl_divergence(X, x, direction="reverse"),
}


@pytest.mark.parametrize("name", sorted(DIFFERENTIABLE))
def test_the_second_derivative_is_refused_in_words(name):
    held = (X + 0.1).requires_grad_()
    with pytest.raises(RuntimeError, match="differentia"):  # noqa: PT012, at either of the two
        (grad,) = torch.autograd.grad(DIFFERENTIABLE[name](held).sum(), held, create_graph=True)
        torch.autograd.grad(grad.square().sum() + held.sum(), held)


def test_max_and_gather_is_linear_and_refuses_what_is_not():
    held = (X + 0.1).requires_grad_()
    largest, _, chosen = kernels.max_and_gather(held, torch.tensor([1, 2]))
    (grad,) = torch.autograd.grad((largest + chosen).sum(), held, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum() + held.sum(), held)
    assert torch.equal(second, torch.ones_like(held))
    with pytest.raises(RuntimeError, match="differentia"):  # noqa: PT012, at either of the two
        (grad,) = torch.autograd.grad((largest * chosen).sum(), held, create_graph=True)
        torch.autograd.grad(grad.square().sum(), held)


def test_logits_changed_between_forward_and_backward_are_noticed():
    logits = torch.randn(3, 7, requires_grad=True) * 1
    log_probs = kernels.token_log_probs(logits, torch.tensor([0, 1, 2]))
    logits.add_(1)
    with pytest.raises(RuntimeError, match=r"in-?place"):
        log_probs.sum().backward()


def test_nothing_is_recorded_where_no_gradient_is_wanted():
    held = leaves()
    with torch.no_grad():
        assert not every_loss(*held).requires_grad
    assert not every_loss(*(x.detach() for x in held)).requires_grad
    x, factors = torch.randn(2, 3, requires_grad=True), {"gamma": 0.9}
    for output in (
        *kernels.gae(x, x, gae_lambda=0.9, **factors),
        kernels.td_lambda_returns(x, x, td_lambda=0.9, **factors),
        *kernels.vtrace(x, x, x, x, **factors),
        kernels.td_targets(x, x, **factors),
    ):
        assert not output.requires_grad


def test_parameters_and_subclasses_of_tensors_are_accepted():
    class Tagged(torch.Tensor):
        pass

    x = torch.randn(3, 5)
    expected = bits(kernels.huber(x))
    assert bits(kernels.huber(torch.nn.Parameter(x))) == expected
    assert bits(kernels.huber(x.as_subclass(Tagged))) == expected


def test_tensors_with_expanded_and_offset_storage_are_read_in_place_or_copied():
    row = torch.randn(1, 9)
    expanded, copied = row.expand(4, 9), row.repeat(4, 1)
    options = {"gamma": 0.9, "gae_lambda": 0.9}
    for one, other in zip(
        kernels.gae(expanded, expanded, **options),
        kernels.gae(copied, copied, **options),
        strict=True,
    ):
        assert bits(one) == bits(other)
    window = torch.randn(8, 21)[2:6, 5:14]
    assert bits(kernels.huber(window)) == bits(kernels.huber(window.clone()))


def test_tensors_of_another_device_are_refused_in_one_clear_line():
    x = torch.zeros(3, 5, device="meta")
    with pytest.raises((RuntimeError, TypeError, ValueError), match="rewards"):
        kernels.gae(x, x, gamma=0.9, gae_lambda=0.9)
