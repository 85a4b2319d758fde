"""Data that no kernel can use: ValueError on the CPU; NaN and a fault that stays, on a device."""

import math

import numpy as np
import pytest
import torch
from every_kernel import CU_SEQLENS, KERNELS, STARTS
from kernel_cases import bits, leaves, to_numpy
from kernel_device import DEVICE, ON_CUDA, faults, kernels, refused
from scan_cases import every_scan

IS_PACKED = [name for name in KERNELS if "cu_seqlens" in KERNELS[name].parameters]
OUT_OF_RANGE = (-1, 7, 2**40, -(2**63), 2**63 - 1)


@pytest.mark.parametrize("name", IS_PACKED)
@pytest.mark.parametrize("starts", [x for x in STARTS if x], ids=str)
def test_rows_that_do_not_fill_the_tokens_spoil_all_outputs(name, starts):
    arguments = KERNELS[name].good("torch", is_packed=True)
    if len(starts) != len(CU_SEQLENS):  # numbers per row would not fit
        arguments |= {x: None for x in ("bootstrap", "terminated", "truncated") if x in arguments}
    arguments["cu_seqlens"] = torch.tensor(starts)
    found = refused(
        lambda: getattr(kernels, name)(**arguments), f"{name}: .*`cu_seqlens`", "cu_seqlens"
    )
    if found is not None:
        first = leaves(found)[0]
        assert np.isnan(to_numpy(first)).all()


@pytest.mark.parametrize("wrong", OUT_OF_RANGE)
@pytest.mark.parametrize("name", ["token_log_probs", "linear_token_log_probs"])
def test_a_target_that_there_is_not_spoils_its_own_row(name, wrong):
    arguments = KERNELS[name].good("torch")
    clean = getattr(kernels, name)(**arguments)
    arguments["targets"] = torch.where(torch.tensor([False, True, False]), wrong, 2)
    good = arguments | {"targets": torch.full((3,), 2)}
    clean = getattr(kernels, name)(**good)
    found = refused(lambda: getattr(kernels, name)(**arguments), f"{name}: `targets`", "targets")
    for one, other in zip(found or (), clean, strict=bool(found)):
        assert np.isnan(to_numpy(one)[1])
        assert bits(one[[0, 2]]) == bits(other[[0, 2]])


def test_a_gradient_behind_a_target_that_there_is_not_leaves_the_other_rows():
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    grads = []
    for targets in ([2, 2, 2], [2, 7, 2]):
        held = logits.clone().requires_grad_()

        def call(held=held, targets=targets):
            log_probs = kernels.token_log_probs(held, torch.tensor(targets))
            log_probs.backward(torch.ones(3))
            return log_probs

        if targets == [2, 2, 2]:
            call()
        else:
            refused(call, "token_log_probs: `targets`", "targets")
        grads.append(held.grad)
    if ON_CUDA:
        assert bits(grads[0][[0, 2]]) == bits(grads[1][[0, 2]])


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 0.0}])
@pytest.mark.parametrize("num_tokens", [7, 9001])
def test_a_row_id_below_0_spoils_its_own_draw(options, num_tokens):
    logits = torch.zeros(3, num_tokens)

    def draw(*ids):
        return kernels.sample_tokens(logits, seed=1, row_ids=torch.tensor(ids), **options)

    found = refused(lambda: draw(4, -1, 6), "sample_tokens: `row_ids`", "row_ids")
    if found is not None:
        assert to_numpy(found[0])[1] == 0
        np.testing.assert_array_equal(np.isnan(to_numpy(found[1])), [False, True, False])
        for one, other in zip(found, draw(4, 5, 6), strict=True):
            assert bits(one[[0, 2]]) == bits(other[[0, 2]])


@every_scan
@pytest.mark.parametrize("length", [5, 1031, 9001])
def test_a_mask_with_a_hole_spoils_its_own_row(name, length):
    arguments = {
        key: torch.randn(3, length, generator=torch.Generator().manual_seed(0))
        for key in KERNELS[name].parameters
        if key in ("rewards", "values", "log_probs", "old_log_probs")
    }
    mask = torch.ones(3, length, dtype=torch.bool)
    options = {"gamma": 0.9, "mask_mode": "prefix"} | ({"gae_lambda": 0.9} if name == "gae" else {})
    options |= {"td_lambda": 0.9} if name == "td_lambda_returns" else {}

    def run():
        return leaves(getattr(kernels, name)(**arguments, mask=mask, **options))

    clean = run()
    mask[1, length // 2] = False
    for one, other in zip(refused(run, f"{name}: `mask`", "hole") or (), clean, strict=False):
        assert bits(one[[0, 2]]) == bits(other[[0, 2]])
        assert np.isnan(to_numpy(one)[1, : length // 2]).all()


@pytest.mark.skipif(not ON_CUDA, reason="on the CPU each call raises its own")
def test_faults_of_several_calls_are_told_together_and_once():
    q = torch.zeros(2, 5, device=DEVICE)
    with faults("actions", "no distribution"):
        kernels.max_and_gather(q, torch.tensor([0, 5], device=DEVICE))
        kernels.max_and_gather(q, torch.tensor([0, 4], device=DEVICE))
        kernels.sample_tokens(q + math.nan, seed=0)
