"""Tensors that lie elsewhere: a device without kernels, two devices in one call."""

import pytest
import torch

from alignzoo import _core, kernels

without_cuda = pytest.mark.skipif(_core.cuda_built, reason="this build has CUDA kernels")


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on a CUDA device, with no memory behind it."""

    @staticmethod
    def __new__(cls, shape, dtype=torch.float32):
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device="cuda:1")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        shaped = [torch.empty(x.shape, device="meta") if type(x) is cls else x for x in args]
        return cls(function(*shaped, **(kwargs or {})).shape)


CALLS = {
    "gae": lambda x: kernels.gae(x, x, gamma=0.9, gae_lambda=0.9),
    "discounted_returns": lambda x: kernels.discounted_returns(x, gamma=0.9),
    "td_lambda_returns": lambda x: kernels.td_lambda_returns(x, x, gamma=0.9, td_lambda=0.9),
    "vtrace": lambda x: kernels.vtrace(x, x, x, x, gamma=0.9),
    "td_targets": lambda x: kernels.td_targets(x, x, gamma=0.9),
    "masked_whiten": kernels.masked_whiten,
    "group_advantages": lambda x: kernels.group_advantages(x[0], x[0], mode="grpo"),
    "token_log_probs": lambda x: kernels.token_log_probs(x, x[:, 0]),
    "linear_token_log_probs": lambda x: kernels.linear_token_log_probs(x, x, x[:, 0]),
    "sample_tokens": lambda x: kernels.sample_tokens(x, seed=0),
    "kl_divergence": lambda x: kernels.kl_divergence(x, x),
    "max_and_gather": lambda x: kernels.max_and_gather(x, x[:, 0]),
    "policy_loss": lambda x: kernels.policy_loss(x, x, x, clip_range=0.2),
    "value_loss": lambda x: kernels.value_loss(x, x, x),
    "kl_penalty": lambda x: kernels.kl_penalty(x, x, estimator="k1"),
    "huber": kernels.huber,
}


def test_every_function_is_here():
    assert set(CALLS) == set(kernels.__all__) - {"check_faults"}


@without_cuda
@pytest.mark.parametrize("name", CALLS)
def test_a_build_without_cuda_says_how_to_get_one(name):
    with pytest.raises(RuntimeError) as caught:
        CALLS[name](Elsewhere((3, 5)))
    message = str(caught.value)
    assert message.startswith(f"{name}: `")
    assert "lies on cuda:1" in message
    assert "ALIGNZOO_CUDA=ON pip install ." in message
    assert ".cpu()" in message
    assert "\n" not in message


@without_cuda
def test_a_build_without_cuda_has_no_device_and_no_faults():
    assert _core.cuda_device_count() == 0
    assert _core.cuda_runtime_version() == 0
    kernels.check_faults(0)
