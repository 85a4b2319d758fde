"""The kernels as citizens of torch: autograd, compile, subclasses, devices, Python threads."""

import importlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
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
    return policy + value + kl + kernels.huber(entropy, delta=0.1).sum()


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
    penalty = (q.exp() - 1 - q).mean()
    huber = torch.nn.functional.huber_loss(
        entropy, torch.zeros_like(entropy), reduction="sum", delta=0.1
    )
    (policy + 0.5 * squares.mean() + penalty + huber).backward()
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
}


@pytest.mark.parametrize("name", sorted(DIFFERENTIABLE))
def test_the_second_derivative_is_refused_in_words(name):
    held = (X + 0.1).requires_grad_()
    with pytest.raises(RuntimeError, match="differentia"):  # noqa: PT012, at either of the two
        (grad,) = torch.autograd.grad(DIFFERENTIABLE[name](held).sum(), held, create_graph=True)
        torch.autograd.grad(grad.square().sum() + held.sum(), held)


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
    values = torch.randn(2, 3, requires_grad=True)
    for output in kernels.gae(values, values, gamma=0.9, gae_lambda=0.9):
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


def test_unaligned_numpy_arrays_are_read_right():
    x = np.random.default_rng(0).normal(size=(3, 17)).astype(np.float32)
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(3, 17)
    assert not unaligned.flags.aligned
    assert bits(kernels.huber(unaligned)) == bits(kernels.huber(x))
    for one, other in zip(
        kernels.gae(unaligned, unaligned, gamma=0.9, gae_lambda=0.9),
        kernels.gae(x, x, gamma=0.9, gae_lambda=0.9),
        strict=True,
    ):
        assert bits(one) == bits(other)


def test_tensors_of_another_device_are_refused_in_one_clear_line():
    x = torch.zeros(3, 5, device="meta")
    with pytest.raises((RuntimeError, TypeError, ValueError), match="rewards"):
        kernels.gae(x, x, gamma=0.9, gae_lambda=0.9)


def test_python_threads_that_call_at_once_get_the_bits_of_one():
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=(64, 2003)).astype(np.float32), rng.integers(0, 2003, 64)
    rewards, values = rng.normal(size=(2, 64, 1031)).astype(np.float32)

    def compute(_: int) -> list[bytes]:
        outputs = [
            *kernels.token_log_probs(logits, targets, entropy=True),
            *kernels.gae(rewards, values, gamma=0.99, gae_lambda=0.95),
            kernels.policy_loss(rewards, values, values, clip_range=0.2)[0],
        ]
        return [bits(x) for x in outputs]

    expected = compute(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(compute, range(24)))


@pytest.mark.filterwarnings("error:alignzoo")
def test_compiled_code_takes_the_kernels_without_a_graph_break():
    held, compiled_held = leaves(), leaves()
    loss = every_loss(*held)
    loss.backward()
    compiled = torch.compile(every_loss, fullgraph=True, backend="aot_eager")
    compiled_loss = compiled(*compiled_held)
    compiled_loss.backward()
    assert compiled_loss.item() == pytest.approx(loss.item(), rel=1e-12)
    for one, other in zip(held, compiled_held, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-14)


def test_compiled_code_takes_the_kernels_without_gradient():
    def prepare(rewards, values, mask, scores, group_ids, logits):
        advantages, returns = kernels.gae(rewards, values, gamma=0.9, gae_lambda=0.9, mask=mask)
        whitened, _ = kernels.masked_whiten(advantages, mask)
        summed = kernels.discounted_returns(rewards, gamma=0.9, mask=mask)
        grouped = kernels.group_advantages(scores, group_ids, mode="rloo")
        ids, log_probs = kernels.sample_tokens(logits, seed=3)
        return whitened, returns, summed, grouped, ids, log_probs

    inputs = (
        torch.randn(4, 6),
        torch.randn(4, 6),
        torch.rand(4, 6) < 0.7,
        torch.randn(4),
        torch.tensor([0, 0, 1, 1]),
        torch.randn(4, 9),
    )
    compiled = torch.compile(prepare, fullgraph=True, backend="aot_eager")
    for one, other in zip(prepare(*inputs), compiled(*inputs), strict=True):
        assert bits(one) == bits(other)


OPERATORS = {
    "gae": lambda x: (x, x, 0.9, 0.9, x > 0, None, None, x[:, 0].clone(), None, None, "carry"),
    "discounted_returns": lambda x: (x, 0.9, x > 0, None, None, None, None, "zero"),
    "masked_whiten": lambda x: (x, x > 0, True, 1, 1e-8, None, None),
    "group_advantages": lambda x: (x[0], torch.arange(7) // 2, "grpo", 1e-6, 1),
    "token_log_probs": lambda x: (x, torch.tensor([0, -100, 6]), 0.9, True, -100, True),
    "linear_token_log_probs": lambda x: (x, x, None, torch.arange(3), True, 1.0, -100, 2),
    "sample_tokens": lambda x: (x, 1.0, 3, 0.9, 1, 2, None),
    "policy_loss": lambda x: (
        *(x, x, x, x > 0, 0.2, None, None, "token", "token_mean", None, None, "clip", None, True),
    ),
    "value_loss": lambda x: (x, x, x, None, 0.2, None, None, True),
    "kl_penalty": lambda x: (x, x, "k3", True),
    "huber": lambda x: (x, 1.0, True),
}


@pytest.mark.parametrize("name", sorted(OPERATORS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck_passes(name, dtype):
    importlib.import_module("alignzoo.kernels.torch_ops")  # registers the operators
    operator = getattr(torch.ops.alignzoo, name).default
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(2)).to(dtype)
    torch.library.opcheck(operator, OPERATORS[name](x))
