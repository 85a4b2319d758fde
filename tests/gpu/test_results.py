"""What comes out of the kernels on a CUDA device: the CPU's numbers, and always the same bits."""

import math

import pytest
import torch
from gpu_cases import CASES, FLOATS, LENGTH, NUM_TOKENS, ROWS, make_inputs, run, same_bits

from alignzoo import kernels

pytestmark = pytest.mark.gpu
every_case = pytest.mark.parametrize("name", CASES)
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)

# Relative to the largest number of an output.
BOUNDS = {torch.float32: 4e-6, torch.float64: 1e-12}


@every_case
@every_float
def test_results_and_gradients_are_those_of_the_cpu_within_the_bound(name, dtype):
    inputs = make_inputs(dtype, device="cpu")
    expected = run(CASES[name], inputs)
    found = run(CASES[name], {key: x.cuda() for key, x in inputs.items()})
    assert len(found) == len(expected)
    for one, truth in zip(found, expected, strict=True):
        one = one.cpu()
        assert (one.shape, one.dtype) == (truth.shape, truth.dtype)
        if not one.is_floating_point():
            # A float32 draw may fall on the other side of a border that rounding moved.
            assert (one != truth).sum() <= (len(one) // 10 if dtype == torch.float32 else 0)
            continue
        if CASES[name].name == "sample_tokens" and dtype == torch.float32:
            continue  # of those other draws
        scale = truth[truth.isfinite()].abs().max().clamp(min=1).item()
        torch.testing.assert_close(one, truth, rtol=0, atol=BOUNDS[dtype] * scale, equal_nan=True)


@every_case
@every_float
def test_a_hundred_runs_have_the_same_bits(name, dtype):
    inputs = make_inputs(dtype)
    expected = run(CASES[name], inputs)
    side = torch.cuda.Stream()
    for i in range(100):
        if i % 10 == 9:  # in other company
            with torch.cuda.stream(side):
                torch.randn(4096, 4096, device="cuda") @ torch.randn(4096, 4096, device="cuda")
        assert same_bits(run(CASES[name], inputs), expected), f"run {i}"
    side.synchronize()


BY_ROW = (
    "gae",
    "gae masked",
    "discounted_returns",
    "td_lambda_returns",
    "vtrace",
    "td_targets",
    "token_log_probs",
    "token_log_probs entropy",
    "kl_divergence",
    "max_and_gather",
)
PER_ROW = {
    "logits",
    "other_logits",
    "targets",
    "rewards",
    "values",
    "after",
    "new",
    "old",
    "holes",
    "is_end",
    "is_cut",
}


@pytest.mark.parametrize("name", BY_ROW)
@every_float
@pytest.mark.parametrize("kept", [[0], [17], [32], [5, 31, 4], list(range(32, -1, -1))], ids=len)
def test_a_row_has_the_same_bits_in_any_batch(name, dtype, kept):
    inputs = make_inputs(dtype)
    whole = run(CASES[name], inputs)
    rows = torch.tensor(kept, device="cuda")
    fewer = {key: x[rows] if key in PER_ROW else x for key, x in inputs.items()}
    assert same_bits(run(CASES[name], fewer), [x[rows] for x in whole])


@pytest.mark.parametrize("num_rows", [1, 3, 200, 5000, 20_000])
@every_float
def test_rows_of_tokens_have_the_same_bits_however_many_there_are(num_rows, dtype):
    # Each number of rows is spread over the device in another way.
    generator = torch.Generator(device="cuda").manual_seed(0)
    length = 40_000_000 // num_rows if num_rows < 5000 else 700
    length = min(length, 3_000_000)
    rewards, values = torch.randn(
        2, num_rows, length, dtype=dtype, device="cuda", generator=generator
    )
    options = {"gamma": 0.99, "gae_lambda": 0.95}
    whole = kernels.gae(rewards, values, **options)
    for b in {0, num_rows // 2, num_rows - 1}:
        alone = kernels.gae(rewards[b : b + 1].clone(), values[b : b + 1].clone(), **options)
        assert same_bits([*alone], [x[b : b + 1] for x in whole])


@pytest.mark.parametrize("name", [x for x in CASES if CASES[x].arrays[0] == "logits"])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16, torch.float16], ids=str)
def test_rows_that_lie_apart_and_at_any_address_have_the_same_bits(name, dtype):
    inputs = make_inputs(torch.float32)
    inputs |= {key: inputs[key].to(dtype) for key in ("logits", "other_logits")}
    expected = run(CASES[name], inputs)
    for gap in (1, 3, 8):
        wide = torch.full((ROWS, NUM_TOKENS + gap), math.nan, dtype=dtype, device="cuda")
        wide[:, gap:] = inputs["logits"]
        assert same_bits(run(CASES[name], inputs | {"logits": wide[:, gap:]}), expected)
    shifted = torch.stack([inputs["logits"]] * 2, dim=1)[:, 1]  # every other row of a larger array
    assert same_bits(run(CASES[name], inputs | {"logits": shifted}), expected)
    transposed = inputs["logits"].T.contiguous().T
    assert same_bits(run(CASES[name], inputs | {"logits": transposed}), expected)


