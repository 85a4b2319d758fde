"""The kernels under torch.compile, and as operators of torch."""

import importlib

import pytest
import torch
from every_kernel import KERNELS
from kernel_cases import TEST_DEVICE, bits, leaves
from kernel_device import faults

from alignzoo import kernels

DIFFERENTIABLE = {
    "token_log_probs": ("logits",),
    "linear_token_log_probs": ("hidden", "weight", "bias"),
    "kl_divergence": ("logits_p", "logits_q"),
    "max_and_gather": ("q",),
    "policy_loss": ("log_probs",),
    "value_loss": ("values",),
    "kl_penalty": ("log_probs",),
    "huber": ("x",),
}


def tensors_and_options(name: str, is_packed: bool) -> tuple[dict, dict]:
    """Good arguments: tensors, those that a gradient goes to recording it, and the rest."""
    arguments = KERNELS[name].good("torch", is_packed)
    tensors = {key: x for key, x in arguments.items() if isinstance(x, torch.Tensor)}
    for key in DIFFERENTIABLE.get(name, ()):
        tensors[key].requires_grad_()
    return tensors, {key: x for key, x in arguments.items() if key not in tensors}


def outputs_and_gradients(name: str, function, tensors: dict) -> list[torch.Tensor]:
    """What the function gives, and the gradients of the sum of its first output's squares."""
    outputs = leaves(function(tensors))
    wanted = [tensors[key] for key in DIFFERENTIABLE.get(name, ())]
    if not wanted:
        return outputs
    loss = sum(x.square().sum() for x in outputs if x.requires_grad)
    return [*outputs, *torch.autograd.grad(loss, wanted)]


PADDED = [(name, False) for name in KERNELS]
PACKED = [(name, True) for name in KERNELS if "cu_seqlens" in KERNELS[name].parameters]


@pytest.mark.parametrize(("name", "is_packed"), PADDED + PACKED)
@pytest.mark.filterwarnings("error:alignzoo")
def test_compiled_code_has_the_bits_of_plain_code_without_a_graph_break(name, is_packed):
    tensors, options = tensors_and_options(name, is_packed)

    def function(given):
        return getattr(kernels, name)(**given, **options)

    torch.compiler.reset()
    plain = outputs_and_gradients(name, function, tensors)
    # Once with the sizes as constants of the graph, once as its variables.
    traced = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=not is_packed)
    found = outputs_and_gradients(name, traced, tensors)
    assert [bits(x) for x in found] == [bits(x) for x in plain]


@pytest.mark.parametrize("number", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_compiled_draws_take_every_seed_and_offset(number):
    def draw(logits):
        return kernels.sample_tokens(logits, seed=number, offset=number)

    logits = torch.zeros(5, 40)
    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    for one, other in zip(draw(logits), compiled(logits), strict=True):
        assert bits(one) == bits(other)


def test_compiled_code_refuses_what_plain_code_refuses():
    compiled = torch.compile(kernels.token_log_probs, fullgraph=True, backend="aot_eager")
    for targets in (torch.tensor([0, 7, 1]), torch.tensor([0, -1, 1])):
        if TEST_DEVICE == "emulated":
            with faults("outside the vocabulary"):
                assert compiled(X, targets).isnan().tolist() == [False, True, False]
            continue
        with pytest.raises(ValueError, match=r"^token_log_probs: `targets`"):
            compiled(X, targets)


X = torch.randn(3, 7, generator=torch.Generator().manual_seed(2))
ROW = X[:, 0].clone()
OPERATORS = {
    "gae": lambda x, b: (x, x, 0.9, 0.9, x > 0, None, None, b, None, None, "carry"),
    "discounted_returns": lambda x, b: (x, 0.9, x > 0, None, None, b, None, "zero"),
    "td_lambda_returns": lambda x, b: (x, x, 0.9, 0.9, x > 0, None, None, b, None, None, "carry"),
    "vtrace": lambda x, b: (
        *(x, x, x, x, 0.9, 0.9, 1.0, 1.0, 1.0, x > 0, None, None, b, None, None, "carry"),
    ),
    "td_targets": lambda x, b: (x, x, 0.9, x > 0, 2),
    "masked_whiten": lambda x, b: (x, x > 0, True, 1, 1e-8, None, None),
    "group_advantages": lambda x, b: (x[0], torch.arange(7) // 2, "grpo", 1e-6, 1),
    "token_log_probs": lambda x, b: (x, torch.tensor([0, -100, 6]), 0.9, True, -100, True),
    "token_log_probs_backward": lambda x, b: (
        *(x, torch.arange(3), 0.9, -100),
        *(torch.ops.alignzoo.token_log_probs(x, torch.arange(3), 0.9, True, -100, True)[2], b, b),
    ),
    "kl_divergence": lambda x, b: (x, x + 1, "forward", 0.9, True),
    "kl_divergence_backward": lambda x, b: (
        *(x, x.flip(-1), "reverse", 0.9),
        torch.ops.alignzoo.kl_divergence(x, x.flip(-1), "reverse", 0.9, True)[1],
        *(b, True, False),
    ),
    "max_and_gather": lambda x, b: (x, torch.arange(3)),
    "linear_token_log_probs": lambda x, b: (x, x, None, torch.arange(3), True, 1.0, -100, 2),
    "linear_token_log_probs_backward": lambda x, b: (
        *(x, x, None, torch.arange(3), b, b, [True, True, False], 1.0, -100, 2),
    ),
    "sample_tokens": lambda x, b: (x, 1.0, 3, 0.9, 1, 2, None),
    "policy_loss": lambda x, b: (
        *(x, x, x, x > 0, 0.2, None, None, "token", "token_mean", None, None, "clip", None, True),
    ),
    "value_loss": lambda x, b: (x, x, x, None, 0.2, None, None, True),
    "kl_penalty": lambda x, b: (x, x, "k3", True),
    "huber": lambda x, b: (x, 1.0, True),
}


def test_every_operator_has_a_case_here():
    importlib.import_module("alignzoo.kernels.torch_ops")  # registers the operators
    schemas = torch._C._jit_get_all_schemas()
    defined = [schema.name.split("::") for schema in schemas]
    assert {name for library, name in defined if library == "alignzoo"} == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck_passes(name, dtype):
    importlib.import_module("alignzoo.kernels.torch_ops")
    arguments = OPERATORS[name](X.to(dtype), ROW.to(dtype))
    torch.library.opcheck(getattr(torch.ops.alignzoo, name).default, arguments)
