"""linear_token_log_probs where all rows go through, as on a CUDA device, run on the CPU."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_exact_to
from pretend_cuda import no_waiting, pretend_cuda

from alignzoo import kernels
from alignzoo.kernels import linear, linear_torch

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NUM_ROWS, NUM_TOKENS, WIDTH = 23, 67, 6


@pytest.fixture
def all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_torch, "leaves_rows_out", lambda _: False)


def inputs(dtype: torch.dtype, has_bias: bool = True) -> dict[str, torch.Tensor]:
    """Ignored targets over NaN, and rows whose upstream gradients are 0."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"hidden": (NUM_ROWS, WIDTH), "weight": (NUM_TOKENS, WIDTH), "bias": (NUM_TOKENS,)}
    made = {name: torch.randn(s, generator=rng).to(dtype) for name, s in shapes.items()}
    if not has_bias:
        del made["bias"]
    made["targets"] = torch.randint(NUM_TOKENS, (NUM_ROWS,), generator=rng)
    made["targets"][::5] = -100
    made["hidden"][::5] = np.nan
    return made


def upstream(wide: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    g, h = torch.randn(2, NUM_ROWS, generator=torch.Generator().manual_seed(1)).to(wide)
    g[3:7] = h[3:7] = 0
    g[9], h[11] = 0, 0
    return g, h


def everything(made: dict[str, torch.Tensor], chunk_tokens: int | None) -> tuple[torch.Tensor, ...]:
    """Log-probs, entropies and all gradients."""
    leaves = {name: x.clone().requires_grad_() for name, x in made.items() if x.is_floating_point()}
    results = kernels.linear_token_log_probs(
        **leaves,
        targets=made["targets"],
        temperature=0.7,
        entropy=True,
        chunk_tokens=chunk_tokens,
    )
    torch.autograd.backward(results, upstream(results[0].dtype))
    return (*(x.detach() for x in results), *(leaf.grad for leaf in leaves.values()))


@pytest.mark.parametrize("chunk_tokens", [None, 1, 7, 23, 100])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_rows_give_what_the_rows_that_count_give(
    dtype: torch.dtype,
    has_bias: bool,
    chunk_tokens: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = inputs(dtype, has_bias)
    expected = everything(made, chunk_tokens)
    monkeypatch.setattr(linear_torch, "leaves_rows_out", lambda _: False)
    actual = everything(made, chunk_tokens)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.isfinite().all()
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=8 * eps, atol=8 * eps)
    assert (actual[2][::5] == 0).all()  # no gradient of ignored rows
    assert (actual[2][3:7] == 0).all()  # nor of those without an upstream


def test_gradients_of_nothing_are_zeros(all_rows: None) -> None:
    made = inputs(torch.float32)
    ignored = torch.full_like(made["targets"], -100)
    arguments = made["hidden"], made["weight"], made["bias"], ignored
    for ups in ((None, None), (torch.ones(NUM_ROWS), None)):
        found = linear_torch.backward(*arguments, *ups, (True,) * 3, 1.0, -100, 5)
        for gradient, like in zip(found, arguments, strict=False):
            assert gradient is not None
            assert gradient.shape == like.shape
            assert (gradient == 0).all()


def test_no_rows_give_no_log_probs_and_gradients_of_zero(all_rows: None) -> None:
    hidden, weight = torch.zeros(0, 3, requires_grad=True), torch.ones(5, 3, requires_grad=True)
    log_probs = kernels.linear_token_log_probs(hidden, weight, torch.zeros(0, dtype=torch.int64))
    assert log_probs.shape == (0,)
    log_probs.sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 0).all()


@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_only_gradients_that_are_asked_for_are_made(
    needs: tuple[bool, ...], all_rows: None
) -> None:
    made = inputs(torch.float64)
    arguments = made["hidden"], made["weight"], made["bias"], made["targets"]
    ups = upstream(torch.float64)
    every = linear_torch.backward(*arguments, *ups, (True,) * 3, 0.7, -100, 5)
    found = linear_torch.backward(*arguments, *ups, needs, 0.7, -100, 5)
    for need, one, other in zip(needs, found, every, strict=True):
        assert (one is not None) == need
        assert one is None or torch.equal(one, other)


def test_peak_memory_is_one_chunk_and_the_weights_sum(all_rows: None) -> None:
    from test_token_log_probs import LargestTensor

    hidden = torch.randn(64, 4, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(512, 4, dtype=torch.bfloat16, requires_grad=True)
    with LargestTensor() as largest:
        log_probs = kernels.linear_token_log_probs(hidden, weight, torch.arange(64), chunk_tokens=8)
        log_probs.sum().backward()
    assert 0 < largest.numel <= 8 * 512


def test_the_weights_gradient_is_rounded_once_however_many_chunks(all_rows: None) -> None:
    rng = torch.Generator().manual_seed(2)
    hidden = torch.randn(512, 8, generator=rng).bfloat16()
    weight = torch.randn(33, 8, generator=rng).bfloat16().requires_grad_()
    # All the same token, so that the sum grows to hundreds of times what a chunk adds.
    targets = torch.zeros(512, dtype=torch.int64)
    hidden[:, 0] = 4
    kernels.linear_token_log_probs(hidden, weight, targets, chunk_tokens=1).sum().backward()
    logits = hidden.double() @ weight.detach().double().T
    rounded = logits.bfloat16().double()
    by_logit = torch.nn.functional.one_hot(targets, 33) - rounded.softmax(-1)
    truth = by_logit.bfloat16().double().T @ hidden.double()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.double(), truth, rtol=2**-8, atol=1e-3)


