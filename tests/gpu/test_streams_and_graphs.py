"""The kernels as work on a stream: ordered, captured, without waiting and without other devices."""

import pytest
import torch
from gpu_cases import CASES, FLOATS, LOGIT_CASES, forward, make_inputs, run, same_bits

from alignzoo import kernels

pytestmark = pytest.mark.gpu
every_case = pytest.mark.parametrize("name", CASES)


def keep_busy(milliseconds: float = 50) -> None:
    """Work on the current stream that takes about so long."""
    torch.cuda._sleep(int(milliseconds * 1.5e6))


@every_case
def test_work_on_a_side_stream_waits_for_what_is_there_and_for_nothing_else(name):
    inputs = make_inputs(torch.float32)
    expected = run(CASES[name], inputs)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    late = {key: torch.zeros_like(x) for key, x in inputs.items()}
    late["starts"].copy_(inputs["starts"])
    torch.cuda.synchronize()
    keep_busy(200)  # the default stream has work of its own
    with torch.cuda.stream(side):
        keep_busy()
        for key, x in inputs.items():  # what comes in is written on this stream, late
            late[key].copy_(x)
        found = run(CASES[name], late)
    side.synchronize()
    is_default_busy = not torch.cuda.default_stream().query()
    assert same_bits(found, expected)
    assert is_default_busy, "the call waited for another stream"


@every_case
def test_a_call_neither_waits_nor_asks_the_driver_for_memory(name):
    inputs = make_inputs(torch.float32)
    held = {key: x.detach() for key, x in inputs.items()}
    for key in CASES[name].wanted:
        held[key] = held[key].requires_grad_()

    def call():
        outputs = [x for x in forward(CASES[name], held) if x.requires_grad]
        if outputs:
            ups = [torch.ones_like(x) for x in outputs]
            wanted = [held[key] for key in CASES[name].wanted]
            torch.autograd.grad(outputs, wanted, ups)

    for _ in range(3):
        call()
    torch.cuda.synchronize()
    reserved = torch.cuda.memory_stats()["num_device_alloc"]
    before = torch.cuda.current_stream()
    keep_busy(500)
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not before.query(), "the call waited for the stream"
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["num_device_alloc"] == reserved


@every_case
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_captured_call_and_its_gradient_replay_on_other_inputs(name, dtype):
    first, second = (make_inputs(dtype, seed) for seed in (0, 1))
    expected = run(CASES[name], second)
    static = {key: x.clone() for key, x in first.items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run(CASES[name], static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run(CASES[name], static)
    for key, x in second.items():
        static[key].copy_(x)
    graph.replay()
    assert same_bits(outputs, expected)
    for key, x in first.items():
        static[key].copy_(x)
    graph.replay()
    assert same_bits(outputs, run(CASES[name], first))


@every_case
def test_another_device_than_the_current_one_is_the_tensors_own(name):
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    expected = run(CASES[name], make_inputs(torch.float32, device="cuda:0"))
    with torch.cuda.device(0):
        found = run(CASES[name], make_inputs(torch.float32, device="cuda:1"))
        assert torch.cuda.current_device() == 0
    assert all(x.device.index == 1 for x in found)
    assert same_bits([x.to("cuda:0") for x in found], expected)
    kernels.check_faults(1)


@pytest.mark.parametrize("name", LOGIT_CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_are_captured_too(name, dtype):
    inputs = make_inputs(torch.float32) | {
        key: x.to(dtype)
        for key, x in make_inputs(torch.float32).items()
        if key in ("logits", "other_logits")
    }
    expected = run(CASES[name], inputs)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        outputs = run(CASES[name], inputs)
    graph.replay()
    assert same_bits(outputs, expected)


def test_faults_inside_a_replayed_graph_are_noted_and_told_once():
    logits = torch.randn(4, 11, device="cuda")
    targets = torch.zeros(4, dtype=torch.int64, device="cuda")
    kernels.token_log_probs(logits, targets)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        log_probs = kernels.token_log_probs(logits, targets)
    graph.replay()
    kernels.check_faults()
    targets[2] = 11
    graph.replay()
    with pytest.raises(ValueError, match="targets"):
        kernels.check_faults()
    assert log_probs.isnan().tolist() == [False, False, True, False]
    targets[2] = 0
    graph.replay()
    kernels.check_faults()
    assert log_probs.isfinite().all()
