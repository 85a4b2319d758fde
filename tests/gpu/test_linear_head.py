"""linear_token_log_probs below float32 on a CUDA device: its sums, its chunks, its memory."""

import pytest
import torch
from kernel_bounds import assert_at_most_twice_the_error
from test_token_log_probs import log_probs_in_torch

from alignzoo import kernels
from alignzoo.kernels import linear, linear_torch, reference

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
DTYPES = [torch.bfloat16, torch.float16]
half_types = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def make(
    dtype: torch.dtype, num_rows: int = 96, num_tokens: int = 523, width: int = 64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weight, and targets of which some are ignored, over NaN."""
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_rows, width, generator=rng)
    weight = torch.randn(num_tokens, width, generator=rng) * width**-0.5
    targets = torch.randint(num_tokens, (num_rows,), generator=rng)
    targets[::7] = -100
    hidden[::7] = torch.nan
    return hidden.to(DEVICE, dtype), weight.to(DEVICE, dtype), targets.to(DEVICE)


def upstream(num_rows: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(2, num_rows, generator=rng).to(DEVICE)


def everything(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    chunk_tokens: int | None = None,
) -> list[torch.Tensor]:
    """Log-probs, entropies, and the gradients of the hidden states and of the weight."""
    leaves = [x.detach().requires_grad_() for x in (hidden, weight)]
    results = kernels.linear_token_log_probs(
        *leaves, targets, entropy=True, chunk_tokens=chunk_tokens
    )
    gradients = torch.autograd.grad(results, leaves, tuple(upstream(len(hidden))))
    return [x.detach() for x in (*results, *gradients)]


@half_types
def test_errors_are_at_most_twice_torchs(dtype):
    hidden, weight, targets = make(dtype)
    ups = upstream(len(hidden))
    counted = targets >= 0
    ours = everything(hidden, weight, targets, 32)
    leaves = [x.detach().requires_grad_() for x in (hidden[counted], weight)]
    theirs = log_probs_in_torch((leaves[0] @ leaves[1].T).float(), targets[counted])
    gradients = torch.autograd.grad(theirs, leaves, tuple(ups[:, counted]))
    doubles = [x.detach().double().cpu() for x in leaves]
    inputs = (*doubles, targets[counted].cpu())
    truth = reference.linear_token_log_probs(*inputs, entropy=True)
    truth_gradients = reference.linear_token_log_probs_grad(*inputs, *ups[:, counted].cpu())[:2]
    found = [x[counted] for x in ours[:3]] + [ours[3]]
    for one, other, right in zip(
        found, (*theirs, *gradients), (*truth, *truth_gradients), strict=True
    ):
        assert_at_most_twice_the_error(one.float().cpu(), other.detach().float().cpu(), right)
    assert all((x[~counted] == 0).all() for x in ours[:3])


@half_types
@pytest.mark.parametrize("chunk_tokens", [None, 1, 13, 96])
def test_sums_in_float32_by_the_product_are_those_of_widened_inputs(
    dtype, chunk_tokens, monkeypatch
):
    made = make(dtype)
    assert torch.__version__ < "2.10" or linear_torch.adds_in_float32(made[0])
    ours = everything(*made, chunk_tokens)
    monkeypatch.setattr(linear_torch, "adds_in_float32", lambda _: False)
    widened = everything(*made, chunk_tokens)
    for one, other in zip(ours, widened, strict=True):
        torch.testing.assert_close(one, other, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@half_types
def test_the_number_of_chunks_changes_results_by_rounding_only(dtype):
    made = make(dtype)
    whole = everything(*made)
    eps = torch.finfo(dtype).eps
    for chunk_tokens in (1, 13, 64):
        for one, other in zip(everything(*made, chunk_tokens), whole, strict=True):
            scale = float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=4 * eps, atol=4 * eps * scale)


@half_types
def test_a_captured_call_replays_the_same_bits(dtype):
    made = make(dtype)
    expected = everything(*made, 32)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        everything(*made, 32)
    torch.cuda.current_stream().wait_stream(side)
    ups = tuple(upstream(96))  # a copy from the host cannot be captured
    leaves = [x.detach().requires_grad_() for x in made[:2]]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = kernels.linear_token_log_probs(*leaves, made[2], entropy=True, chunk_tokens=32)
        gradients = torch.autograd.grad(results, leaves, ups)
    graph.replay()
    for one, other in zip((*results, *gradients), expected, strict=True):
        assert torch.equal(one, other)


@half_types
def test_nothing_waits_for_the_device(dtype):
    hidden, weight, targets = make(dtype)
    ups = tuple(upstream(96))
    leaves = [x.detach().requires_grad_() for x in (hidden, weight)]

    def call() -> None:
        results = kernels.linear_token_log_probs(*leaves, targets, entropy=True, chunk_tokens=32)
        torch.autograd.grad(results, leaves, ups)

    call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_peak_memory_is_a_chunk_and_the_weights_sum_beside_the_results():
    num_rows, num_tokens, width = 20_000, 65_536, 512  # [N, V] would be 2.6 GB
    hidden = torch.randn(num_rows, width, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(num_tokens, width, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    targets = torch.randint(num_tokens, (num_rows,), device=DEVICE)
    chunk = 2 * num_tokens * linear.cuda_rows_per_chunk(None, num_rows, num_tokens, 2)
    assert chunk <= linear.CUDA_CHUNK_BYTES < 2 * num_rows * num_tokens
    total, results = 4 * weight.numel(), 2 * (weight.numel() + hidden.numel())
    for _ in range(2):  # the first makes cuBLAS's workspace, too
        hidden.grad = weight.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kernels.linear_token_log_probs(hidden, weight, targets).sum().backward()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
    small = 64 << 20  # hidden states of a chunk, statistics, workspaces
    assert extra <= chunk + total + results + small
