"""The kernels on a CUDA device as citizens of torch: autograd, operators, torch.compile."""

import importlib

import pytest
import torch
from gpu_cases import CASES, forward, make_inputs, run, same_bits
from test_torch_ops import OPERATORS, ROW, X

from alignzoo import kernels

pytestmark = pytest.mark.gpu


def on_device(tree):
    """Arguments of an operator with every tensor on the device."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().cuda()
    return type(tree)(map(on_device, tree)) if isinstance(tree, list | tuple) else tree


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck_passes(name, dtype):
    importlib.import_module("alignzoo.kernels.torch_ops")
    arguments = on_device(OPERATORS[name](X.to(dtype), ROW.to(dtype)))
    torch.library.opcheck(getattr(torch.ops.alignzoo, name).default, arguments)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_code_has_the_bits_of_plain_code_without_a_graph_break(name, backend):
    inputs = make_inputs(torch.float32)
    held = inputs | {key: inputs[key].detach().requires_grad_() for key in CASES[name].wanted}
    torch.compiler.reset()
    traced = torch.compile(
        lambda given: forward(CASES[name], given), fullgraph=True, backend=backend
    )
    outputs = traced(held)
    moved = [x for x in outputs if x.requires_grad]
    grads = ()
    if moved:
        wanted = [held[key] for key in CASES[name].wanted]
        grads = torch.autograd.grad(moved, wanted, [torch.ones_like(x) for x in moved])
    assert same_bits([x.detach() for x in (*outputs, *grads)], run(CASES[name], inputs))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cuda")


TARGETS = torch.tensor([3, -100, 18, 0])
Y, Z, A = (
    torch.randn(4, 19, generator=torch.Generator().manual_seed(seed)).double() for seed in range(3)
)
CHECKED = {
    "token_log_probs": lambda x: kernels.token_log_probs(
        x, TARGETS.cuda(), temperature=0.8, entropy=True
    ),
    "linear_token_log_probs": lambda x: kernels.linear_token_log_probs(
        x, Y.cuda(), TARGETS.cuda().clamp(max=3), entropy=True, chunk_tokens=3
    ),
    "kl_divergence": lambda x: kernels.kl_divergence(x, Y.cuda(), temperature=0.8),
    "kl_divergence reverse": lambda x: kernels.kl_divergence(Y.cuda(), x, direction="reverse"),
    "max_and_gather": lambda x: kernels.max_and_gather(x, TARGETS.cuda().clamp(0))[::2],
    "policy_loss": lambda x: kernels.policy_loss(x, Y.cuda(), A.cuda(), clip_range=0.2)[0],
    "policy_loss sequence": lambda x: kernels.policy_loss(
        x, Y.cuda(), A.cuda(), clip_range=0.2, level="sequence", aggregate="sequence_mean"
    )[0],
    "value_loss": lambda x: kernels.value_loss(x, Y.cuda(), Z.cuda(), clip_range=0.3)[0],
    **{
        f"kl_penalty {name}": lambda x, name=name: kernels.kl_penalty(x, Y.cuda(), estimator=name)
        for name in ("k1", "k2", "k3", "abs")
    },
    "huber": lambda x: kernels.huber(x, delta=0.5),
}


@pytest.mark.parametrize("name", CHECKED)
def test_gradcheck_passes(name):
    assert torch.autograd.gradcheck(CHECKED[name], (normal(4, 19).requires_grad_(),))


def test_the_second_derivative_is_refused_in_words():
    x = normal(4, 19).requires_grad_()
    (grad,) = torch.autograd.grad(kernels.huber(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentia"):
        torch.autograd.grad(grad.square().sum() + x.sum(), x)


def test_logits_changed_between_forward_and_backward_are_noticed():
    logits = normal(3, 7).requires_grad_() * 1
    log_probs = kernels.token_log_probs(logits, torch.tensor([0, 1, 2], device="cuda"))
    logits.add_(1)
    with pytest.raises(RuntimeError, match=r"in-?place"):
        log_probs.sum().backward()
