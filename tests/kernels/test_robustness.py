"""The kernels in forked children, many Python threads, and the workers of a data loader."""

import faulthandler
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from every_kernel import KERNELS
from kernel_cases import bits, leaves

from alignzoo import kernels

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
SECONDS = 60  # far more than anything here takes; what is not done by then hangs


def every_digest() -> dict[str, list[bytes]]:
    """The bits of every kernel: on small arguments, and on ones large enough for threads."""
    small = {
        f"{library} {name}": getattr(kernels, name)(**KERNELS[name].good(library))
        for name in KERNELS
        for library in ("numpy", "torch")
    }
    return {name: [bits(x) for x in leaves(found)] for name, found in (small | large()).items()}


def large() -> dict:
    """A few kernels on arrays large enough to use the pool."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(64, 5003)).astype(np.float32)
    tokens = rng.integers(0, 5003, 64)
    rewards, values, old = rng.normal(size=(3, 64, 2503)).astype(np.float32)
    return {
        "large gae": kernels.gae(rewards, values, gamma=0.99, gae_lambda=0.95),
        "large policy_loss": kernels.policy_loss(values, old, rewards, clip_range=0.2),
        "large masked_whiten": kernels.masked_whiten(rewards),
        "large token_log_probs": kernels.token_log_probs(logits, tokens, entropy=True),
        "large sample_tokens": kernels.sample_tokens(logits, seed=0, top_p=0.9),
    }


def exit_code_of_child(work) -> int:
    """Forks, does the work in the child, and says how it ended: 0 where `work` gave True."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)  # ends a child that waits for its parent's threads
        try:
            os._exit(0 if work() else 1)
        finally:
            faulthandler.dump_traceback()
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_and_its_own_child_compute_the_same_bits():
    expected = every_digest()  # threads exist by now
    is_same = lambda: every_digest() == expected  # noqa: E731
    assert exit_code_of_child(is_same) == 0
    assert exit_code_of_child(lambda: is_same() and exit_code_of_child(is_same) == 0) == 0
    assert is_same()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_other_threads_compute_is_not_held_up():
    expected, is_over = every_digest(), threading.Event()

    def compute() -> None:
        while not is_over.is_set():
            large()

    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(compute) for _ in range(2)]
        try:
            codes = [exit_code_of_child(lambda: every_digest() == expected) for _ in range(5)]
        finally:
            is_over.set()
        assert all(thread.result(SECONDS) is None for thread in busy)
    assert codes == [0] * 5


def test_sixteen_python_threads_get_the_bits_of_one():
    expected = every_digest()
    start = threading.Barrier(16)

    def compute(_: int) -> bool:
        start.wait(SECONDS)
        return all(every_digest() == expected for _ in range(3))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(compute, range(16), timeout=SECONDS))


class Digests(torch.utils.data.Dataset):
    """Item i is whether a worker computes what the main process did."""

    def __init__(self) -> None:
        self.expected = every_digest()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> bool:
        assert torch.utils.data.get_worker_info() is not None
        return every_digest() == self.expected


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader:UserWarning")
def test_workers_of_a_data_loader_compute_the_same_bits():
    loader = torch.utils.data.DataLoader(
        Digests(), num_workers=2, timeout=SECONDS, multiprocessing_context="fork"
    )
    assert all(all(batch) for batch in loader)


@pytest.fixture
def no_switching():
    """A thread keeps the interpreter until it gives it away itself."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(interval)


def test_other_python_threads_run_during_a_long_call(no_switching):
    x = np.zeros((64, 20_000), np.float32)
    counted, is_over = [0], threading.Event()

    def count() -> None:
        while not is_over.is_set():
            counted[0] += 1
            time.sleep(0)  # gives the interpreter back

    thread = threading.Thread(target=count)
    thread.start()
    progress = []
    for _ in range(100):  # one would do, were there always a core to run the other thread
        before = counted[0]
        kernels.gae(x, x, gamma=0.99, gae_lambda=0.95)
        progress.append(counted[0] - before)
    is_over.set()
    thread.join()
    assert any(progress)