@pytest.fixture
def products_with_a_dtype() -> Iterator[list[str]]:
    """torch's products that add below float32 into float32, which the CPU has not; their calls."""
    calls = []

    def mm(a, b, out_dtype, *, out):
        calls.append("mm")
        assert a.dtype == b.dtype == torch.bfloat16
        assert out.dtype == out_dtype == torch.float32
        return torch.mm(a.float(), b.float(), out=out)

    def addmm(total, a, b, out_dtype, *, beta=1, alpha=1, out):
        calls.append("addmm")
        assert total.data_ptr() == out.data_ptr()
        assert out.dtype == out_dtype == torch.float32
        return torch.addmm(total, a.float(), b.float(), beta=beta, alpha=alpha, out=out)

    library = torch.library.Library("aten", "IMPL")
    library.impl("mm.dtype_out", mm, "CPU")
    library.impl("addmm.dtype_out", addmm, "CPU")
    yield calls
    library._destroy()


@pytest.mark.skipif(torch.__version__ < "2.10", reason="torch adds in float32 from 2.10 on")
def test_products_that_add_in_float32_give_what_widening_gives(
    all_rows: None, products_with_a_dtype: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = inputs(torch.bfloat16)
    widened = everything(made, 7)
    assert not products_with_a_dtype
    monkeypatch.setattr(linear_torch, "adds_in_float32", lambda _: True)
    added = everything(made, 7)
    assert products_with_a_dtype == ["mm", "addmm", "addmm", "addmm"]
    for one, other in zip(added, widened, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("chunk_tokens", [None, 7])
def test_nothing_waits_for_a_device_or_leaves_it(chunk_tokens: int | None, monkeypatch) -> None:
    made = inputs(torch.bfloat16)
    arguments = made["hidden"], made["weight"], made["bias"], made["targets"]
    expected = everything(made, chunk_tokens)
    # Its products run on the CPU, which has none that add in float32.
    monkeypatch.setattr(linear_torch, "adds_in_float32", lambda _: False)
    with pretend_cuda():
        there = [x.to("cuda") for x in arguments]
        ups = [x.to("cuda") for x in upstream(torch.float32)]
        with no_waiting():
            results = linear_torch.forward(*there, True, 0.7, -100, chunk_tokens)
            gradients = linear_torch.backward(*there, *ups, (True,) * 3, 0.7, -100, chunk_tokens)
        for ours, theirs in zip((*results, *gradients), expected, strict=True):
            assert ours is not None
            assert ours.is_cuda
            torch.testing.assert_close(ours.cpu(), theirs, rtol=2**-6, atol=2**-6)


@given(st.integers(0, 10**6), st.integers(1, 300_000), st.sampled_from((2, 4, 8)))
def test_chunks_on_a_device_are_few_even_and_bounded(
    num_rows: int, vocabulary: int, itemsize: int
) -> None:
    size = linear.cuda_rows_per_chunk(None, num_rows, vocabulary, itemsize)
    assert size >= 1
    assert size * vocabulary * itemsize <= max(linear.CUDA_CHUNK_BYTES, vocabulary * itemsize)
    most = linear.CUDA_CHUNK_BYTES // (vocabulary * itemsize)
    if most >= linear.CUDA_TILE:
        assert size % linear.CUDA_TILE == 0 or num_rows == 0
        most -= most % linear.CUDA_TILE
    assert -(-num_rows // size) <= -(-num_rows // max(1, most))
    if num_rows > size > linear.CUDA_TILE:
        num_chunks = -(-num_rows // size)
        last = num_rows - (num_chunks - 1) * size
        assert size - last < num_chunks * linear.CUDA_TILE


def test_the_aimed_at_size_is_one_chunk_and_an_option_overrides() -> None:
    assert linear.cuda_rows_per_chunk(None, 4096, 128_256, 2) == 4096
    assert linear.cuda_rows_per_chunk(None, 4097, 128_256, 2) == 2176
    assert linear.cuda_rows_per_chunk(12, 4096, 128_256, 2) == 12


def test_tensors_of_two_devices_are_refused() -> None:
    hidden, weight = torch.zeros(2, 3), torch.zeros(5, 3, device="meta")
    with pytest.raises(ValueError, match="`weight` lies on meta but `hidden` on cpu"):
        kernels.linear_token_log_probs(hidden, weight, torch.zeros(2, dtype=torch.int64))


def test_float64_gradients_are_those_of_differences(all_rows: None) -> None:
    made = inputs(torch.float64)
    made["hidden"] = made["hidden"].nan_to_num(0.5)
    leaves = [made[name].requires_grad_() for name in ("hidden", "weight", "bias")]

    def run(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor):
        return kernels.linear_token_log_probs(
            hidden, weight, made["targets"], bias=bias, entropy=True, chunk_tokens=9
        )

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


def test_results_are_the_reference_to_1e12(all_rows: None) -> None:
    from alignzoo.kernels import reference

    made = inputs(torch.float64)
    truth = reference.linear_token_log_probs(
        *(made[name].numpy() for name in ("hidden", "weight", "targets")),
        bias=made["bias"].numpy(),
        temperature=0.7,
        entropy=True,
    )
    for ours, theirs in zip(everything(made, 9)[:2], truth, strict=True):
        assert_exact_to(ours, theirs, 1e-12, scale=1.0)
