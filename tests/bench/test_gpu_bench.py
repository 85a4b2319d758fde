"""`bench/gpu.py` without a GPU: plans, budget, table, files, and every case at a tiny size."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignzoo import kernels

BENCH = Path(__file__).parents[2] / "bench"
FOLDERS = (BENCH, BENCH / "kernel_speed")
MODULES = {
    "gpu": "gpu",
    "plans": "gpu_parts.plans",
    "clock": "gpu_parts.clock",
    "worker": "gpu_parts.worker",
    "client": "gpu_parts.client",
    "budget": "gpu_parts.budget",
    "table": "gpu_parts.table",
    "preparing": "gpu_parts.preparing",
    "end_to_end": "gpu_parts.end_to_end",
}


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The script's modules. Their names are common ones: others' are put aside meanwhile."""
    names = {path.stem for folder in FOLDERS for path in folder.iterdir()}
    aside = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for folder in FOLDERS:
            patch.syspath_prepend(str(folder))
        found = {}
        for short, name in MODULES.items():
            __import__(name)
            found[short] = sys.modules[name]
        yield SimpleNamespace(**found)
        for name in set(sys.modules) - before:
            if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
    sys.modules |= aside


def without_gpu(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
    )


# What is to be measured


MEASURED = set(kernels.__all__) - {"check_faults"}  # which waits, and computes nothing


def by_name(bench: SimpleNamespace) -> dict[str, Any]:
    return {plan.name: plan for plan in bench.plans.plans(bench.plans.FULL)}


def test_every_kernel_has_a_plan_and_a_peer(bench: SimpleNamespace) -> None:
    plans = by_name(bench).values()
    assert {plan.kernel.split()[0].rstrip(",") for plan in plans} == MEASURED
    assert all(plan.peers for plan in plans)
    assert len(by_name(bench)) == len(bench.plans.plans(bench.plans.FULL))


def test_floors_are_the_compulsory_bytes_of_the_workloads(bench: SimpleNamespace) -> None:
    plans = by_name(bench)
    tokens = 1024 * 8192
    for name, bytes_a_token in {
        "gae": 4 + 4 + 1 + 4 + 4,  # rewards, values, mask; advantages, returns
        "discounted_returns": 4 + 1 + 4,
        "vtrace": 4 * 4 + 1 + 2 * 4,
        "td_targets": 2 * 4 + 1 + 4,
        "policy_loss": 3 * 4 + 1 + 4,  # log-probs, old ones, advantages, mask; gradient
        "value_loss": 3 * 4 + 1 + 4,
        "kl_penalty": 2 * 4 + 2 * 4,  # both log-probs; value, gradient
        "huber": 4 + 2 * 4,
        "masked_whiten": 4 + 1 + 4,
    }.items():
        assert plans[name].num_bytes == bytes_a_token * tokens, name
    logits = 8192 * 128_256 * 2
    assert plans["token_log_probs_entropy"].num_bytes == logits
    assert plans["token_log_probs_entropy_backward"].num_bytes == 3 * logits
    assert plans["kl_divergence_backward"].num_bytes == 5 * 4096 * 128_256 * 2
    assert plans["sample_tokens"].num_bytes == 32 * (128_256 * 4 + 12)
    assert plans["linear_backward"].flops == 4 * plans["linear"].flops == 8 * 4096 * 4096 * 128_256


def test_aims_are_within_reach_of_the_floors(bench: SimpleNamespace) -> None:
    copy = 4.3e12  # bytes a second, on the device that the aims are for
    aims = {name: plan.aim for name, plan in by_name(bench).items() if plan.aim is not None}
    assert aims == {
        "gae": 40e-6,
        "policy_loss": 50e-6,
        "token_log_probs_entropy": 0.54e-3,
        "token_log_probs_entropy_backward": 1.6e-3,
    }
    for name, aim in aims.items():
        assert 0.6 * aim < by_name(bench)[name].num_bytes / copy < aim


def test_cases_with_an_aim_come_first(bench: SimpleNamespace) -> None:
    found = [
        plan.aim is not None or plan.aim_over_products is not None
        for plan in bench.plans.plans(bench.plans.FULL)
    ]
    assert found == sorted(found, reverse=True)
    assert sum(found) == 6