def room_for(num_bytes: int) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < 1.2 * num_bytes:
        pytest.skip(f"{free >> 30} GiB of memory are free, too few")


MORE = 2**31 + 4099


@pytest.mark.parametrize("num_rows", [1, 3])
def test_scans_and_losses_of_more_than_2_31_elements_reach_the_last(num_rows):
    room_for(8 * 4 * MORE)
    length = MORE // num_rows
    rewards = torch.zeros(num_rows, length, device="cuda")
    rewards[:, -1] = 1
    advantages, returns = kernels.gae(rewards, torch.zeros_like(rewards), gamma=1.0, gae_lambda=1.0)
    assert bool((returns == 1).all())
    del advantages
    assert kernels.value_loss(returns, None, rewards)[0].item() == pytest.approx(
        0.5 * (length - 1) / length, rel=1e-6
    )
    del returns
    whitened, (count, mean, m2) = kernels.masked_whiten(rewards)
    assert count.item() == num_rows * length
    assert mean.item() == pytest.approx(1 / length, rel=1e-9)
    del whitened, m2
    value = kernels.huber(rewards)
    assert value[:, -1].tolist() == [0.5] * num_rows
    assert not value[:, :-1].any()


def test_logits_of_more_than_2_31_elements_reach_the_last_row():
    vocabulary = 131_101
    num_rows = MORE // vocabulary + 1
    room_for(3 * 2 * num_rows * vocabulary)
    logits = torch.zeros(num_rows, vocabulary, dtype=torch.bfloat16, device="cuda")
    logits[-1, -1] = 20
    logits.requires_grad_()
    targets = torch.full((num_rows,), vocabulary - 1, device="cuda")
    log_probs, entropy = kernels.token_log_probs(logits, targets, entropy=True)
    flat = -math.log(vocabulary)
    assert log_probs[:-1].tolist() == pytest.approx([flat] * (num_rows - 1), rel=1e-6)
    assert log_probs[-1].item() == pytest.approx(
        -math.log1p((vocabulary - 1) * math.exp(-20)), rel=1e-3
    )
    assert entropy[0].item() == pytest.approx(-flat, rel=1e-6)
    log_probs.sum().backward()
    rest = logits.grad[:-1, -1].float()
    assert rest.tolist() == pytest.approx([1.0] * (num_rows - 1), rel=1e-2)
    del rest, log_probs, entropy
    logits.grad = None
    _, argmax, _ = kernels.max_and_gather(logits.detach(), targets)
    assert argmax[-1].item() == vocabulary - 1
    assert not argmax[:-1].any()
    ids, _ = kernels.sample_tokens(logits.detach(), seed=0, temperature=0.5)
    assert ids[-1].item() == vocabulary - 1


def test_faults_stay_until_they_are_asked_for_and_are_told_once():
    q = torch.zeros(2, 7, device="cuda")
    kernels.max_and_gather(q, torch.tensor([0, 7], device="cuda"))
    kernels.max_and_gather(q, torch.tensor([0, 6], device="cuda"))
    kernels.sample_tokens(q + math.nan, seed=0)
    with pytest.raises(ValueError, match=r"actions.*no distribution"):
        kernels.check_faults()
    kernels.check_faults()


def test_tensors_of_the_cpu_and_the_device_together_are_refused_by_name():
    x = torch.zeros(ROWS, LENGTH)
    with pytest.raises((RuntimeError, TypeError, ValueError), match=r"^gae: .*`values`"):
        kernels.gae(x.cuda(), x, gamma=0.9, gae_lambda=0.9)
