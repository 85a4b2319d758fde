"""Tensors that lie elsewhere: a device without kernels, two devices in one call."""

import pytest
import torch

from alignzoo import _core, kernels

without_cuda = pytest.mark.skipif(_core.cuda_built, reason="this build has CUDA kernels")


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on a CUDA device, with no memory behind it."""

    @staticmethod
    def __new__(cls, *shape):
        return torch.Tensor._make_wrapper_subclass(cls, shape, device="cuda:1")

    __torch_dispatch__ = None  # no operation of torch's is to reach it


# [B, T] or [B, V], and [B].
CALLS = {
    "gae": lambda x, b: kernels.gae(x, x, gamma=0.9, gae_lambda=0.9),
    "discounted_returns": lambda x, b: kernels.discounted_returns(x, gamma=0.9),
    "td_lambda_returns": lambda x, b: kernels.td_lambda_returns(x, x, gamma=0.9, td_lambda=0.9),
    "vtrace": lambda x, b: kernels.vtrace(x, x, x, x, gamma=0.9),
    "td_targets": lambda x, b: kernels.td_targets(x, x, gamma=0.9),
    "masked_whiten": lambda x, b: kernels.masked_whiten(x),
    "group_advantages": lambda x, b: kernels.group_advantages(b, b, mode="grpo"),
    "token_log_probs": lambda x, b: kernels.token_log_probs(x, b),
    "linear_token_log_probs": lambda x, b: kernels.linear_token_log_probs(x, x, b),
    "sample_tokens": lambda x, b: kernels.sample_tokens(x, seed=0),
    "kl_divergence": lambda x, b: kernels.kl_divergence(x, x),
    "max_and_gather": lambda x, b: kernels.max_and_gather(x, b),
    "policy_loss": lambda x, b: kernels.policy_loss(x, x, x, clip_range=0.2),
    "value_loss": lambda x, b: kernels.value_loss(x, x, x),
    "kl_penalty": lambda x, b: kernels.kl_penalty(x, x, estimator="k1"),
    "huber": lambda x, b: kernels.huber(x),
}


def test_every_function_is_here():
    assert set(CALLS) == set(kernels.__all__) - {"check_faults"}


@without_cuda
@pytest.mark.parametrize("name", CALLS)
def test_a_build_without_cuda_says_how_to_get_one(name):
    with pytest.raises(RuntimeError) as caught:
        CALLS[name](Elsewhere(3, 5), Elsewhere(3))
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
