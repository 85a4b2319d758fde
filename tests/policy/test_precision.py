"""What a policy computes in: float32, bfloat16 over float32 weights, bfloat16 weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policy.cases import byte_prompts, roll_out, small_policy

import alignzoo as az

PROMPTS = byte_prompts([5, 9, 3, 7])


def autocast_policy(seed=0):
    policy = small_policy(seed)
    return az.Policy(policy.model, policy.tokenizer, autocast=True)


def outputs(policy, **options):
    batch = roll_out(small_policy(), az.make("reinforce"), PROMPTS).batch
    return batch, policy.evaluate(batch, **options)


def test_autocast_rounds_products_and_no_statistic():
    policy = autocast_policy()
    policy.add_value_head().weight.data.fill_(0.1)
    batch, found = outputs(policy, values=True, logits=True, hidden=True)
    policy.language_model.autocast = False
    _, exact = outputs(policy, values=True, logits=True, hidden=True)
    for name in ("log_probs", "entropy", "values", "hidden"):
        assert getattr(found, name).dtype == torch.float32, name
    mask = batch.response_mask
    gap = (found.log_probs - exact.log_probs).detach().abs()[mask]
    assert 1e-4 < float(gap.mean()) < 0.1  # bfloat16 has 8 bits, of logits of about 10
    # And they are no numbers of bfloat16: statistics are taken in float32.
    assert not torch.equal(found.log_probs[mask], found.log_probs[mask].bfloat16().float())


def test_gradients_under_autocast_are_float32_and_close():
    def gradient(policy):
        _, out = outputs(policy)
        out.log_probs.sum().backward()
        return torch.cat([p.grad.flatten() for p in policy.model.parameters()])

    exact, found = gradient(small_policy()), gradient(autocast_policy())
    assert found.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(exact, found, dim=0)
    assert 0.98 < float(cosine) < 1


@pytest.mark.parametrize("decoding", ["eager", "static"])
def test_the_sampler_draws_from_what_the_forward_says(decoding):
    policy = autocast_policy()
    policy.decoding = decoding
    found = roll_out(policy, az.make("ppo"), PROMPTS)
    assert found.source._recomputes()
    gap = found.batch.old_log_probs - found.batch.sampler_log_probs
    assert float(gap.abs().max()) < 0.3
    # From the same states too, so the values are those of the rollout.
    assert found.batch.values.dtype == torch.float32


def test_weights_are_cast_once_a_batch_and_not_at_every_token():
    policy = autocast_policy()
    policy.decoding = "eager"
    casts = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            sizes = {p.shape for p in policy.model.parameters() if p.ndim == 2}
            if func is torch.ops.aten._to_copy.default and args[0].shape in sizes:
                casts.append(args[0].shape)
            return func(*args, **(kwargs or {}))

    with Watch():
        policy.generate(PROMPTS[:1], max_new_tokens=12)
    matrices = [p for p in policy.model.parameters() if p.ndim == 2]
    assert len(casts) <= len(matrices)


def test_reference_and_snapshot_compute_alike():
    policy = autocast_policy()
    policy.keep_reference()
    batch, out = outputs(policy)
    assert torch.equal(policy.reference_log_probs(batch), out.log_probs)
    assert torch.equal(policy.snapshot().evaluate(batch).log_probs, out.log_probs)


def test_autocast_is_over_float32_weights():
    with pytest.raises(az.ConfigError, match="autocast computes in bfloat16 over float32 weights"):
        az.Policy.from_pretrained("tiny", autocast=True, dtype="bfloat16")
    assert az.Policy.from_pretrained("tiny", autocast=True).autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_half_precision_weights_add_up_in_float32(dtype):
    # 16 micro-batches: added in bfloat16 each would lose its last bits to the sum.
    prompts = byte_prompts([6] * 16)

    def gradient(micro_batch_size, *, exact=False):
        policy = small_policy(dtype=torch.float32 if exact else dtype)
        if exact:  # the same weights
            policy.model.to(dtype).float()
        batch = roll_out(small_policy(), az.make("reinforce"), prompts).batch
        made = roll_out(
            policy, az.make("reinforce"), prompts[:1], micro_batch_size=micro_batch_size
        )
        found = made.learner.gradient(
            batch, lambda micro, out: az.Loss(-out.log_probs.sum() / micro.num_tokens)
        )
        assert all(g.dtype == torch.float32 for g in found.tensors)
        return torch.cat([g.flatten().double() for g in found.tensors])

    exact = gradient(None, exact=True)
    whole, split = gradient(None), gradient(1)
    error = [float((g - exact).norm() / exact.norm()) for g in (whole, split)]
    assert error[1] < 1.5 * error[0]


def test_float32_draws_are_what_they_were():
    found = small_policy().generate(PROMPTS, max_new_tokens=6, seed=3)
    assert all(row.dtype == np.float32 for row in found.log_probs)