def test_inputs_are_rotated_until_no_cache_holds_them(bench: SimpleNamespace) -> None:
    small = bench.plans.Tokens((4, 10), torch.device("cpu"), 17, 2000)
    assert small.copies == 3
    large = bench.plans.Logits((4, 100), torch.bfloat16, torch.device("cpu"), 100)
    assert large.copies == 1


# Every case, at a tiny size: ours, and the peers that are here, agree


TINY_CASES = [
    "gae",
    "discounted_returns",
    "td_lambda_returns",
    "vtrace",
    "td_targets",
    "token_log_probs_entropy",
    "token_log_probs_entropy_backward",
    "token_log_probs",
    "token_log_probs_backward",
    "linear_backward",
    "linear",
    "policy_loss",
    "policy_loss_autograd",
    "value_loss",
    "kl_penalty",
    "huber",
    "sample_tokens",
    "sample_tokens_cut",
    "kl_divergence",
    "kl_divergence_backward",
    "max_and_gather",
    "masked_whiten",
    "group_advantages",
]


@pytest.fixture(scope="module")
def tiny(bench: SimpleNamespace) -> Any:
    effort = bench.clock.Effort(rounds=2, seconds=0.02, fewest=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.clock, "SHORTEST", 1e-5)
        yield bench.worker.Bench(torch.device("cpu"), effort, small=True)


def test_the_list_of_cases_is_whole(bench: SimpleNamespace) -> None:
    assert sorted(TINY_CASES) == sorted(by_name(bench))


@pytest.mark.parametrize("name", TINY_CASES)
def test_a_case_is_measured_and_agrees_with_plain_torch(tiny: Any, name: str) -> None:
    row = tiny.answer({"do": "ours", "plan": name})
    assert row["us"]["median"] > 0
    assert row["share_of_copy"]["low"] <= row["share_of_copy"]["median"]
    assert ("over_products" in row) == name.startswith("linear")
    plain = tiny.plans[name].peers[0]
    row = tiny.answer({"do": "peer", "plan": name, "peer": plain})
    assert row["median"] > 0
    assert row["timings"] >= 1
    if "sample" not in name:
        assert all(x is not None for x in row["difference"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_CASES)
def test_a_case_agrees_with_every_peer_that_is_here(tiny: Any, name: str) -> None:
    for label in tiny.plans[name].peers[1:]:
        row = tiny.answer({"do": "peer", "plan": name, "peer": label})
        assert "absent" in row or row["median"] > 0, label


def test_results_that_differ_are_an_error(bench: SimpleNamespace) -> None:
    plan = by_name(bench)["gae"]
    one, off = torch.ones(5), torch.ones(5) * 1.01
    assert bench.worker.agreement(plan, (one, one), (one, None)) == [0.0, None]
    for other in (off, torch.full((5,), float("nan")), torch.ones(4)):
        with pytest.raises(bench.worker.DifferenceError):
            bench.worker.agreement(plan, (one,), (other,))
    assert bench.worker.agreement(plan, (one,), ((one * 1.005).bfloat16(),))[0] < 1e-2


def test_what_a_function_writes_over_is_set_anew(bench: SimpleNamespace) -> None:
    x = bench.plans.Logits((3, 5), torch.float32, torch.device("cpu"), 200)
    seen = []

    def writes(z: Any) -> tuple[Any]:
        seen.append(z.detach().clone())
        z.detach().zero_()
        return (z,)

    clock = bench.clock.Clock(x.overwritten(writes), torch.device("cpu"))
    assert clock.repeats == 1
    assert len(seen) == 3
    assert torch.equal(seen[1], x.at(1))


# Timing, budget


def test_neighbours_are_timed_in_turns_until_time_is_up(bench: SimpleNamespace) -> None:
    seconds = iter(range(1, 1000))
    clocks = [SimpleNamespace(seconds=lambda: float(next(seconds))) for _ in range(3)]
    times = bench.clock.interleave(clocks, bench.clock.Effort(4, 60.0, 2))
    assert [len(one) for one in times] == [4, 4, 4]
    for k in range(4):
        assert {one[k] for one in times} == {3 * k + 1.0, 3 * k + 2.0, 3 * k + 3.0}
    times = bench.clock.interleave(clocks, bench.clock.Effort(100, 0.0, 3))
    assert [len(one) for one in times] == [3, 3, 3]


class FakeCuda:
    """torch.cuda's clock and graphs: every recorded call takes a microsecond."""

    def __init__(self, patch: pytest.MonkeyPatch, *, captures: bool) -> None:
        self.now, self.captures, self.recording = 0.0, captures, False
        self.graphs: list[list[int]] = []
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = cuda.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, other: Event) -> float:
                return (other.at - self.at) / 1e3  # milliseconds

        class CUDAGraph:
            def replay(self) -> None:
                cuda.now += len(cuda.graphs[0])

        @contextlib.contextmanager
        def graph(made: CUDAGraph) -> Iterator[None]:
            if not cuda.captures:
                raise RuntimeError("not while capturing\nat all")
            cuda.graphs.append([])
            cuda.recording = True
            yield
            cuda.recording = False

        stream = SimpleNamespace(wait_stream=lambda other: None)
        for name, fake in {
            "Event": Event,
            "CUDAGraph": CUDAGraph,
            "graph": graph,
            "Stream": lambda: stream,
            "current_stream": lambda: stream,
            "stream": lambda _: contextlib.nullcontext(),
            "synchronize": lambda: None,
        }.items():
            patch.setattr(torch.cuda, name, fake)

    def call(self, i: int) -> tuple[Any, ...]:
        if self.recording:
            self.graphs[-1].append(i)
        else:
            self.now += 1.0
        return ()


