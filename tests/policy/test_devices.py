"""Which devices a policy can be put on, and what is said of the others."""

from __future__ import annotations

import pytest
import torch
from pretend_cuda import pretend_cuda

import alignzoo as az
from alignzoo import _core
from alignzoo.policy import find_device


def test_the_cpu_is_always_there():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["abacus", "meta", "gpu", "", "cuda:x", "mps"])
def test_another_word_is_refused(name):
    with pytest.raises(az.ConfigError, match="expected cpu, cuda or cuda:N"):
        find_device(name)


def test_a_torch_without_cuda_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(az.ConfigError, match=r"torch sees no CUDA device.*built without CUDA"):
        find_device("cuda")
    with pytest.raises(az.ConfigError, match="device is 'cuda:1', but torch sees no CUDA device"):
        az.Policy.from_pretrained("tiny", device="cuda:1")


def test_a_machine_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(az.ConfigError, match=r"--device is 'cuda'.*nvidia-smi"):
        find_device("cuda", option="--device")


def test_a_device_is_known_by_its_number():
    with pretend_cuda():
        assert find_device("cuda") == torch.device("cuda", 0)
        assert find_device("cuda:0") == torch.device("cuda", 0)
        with pytest.raises(az.ConfigError, match="'cuda:1', but torch sees only cuda:0"):
            find_device("cuda:1")


def test_kernels_without_cuda_are_told_before_a_model_is_loaded(monkeypatch):
    with pretend_cuda():
        monkeypatch.setattr(_core, "cuda_built", False)
        with pytest.raises(az.ConfigError, match=r"no CUDA kernels.*ALIGNZOO_CUDA=ON"):
            az.Policy.from_pretrained("no such model", device="cuda")


def test_a_policy_and_what_is_added_to_it_live_there():
    with pretend_cuda():
        policy = az.Policy.from_pretrained("tiny", device="cuda")
        assert policy.device == torch.device("cuda", 0)
        assert policy.add_value_head().weight.device == policy.device