CUDA = torch.device("cuda")


def test_events_around_many_calls_give_the_time_of_one(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(monkeypatch, captures=True)
    monkeypatch.setattr(bench.clock, "SHORTEST", 2e-3)
    clock = bench.clock.clock_of(bench.plans.Side(cuda.call), CUDA, graph=False)
    assert clock.how == "events"
    assert clock.repeats == 1000
    assert clock.seconds() == pytest.approx(1e-6)


def test_a_replayed_graph_gives_the_time_of_one_call_in_it(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(monkeypatch, captures=True)
    clock = bench.clock.clock_of(bench.plans.Side(cuda.call), CUDA, graph=True)
    assert cuda.graphs == [list(range(16))]  # each call on the next of its inputs
    assert clock.how == "a replayed graph of 16"
    assert clock.seconds() == pytest.approx(1e-6)


def test_what_cannot_be_captured_is_timed_by_events_and_says_so(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(monkeypatch, captures=False)
    clock = bench.clock.clock_of(bench.plans.Side(cuda.call), CUDA, graph=True)
    assert clock.how == "events, not captured: RuntimeError: not while capturing"
    assert clock.seconds() == pytest.approx(1e-6)


def test_facts_of_a_device(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(
        name="NVIDIA H200", major=9, minor=0, multi_processor_count=132, total_memory=1 << 37
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    found = bench.worker.facts(CUDA)
    assert found["device"] == "NVIDIA H200"
    assert found["capability"] == "9.0"
    assert found["cache_bytes"] is None
    json.dumps(found)


def test_a_budget_names_what_it_does_not_allow(bench: SimpleNamespace) -> None:
    now = 100.0
    budget = bench.budget.Budget(10.0, lambda: now)
    assert budget.allows("first", 10.0)
    now += 6.0
    assert budget.left == 4.0
    assert not budget.allows("second", 5.0)
    assert not budget.allows("third", 3.0, kept=2.0)
    assert budget.allows("fourth", 3.0)
    assert budget.left_out == ["second", "third"]
    now += 60.0
    assert budget.left == 0.0


# The worker's other side


ECHO = """
import json, sys, time
options = json.loads(sys.argv[1])
for line in sys.stdin:
    task = json.loads(line)
    if task["do"] == "sleep":
        time.sleep(60)
    if task["do"] == "die":
        sys.exit("out of the window")
    print(json.dumps(task | options), flush=True)
"""


@pytest.fixture
def client(bench: SimpleNamespace, tmp_path: Path) -> Iterator[Any]:
    command = [sys.executable, "-c", ECHO]
    with bench.client.Client({"small": True}, tmp_path / "log", command) as made:
        yield made


def test_a_worker_is_started_again_after_it_died_or_hung(
    bench: SimpleNamespace, client: Any
) -> None:
    assert client.ask({"do": "say"}, 30) == {"do": "say", "small": True}
    with pytest.raises(bench.client.WorkerError, match="out of the window"):
        client.ask({"do": "die"}, 30)
    assert client.ask({"do": "say"}, 30)["small"]
    with pytest.raises(bench.client.WorkerError, match="no answer in 0 seconds"):
        client.ask({"do": "sleep"}, 0.2)
    assert client.process is None
    assert client.ask({"do": "say"}, 30)["small"]


def test_a_worker_says_what_went_wrong_and_a_lost_device_ends_it(
    bench: SimpleNamespace, client: Any
) -> None:
    with pytest.raises(bench.client.WorkerError, match="illegal address"):
        client.ask({"do": "say", "error": "an illegal address"}, 30)
    assert client.process is not None
    with pytest.raises(bench.client.WorkerError, match="illegal address"):
        client.ask({"do": "say", "error": "an illegal address", "lost": True}, 30)
    assert client.process is None


# The whole command


class Worker:
    """Answers as the worker does, with times that were made up."""

    def __init__(self, bench: SimpleNamespace) -> None:
        self.bench = bench
        self.asked: list[Any] = []

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def end(self) -> None:
        pass

    def ask(self, task: dict[str, Any], timeout: float) -> dict[str, Any]:
        self.asked.append(task)
        one = {"median": 1.0, "low": 0.99, "high": 1.01}
        if task["do"] == "facts":
            return {"device": "NVIDIA H200", "torch": "2.13"}
        if task["do"] == "plans":
            full = self.bench.plans.plans(self.bench.plans.FULL)
            return {"plans": [self.bench.worker.describe(plan) for plan in full]}
        if task["do"] == "ceilings":
            return {"copy_bytes_per_second": 4e12, "bfloat16_flops": 8e14}
        if task["plan"] == "vtrace":
            raise self.bench.client.WorkerError("CUDA error: an illegal memory access")
        if task["do"] == "peer":
            if "Liger" in task["peer"]:
                return {"absent": "liger-kernel is not installed"}
            return {**one, "ours_us": 100.0, "other_us": 100.0, "difference": [0.0]}
        return {
            "us": {"median": 44.0, "low": 43.0, "high": 45.0},
            "noise": one,
            "share_of_copy": {"median": 0.8, "low": 0.79, "high": 0.81},
            "over_products": {"median": 1.07, "low": 1.06, "high": 1.08},
        }


@pytest.fixture
def command(bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command with a made-up worker: (exit status, results, worker)."""

    def run(*arguments: str) -> tuple[int, dict[str, Any], Worker]:
        worker = Worker(bench)
        monkeypatch.setattr(bench.gpu, "has_gpu", lambda: True)
        monkeypatch.setattr(bench.gpu, "Client", lambda *_: worker)
        monkeypatch.setattr(bench.preparing, "has_kernels", lambda: True)
        status = bench.gpu.main(["--out", str(tmp_path), *arguments])
        (path,) = tmp_path.glob("gpu-*.json")
        return status, json.loads(path.read_text()), worker

    return run


def test_one_kernel_that_fails_leaves_the_others(
    command: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, results, _ = command("--parts", "ceilings", "kernels", "peers")
    assert status == 1
    assert {error["part"] for error in results["errors"]} == {"kernels", "peers"}
    assert all("illegal memory access" in error["error"] for error in results["errors"])
    measured = {row["name"] for row in results["kernels"]}
    assert sorted([*measured, "vtrace"]) == sorted(TINY_CASES)
    assert results["machine"]["device"] == "NVIDIA H200"
    assert results["left_out"] == []
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]

    shown = capsys.readouterr().out
    floor = 17 * 1024 * 8192 / 4e12 * 1e6
    line = next(line for line in shown.splitlines() if line.startswith("| gae | 1,024 x 8,192"))
    assert (
        f"| 44 us | {floor:.3g} us | 0.8 (0.79 to 0.81) | 1.0 % | 40 us | +10 % | missed |" in line
    )
    assert "| 50 us | -12 % | met |" in shown
    assert "| 1.1 x its products | 1.07 x | met |" in shown
    assert "| Liger cross entropy |  |  | liger-kernel is not installed |" in shown
    assert "ERROR in kernels: vtrace: CUDA error: an illegal memory access" in shown


def test_the_floor_of_products_is_their_operations(bench: SimpleNamespace) -> None:
    row = bench.worker.describe(by_name(bench)["linear_backward"])
    limits = {"copy_bytes_per_second": 4e12, "bfloat16_flops": 8e14}
    assert bench.table.floor_us(row, limits) == pytest.approx(8 * 4096**2 * 128_256 / 8e8)


def test_only_what_was_asked_for_is_measured(command: Any) -> None:
    status, results, worker = command("gae", "huber", "--parts", "kernels")
    assert status == 0
    assert [row["name"] for row in results["kernels"]] == ["gae", "huber"]
    assert [task["do"] for task in worker.asked] == ["plans", "ours", "ours"]
    status, results, _ = command("gea", "--parts", "kernels")
    assert status == 1
    assert "there is no case gea" in results["errors"][0]["error"]


def test_a_small_budget_leaves_the_rest_out_by_name(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    status, results, worker = command("--parts", "ceilings", "kernels", "round", "--budget", "30")
    assert status == 0  # to be out of time is no failure
    assert worker.asked == []  # the round's time is kept for it
    assert "round" in results["left_out"]
    assert "Left out for want of time" in capsys.readouterr().out


def test_a_failed_build_or_test_is_kept_and_the_rest_goes_on(
    bench: SimpleNamespace, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(timeout: float, log: Path) -> None:
        raise bench.preparing.PreparingError("nvcc is not there")

    counted = {"passed": 3, "failed": 1, "errors": 0, "skipped": 2, "names": ["tests.gpu::one"]}
    monkeypatch.setattr(bench.preparing, "build", build)
    monkeypatch.setattr(bench.preparing, "run_tests", lambda timeout, log: counted)
    status, results, _ = command("gae", "--rebuild", "--parts", "build", "tests", "kernels")
    assert status == 1
    assert results["tests"] == counted
    assert [error["part"] for error in results["errors"]] == ["build", "tests"]
    assert "tests.gpu::one" in results["errors"][1]["error"]
    assert [row["name"] for row in results["kernels"]] == ["gae"]


def test_without_a_gpu_it_says_so_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    done = without_gpu("--out", str(tmp_path / "results"))
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert "no CUDA device" in done.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_trial_asks_the_real_worker_and_writes_nothing(tmp_path: Path) -> None:
    done = without_gpu(
        "huber", "sample_tokens", "--dry", "--parts", "ceilings", "kernels", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "huber: ran"
    assert "sample_tokens: ran, - " in done.stdout
    assert not list(tmp_path.iterdir())


# Tests of the GPU, and the round


REPORT = """<testsuites><testsuite>
<testcase classname="tests.gpu.test_a" name="test_good"/>
<testcase classname="tests.gpu.test_a" name="test_bad"><failure message="no"/></testcase>
<testcase classname="tests.gpu.test_b" name="test_left"><skipped message="one device"/></testcase>
<testcase classname="tests.gpu.test_b" name="test_lost"><error message="no"/></testcase>
</testsuite></testsuites>
"""


def test_a_report_of_tests_is_counted(bench: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    assert bench.preparing.counts(path) == {
        "passed": 1,
        "failed": 1,
        "errors": 1,
        "skipped": 1,
        "names": ["tests.gpu.test_a::test_bad", "tests.gpu.test_b::test_lost"],
    }


@pytest.mark.slow
def test_tests_are_counted_and_those_that_failed_named(
    bench: SimpleNamespace, tmp_path: Path
) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.mark.skip\n"
        "def test_skipped(): pass\n"
    )
    found = bench.preparing.run_tests(60, tmp_path / "log", folder)
    assert {key: found[key] for key in ("passed", "failed", "errors", "skipped")} == {
        "passed": 1,
        "failed": 1,
        "errors": 0,
        "skipped": 1,
    }
    assert found["names"][0].endswith("::test_bad")
    (folder / "test_slow.py").write_text("import time\ndef test_slow(): time.sleep(60)\n")
    with pytest.raises(bench.preparing.PreparingError, match="took more than 12 seconds"):
        bench.preparing.run_tests(12, tmp_path / "log", folder)
    with pytest.raises(bench.preparing.PreparingError, match="there is no"):
        bench.preparing.run_tests(60, tmp_path / "log", tmp_path / "none")


def test_tests_that_were_stopped_are_counted_from_what_they_said(bench: SimpleNamespace) -> None:
    said = (
        "a.py::test_one PASSED [ 1%]\na.py::test_two FAILED [ 2%]\n"
        "[gw1] [ 3%] PASSED a.py::test_three\n[gw0] [ 4%] FAILED a.py::test_four[x]\n"
    )
    assert bench.preparing.progress(said) == (
        "2 passed, 2 failed, 0 error (a.py::test_four[x], a.py::test_two)"
    )
    assert bench.preparing.progress("") == "0 passed, 0 failed, 0 error"


def test_a_peer_that_fails_is_absent_and_ours_is_an_error(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny._made(tiny.plans["huber"])

    def fails() -> Any:
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setitem(made.peers, "torch", fails)
    row = tiny.answer({"do": "peer", "plan": "huber", "peer": "torch"})
    assert row == {"absent": "failed: RuntimeError: no such instruction"}
    made.ours = SimpleNamespace(call=lambda _: fails(), before=None)
    with pytest.raises(RuntimeError, match="no such instruction"):
        tiny.answer({"do": "peer", "plan": "huber", "peer": "torch"})
    tiny.made = None


def test_the_build_that_is_installed_is_asked_for_its_kernels(bench: SimpleNamespace) -> None:
    from alignzoo import _core

    assert bench.preparing.has_kernels() == bool(_core.cuda_built)


def test_rounds_are_shown_by_part_with_one_side_or_two(bench: SimpleNamespace) -> None:
    one = dict.fromkeys(("round", "generation", "scoring", "update", "passes", "processor"), 1.0)
    two = {part: 2 * seconds for part, seconds in one.items()}
    both = bench.end_to_end.table({"alignzoo": [one] * 3, "trl": [two] * 3})
    assert both["update"] == ["1.0000", "2.0000", "2.00 (2.00 to 2.00)"]
    alone = bench.end_to_end.table({"alignzoo": [one]})
    assert alone["round"] == ["1.0000", "not installed", ""]
    text = bench.table.tables({"round": {"title": "a trial", "table": both}})
    assert "| update | 1.0000 | 2.0000 | 2.00 (2.00 to 2.00) |" in text


def test_a_round_that_takes_too_long_or_fails_says_so(
    bench: SimpleNamespace, tmp_path: Path
) -> None:
    with pytest.raises(bench.end_to_end.RoundError, match="more than 0 seconds"):
        bench.end_to_end.run("half_billion_tried", 1, 0, 0.05, tmp_path / "log")
    with pytest.raises(bench.end_to_end.RoundError, match="no_such_workload"):
        bench.end_to_end.run("no_such_workload", 1, 0, 60, tmp_path / "log")


def test_the_model_of_the_rounds_has_as_many_parameters_as_the_title_says(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCH / "rounds_sides"))
    import wide_model

    shape = wide_model.SHAPES["half_billion"]
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    layer = 2 * width * width + 2 * width * keys + 3 * width * inner + 2 * width
    total = shape["vocab_size"] * width + shape["num_hidden_layers"] * layer + width
    title = bench.end_to_end.workload_named("half_billion").title
    assert title.startswith(f"{total / 1e6:.0f}M parameters, V={shape['vocab_size']:,}")


@pytest.mark.slow
def test_a_trial_of_the_round_runs_on_the_cpu(bench: SimpleNamespace, tmp_path: Path) -> None:
    found = bench.end_to_end.run("half_billion_tried", 1, 1, 300, tmp_path / "log")
    assert found["rounds"]["alignzoo"][0]["tokens"] == 8 * 6
    assert set(found["table"]) == set(bench.end_to_end.rounds.PARTS)
    assert found["device_peak_bytes"]["alignzoo"] == 0
