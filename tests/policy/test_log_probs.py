"""Log-probs, entropies and values of a policy: which logits score which token, at what temperature.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from policy.cases import (
    byte_prompts,
    demonstrations,
    plain_log_probs,
    small_policy,
    stories_policy,
    stories_prompts,
)

import alignzoo as az
from alignzoo import kernels
from alignzoo.errors import ConfigError
from alignzoo.policy import Policy
from alignzoo.testing import TokenMDP

END = 2  # of the small policy's tokenizer


def some_rows(seed=0, lengths=((5, 4), (2, 9), (11, 1), (1, 6))):
    generator = np.random.default_rng(seed)
    return [
        ([1, *generator.integers(6, 262, p - 1).tolist()], generator.integers(6, 262, n).tolist())
        for p, n in lengths
    ]


def sampled_batch(policy, prompts, **options):
    """Returns real generations as a batch, sampler log-probs included."""
    drawn = policy.generate(prompts, num_samples=3, max_new_tokens=40, seed=2, **options)
    ends = np.array([reason == "end" for reason in drawn.stop_reasons])
    buffer = az.RolloutBuffer()
    buffer.append(
        [prompt for prompt in prompts for _ in range(3)],
        drawn.token_ids,
        policy_version=0,
        sampler_log_probs=drawn.log_probs,
        terminated=ends,
        truncated=~ends,
    )
    return buffer.batch()


# -- temperature -------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_log_probs_are_those_of_logits_over_the_temperature(temperature):
    # correctness.md #1, and #4: the logits at t - 1 score token t.
    policy, batch = small_policy(), demonstrations(some_rows()).batch()
    expected = plain_log_probs(policy.model, batch, temperature=temperature)
    policy.keep_reference()
    current = policy.evaluate(batch, temperature=temperature).log_probs
    reference = policy.reference_log_probs(batch, temperature=temperature)
    for found in (current.detach(), reference):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_entropies_are_those_of_logits_over_the_temperature(temperature):
    policy, batch = small_policy(), demonstrations(some_rows()).batch()
    out = policy.evaluate(batch, temperature=temperature, logits=True)
    exact = torch.distributions.Categorical(logits=out.logits.double() / temperature).entropy()
    exact = torch.where(batch.response_mask, exact, 0.0)
    torch.testing.assert_close(out.entropy.double(), exact, atol=1e-5, rtol=0)


# -- the sampler and the training forward -------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_sampler_and_the_training_forward_agree_on_real_generations(temperature):
    # correctness.md #2: <= 1e-4 a token in float32, ragged prompts and lengths, dropout off.
    policy = stories_policy()
    batch = sampled_batch(policy, stories_prompts(policy), temperature=temperature)
    assert len(set(batch.prompt_lengths.tolist())) == 4
    out = policy.evaluate(batch, temperature=temperature)
    torch.testing.assert_close(out.log_probs.detach(), batch.sampler_log_probs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_sampler_and_the_training_forward_agree_on_ragged_rows(temperature):
    # correctness.md #2, on rows that end at different steps.
    policy = small_policy(3)
    policy.model.generation_config.eos_token_id = list(range(2, 60))  # most rows end early
    batch = sampled_batch(policy, byte_prompts([3, 17, 1, 8]), temperature=temperature)
    assert len(set(batch.response_lengths.tolist())) > 3
    assert bool(batch.terminated.any())
    out = policy.evaluate(batch, temperature=temperature)
    torch.testing.assert_close(out.log_probs.detach(), batch.sampler_log_probs, atol=1e-4, rtol=0)


def test_a_policy_is_never_left_in_training_mode():
    # Dropout would make the two passes differ (correctness.md #2).
    policy = small_policy()
    policy.keep_reference()
    assert not policy.model.training
    assert not policy.snapshot().model.training
    dropout = Policy(small_policy().model.train(), policy.tokenizer)
    assert not dropout.model.training


def test_a_bfloat16_sampler_is_near_its_training_forward_but_not_equal():
    # correctness.md #2: why old log-probs are recomputed below float32.
    policy = stories_policy("bfloat16")
    batch = sampled_batch(policy, stories_prompts(policy))
    out = policy.evaluate(batch)
    assert out.log_probs.dtype == torch.float32
    gap = (out.log_probs.detach() - batch.sampler_log_probs).abs()[batch.response_mask]
    assert 1e-3 < float(gap.max()) < 2.0
    assert float(gap.mean()) < 0.1


# -- padding -----------------------------------------------------------------------------------


def test_batch_mates_and_padding_change_a_log_prob_by_rounding_alone():
    # correctness.md #3: through the model <= 1e-4 a log-prob in float32.
    policy, rows = small_policy(), some_rows()
    batch = demonstrations(rows).batch()
    together = policy.evaluate(batch).log_probs.detach()
    for number in range(len(rows)):
        alone = policy.evaluate(batch.select([number])).log_probs.detach()[0]
        torch.testing.assert_close(together[number, : len(alone)], alone, atol=1e-4, rtol=0)
        assert not together[number, len(alone) :].any()


def test_more_padding_changes_a_log_prob_by_rounding_alone():
    policy, rows = small_policy(), some_rows()
    plain = policy.evaluate(demonstrations(rows).batch()).log_probs.detach()
    longer = [*rows, ([1] * 20, [9] * 30)]  # everyone is padded to 50 tokens
    padded = policy.evaluate(demonstrations(longer).batch()).log_probs.detach()
    torch.testing.assert_close(padded[:4, : plain.shape[1]], plain, atol=1e-4, rtol=0)


def test_left_padded_sampling_and_right_padded_training_agree():
    # The sampler pads prompts at the left, training pads rows at the right.
    policy = small_policy(5)
    batch = sampled_batch(policy, byte_prompts([2, 20]))
    expected = plain_log_probs(policy.model, batch)  # no padding at all
    torch.testing.assert_close(batch.sampler_log_probs, expected, atol=1e-4, rtol=0)
    trained = policy.evaluate(batch).log_probs.detach()
    torch.testing.assert_close(trained, expected, atol=1e-4, rtol=0)


def test_from_equal_logits_on_padding_changes_no_bit():
    # correctness.md #3: hidden states here are one-hot, so logits do not depend on the padding.
    mdp = TokenMDP.random(0, vocab_size=4, horizon=4, end_token=3)
    policy = mdp.policy(np.random.default_rng(1).normal(size=mdp.rewards.shape))
    policy.add_value_head().weight.data.normal_(generator=torch.Generator().manual_seed(0))
    rows = [(mdp.prompt, list(response)) for response in mdp.responses[::7]]
    batch = demonstrations(rows).batch()
    assert len(set(batch.response_lengths.tolist())) > 2
    together = policy.evaluate(batch, values=True)
    for number in range(len(batch)):
        alone = policy.evaluate(batch.select([number]), values=True)
        width = alone.log_probs.shape[1]
        for name in ("log_probs", "entropy", "values"):
            whole, part = getattr(together, name), getattr(alone, name)
            assert torch.equal(whole[number, :width], part[0]), name


def test_a_pad_token_equal_to_the_end_token_changes_nothing():
    # correctness.md #3: masks come from lengths, never from token ids.
    prompts = byte_prompts([3, 17, 1, 8])
    plain, equal = small_policy(3), small_policy(3)
    equal.tokenizer.pad_token = equal.tokenizer.eos_token
    equal.model.config.pad_token_id = equal.model.generation_config.pad_token_id = END
    one, two = (sampled_batch(policy, prompts) for policy in (plain, equal))
    assert one.fingerprint() == two.fingerprint()
    assert torch.equal(plain.evaluate(one).log_probs, equal.evaluate(two).log_probs)


def test_an_end_token_inside_the_prompt_is_a_token_like_any_other():
    # correctness.md #3: stories260K starts every prompt with token 1, one of its end tokens.
    policy = stories_policy()
    prompts = [[1, *ids] for ids in stories_prompts(policy)]
    assert all(prompt[:2] == [1, 1] for prompt in prompts)
    assert 1 in policy.end_token_ids
    batch = sampled_batch(policy, prompts)
    expected = plain_log_probs(policy.model, batch)
    torch.testing.assert_close(
        policy.evaluate(batch).log_probs.detach(), expected, atol=1e-4, rtol=0
    )
    torch.testing.assert_close(batch.sampler_log_probs, expected, atol=1e-4, rtol=0)
    assert float(expected[:, 0].min()) < -0.1  # the first response token is scored too


def test_masked_tokens_inside_a_response_are_read_but_not_scored():
    # correctness.md #7: a tool's tokens are context for what follows.
    policy, rows = small_policy(), some_rows()
    masks = [[i % 3 != 1 for i in range(len(response))] for _, response in rows]
    masked = demonstrations(rows, response_masks=masks).batch()
    whole = policy.evaluate(demonstrations(rows).batch()).log_probs.detach()
    found = policy.evaluate(masked).log_probs.detach()
    torch.testing.assert_close(found, torch.where(masked.response_mask, whole, 0.0))


# -- alignment ---------------------------------------------------------------------------------


def test_changing_future_tokens_changes_neither_value_nor_log_prob():
    # correctness.md #4: V(s_t) is read before token t.
    policy = small_policy()
    policy.add_value_head().weight.data.normal_(generator=torch.Generator().manual_seed(0))
    prompt, response = byte_prompts([5])[0], list(range(100, 110))
    outs = []
    for change in (response, [*response[:6], 7, 8, 9, 10]):
        batch = demonstrations([(prompt, change)]).batch()
        outs.append(policy.evaluate(batch, values=True))
    one, two = outs
    assert torch.equal(one.values[0, :7], two.values[0, :7])  # V(s_6) does not see token 6
    assert not torch.isclose(one.values[0, 7:], two.values[0, 7:]).any()
    assert torch.equal(one.log_probs[0, :6], two.log_probs[0, :6])
    assert torch.equal(one.entropy[0, :7], two.entropy[0, :7])
    assert not torch.isclose(one.log_probs[0, 6:], two.log_probs[0, 6:]).any()


def test_values_are_read_from_the_state_before_each_token():
    policy = small_policy()
    head = policy.add_value_head()
    head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    head.bias.data.fill_(0.5)
    batch = demonstrations(some_rows()).batch()
    values = policy.evaluate(batch, values=True).values.detach()
    after = policy.final_values(batch)
    for row in range(len(batch)):
        start, length = int(batch.prompt_lengths[row]), int(batch.response_lengths[row])
        tokens = batch.token_ids[row, : start + length]
        with torch.no_grad():
            hidden = policy.model.model(input_ids=tokens[None]).last_hidden_state[0]
            exact = head(hidden).squeeze(1)
        torch.testing.assert_close(values[row, :length], exact[start - 1 : -1], atol=1e-4, rtol=0)
        torch.testing.assert_close(after[row], exact[-1], atol=1e-4, rtol=0)


def test_hidden_states_and_logits_are_those_the_tokens_were_predicted_from():
    policy, batch = small_policy(), demonstrations(some_rows()).batch()
    out = policy.evaluate(batch, logits=True, hidden=True)
    picked = torch.log_softmax(out.logits, -1).gather(2, batch.response_ids[..., None]).squeeze(2)
    mask = batch.response_mask
    torch.testing.assert_close(out.log_probs[mask], picked[mask], atol=1e-5, rtol=0)
    from_hidden = policy.model.lm_head(out.hidden)
    torch.testing.assert_close(out.logits[mask], from_hidden[mask])
    assert not out.hidden[~mask].any()


# -- value head --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_value_head_says_exactly_zero(dtype):
    # correctness.md #14.
    policy, batch = small_policy(dtype=dtype), demonstrations(some_rows()).batch()
    head = policy.add_value_head()
    assert head.weight.dtype == torch.float32
    assert not policy.evaluate(batch, values=True).values.any()
    assert not policy.final_values(batch).any()


@pytest.mark.parametrize("detach", [True, False])
def test_the_value_loss_reaches_the_trunk_only_where_it_is_let(detach):
    policy, batch = small_policy(), demonstrations(some_rows()).batch()
    head = policy.add_value_head()
    head.weight.data.fill_(0.1)
    policy.evaluate(batch, values=True, detach_values=detach).values.sum().backward()
    assert head.weight.grad.abs().sum() > 0
    touched = [p for p in policy.model.parameters() if p.grad is not None and p.grad.any()]
    assert bool(touched) is not detach


def test_values_without_a_head_are_refused():
    batch = demonstrations(some_rows()).batch()
    with pytest.raises(ConfigError, match="no value head; call add_value_head"):
        small_policy().evaluate(batch, values=True)


# -- the fast path -----------------------------------------------------------------------------


def gradients(policy, batch, **options):
    """Returns log-probs, entropies, and the gradients of a mix of both, by parameter name."""
    out = policy.evaluate(batch, **options)
    weights = torch.linspace(-1, 1, out.log_probs.numel()).view_as(out.log_probs)
    (weights * out.log_probs + 0.3 * out.entropy).sum().backward()
    found = {name: p.grad.clone() for name, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    return out.log_probs.detach(), out.entropy.detach(), found


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("make", [small_policy, stories_policy])
def test_the_chunked_head_and_the_plain_one_agree_forward_and_backward(make, temperature):
    # correctness.md #18.
    policy, batch = make(), demonstrations(some_rows()).batch()
    assert policy.language_model.has_linear_head
    fast = gradients(policy, batch, temperature=temperature)
    plain = gradients(policy, batch, temperature=temperature, logits=True)
    torch.testing.assert_close(fast[0], plain[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(fast[1], plain[1], atol=1e-5, rtol=0)
    for name, gradient in plain[2].items():
        bound = 1e-5 * float(gradient.abs().max()) + 1e-7
        torch.testing.assert_close(fast[2][name], gradient, atol=bound, rtol=0, msg=name)


def test_the_chunked_head_agrees_with_autograd_through_torch_alone():
    policy, batch = small_policy(), demonstrations(some_rows()).batch()
    _, _, fast = gradients(policy, batch, temperature=0.8)
    logits = policy.evaluate(batch, logits=True).logits  # grown from the model by torch alone
    scores = torch.log_softmax(logits / 0.8, -1)
    log_probs = scores.gather(2, batch.response_ids[..., None]).squeeze(2) * batch.response_mask
    entropy = -(scores.exp() * scores).sum(-1) * batch.response_mask
    weights = torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)
    (weights * log_probs + 0.3 * entropy).sum().backward()
    for name, parameter in policy.model.named_parameters():
        bound = 2e-5 * float(parameter.grad.abs().max()) + 1e-7
        torch.testing.assert_close(fast[name], parameter.grad, atol=bound, rtol=0, msg=name)


def tiny_gemma():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=270, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, sliding_window=8,
        max_position_embeddings=64, final_logit_softcapping=5.0, eos_token_id=END, pad_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    return Gemma2ForCausalLM(config)


def tiny_cohere():
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        vocab_size=270, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, logit_scale=0.25, max_position_embeddings=64,
        eos_token_id=END, pad_token_id=0,
    )  # fmt: skip
    return CohereForCausalLM(config)


def tiny_granite():
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(
        vocab_size=270, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, logits_scaling=3.0,
        max_position_embeddings=64, eos_token_id=END, pad_token_id=0,
    )  # fmt: skip
    return GraniteForCausalLM(config)


def tiny_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=270, n_embd=32, n_layer=2, n_head=2, n_positions=64, eos_token_id=END
    )
    return GPT2LMHeadModel(config)


def tiny_gptj():
    from transformers import GPTJConfig, GPTJForCausalLM

    config = GPTJConfig(
        vocab_size=270, n_embd=32, n_layer=2, n_head=2, n_positions=64, rotary_dim=8,
        eos_token_id=END,
    )  # fmt: skip
    return GPTJForCausalLM(config)


def wrapped(make):
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or name == "lm_head.bias":
                parameter.normal_(0, 0.3)
    return Policy(model, small_policy().tokenizer)


@pytest.mark.parametrize("make", [tiny_gemma, tiny_cohere, tiny_granite])
def test_logits_changed_after_the_head_are_found_out_and_scored_as_they_are(make):
    # correctness.md #18: scaled (Cohere, Granite) or soft-capped (Gemma 2) logits.
    policy, batch = wrapped(make), demonstrations(some_rows()).batch()
    assert not policy.language_model.has_linear_head
    expected = plain_log_probs(policy.model, batch, temperature=0.7)
    found = policy.evaluate(batch, temperature=0.7)
    torch.testing.assert_close(found.log_probs.detach(), expected, atol=1e-4, rtol=0)
    assert found.log_probs.requires_grad


@pytest.mark.parametrize("make", [tiny_gemma, tiny_cohere, tiny_granite, tiny_gpt2, tiny_gptj])
def test_other_architectures_sample_what_they_train_on(make):
    # correctness.md #2, with sliding windows, soft caps, scales, learned positions, a biased head.
    policy = wrapped(make)
    assert policy.language_model.has_linear_head == (make in (tiny_gpt2, tiny_gptj))
    batch = sampled_batch(policy, byte_prompts([3, 17, 1, 8]), temperature=0.8)
    out = policy.evaluate(batch, temperature=0.8)
    torch.testing.assert_close(out.log_probs.detach(), batch.sampler_log_probs, atol=1e-4, rtol=0)
    expected = plain_log_probs(policy.model, batch, temperature=0.8)
    torch.testing.assert_close(out.log_probs.detach(), expected, atol=1e-4, rtol=0)


def test_shaped_logits_steer_generation_and_training_alike():
    policy = small_policy(3)
    direction = torch.randn(policy.language_model.width, generator=torch.Generator().manual_seed(0))

    def shape(logits, hidden):
        return logits * (1 + 0.1 * (hidden @ direction)[..., None])

    policy.shape_logits = shape
    batch = sampled_batch(policy, byte_prompts([3, 17]), temperature=0.8)
    out = policy.evaluate(batch, temperature=0.8, logits=True, hidden=True)
    torch.testing.assert_close(out.log_probs.detach(), batch.sampler_log_probs, atol=1e-4, rtol=0)
    mask = batch.response_mask
    policy.shape_logits = None  # the logits kept are the model's own, for the algorithm to shape
    torch.testing.assert_close(out.logits, policy.evaluate(batch, logits=True).logits)
    shaped = shape(out.logits[mask], out.hidden[mask])
    chosen = kernels.token_log_probs(shaped, batch.response_ids[mask], temperature=0.8)
    torch.testing.assert_close(chosen, out.log_probs[mask])
    policy.keep_reference()  # the reference is the model itself, unsteered
    plain = plain_log_probs(policy.model, batch, temperature=0.8)
    torch.testing.assert_close(
        policy.reference_log_probs(batch, temperature=0.8), plain, atol=1e-4, rtol=0
    )


# -- reference, snapshot, adapters ---------------------------------------------------------------


def nudge(policy):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def test_the_reference_stays_as_it_was_kept():
    policy, batch = small_policy(), demonstrations(some_rows()).batch()
    policy.keep_reference()
    before = policy.evaluate(batch).log_probs.detach()
    assert torch.equal(policy.reference_log_probs(batch), before)
    nudge(policy)
    assert torch.equal(policy.reference_log_probs(batch), before)
    assert not torch.equal(policy.evaluate(batch).log_probs.detach(), before)


def test_a_snapshot_is_frozen_and_its_own():
    policy, batch = small_policy(), demonstrations(some_rows()).batch()
    policy.add_value_head().bias.data.fill_(1.0)
    twin = policy.snapshot()
    before = policy.evaluate(batch, values=True)
    assert not any(p.requires_grad for p in twin.model.parameters())
    assert not any(p.requires_grad for p in twin.value_head.parameters())
    nudge(policy)
    policy.value_head.bias.data.fill_(2.0)
    after = twin.evaluate(batch, values=True)
    assert torch.equal(after.log_probs, before.log_probs)
    assert torch.equal(after.values, before.values)


def test_asking_for_a_reference_that_was_not_kept_is_refused():
    policy = small_policy()
    assert not policy.has_reference
    with pytest.raises(ConfigError, match="keeps no reference"):
        policy.reference_log_probs(demonstrations(some_rows()).batch())


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def test_the_reference_of_adapters_is_the_model_below_them(peft, tmp_path):
    # correctness.md #15.
    small_policy().save(tmp_path / "base")
    batch = demonstrations(some_rows()).batch()
    base = Policy.from_pretrained(tmp_path / "base")
    policy = Policy.from_pretrained(tmp_path / "base", lora_rank=4)
    policy.keep_reference()
    expected = base.evaluate(batch).log_probs.detach()
    torch.testing.assert_close(policy.evaluate(batch).log_probs.detach(), expected)
    nudge(policy)
    torch.testing.assert_close(policy.reference_log_probs(batch), expected)
    trained = policy.evaluate(batch).log_probs
    assert not torch.allclose(trained.detach(), expected, atol=1e-2)
    trained.sum().backward()  # the adapters still train after the reference was read
    names = {n for n, p in policy.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert names
    assert all("lora_" in name for name in names)


def test_adapters_on_a_fine_tuned_model_keep_the_fine_tuned_reference(peft, tmp_path):
    # correctness.md #15: "adapter off" must be the SFT model, not what it was tuned from.
    batch = demonstrations(some_rows()).batch()
    small_policy().save(tmp_path / "base")
    base = Policy.from_pretrained(tmp_path / "base")
    tuned = Policy.from_pretrained(tmp_path / "base", lora_rank=4)
    nudge(tuned)
    after_sft = tuned.evaluate(batch).log_probs.detach()
    tuned.adapter.save_pretrained(tmp_path / "sft")
    tuned.tokenizer.save_pretrained(tmp_path / "sft")
    policy = Policy.from_pretrained(tmp_path / "sft", lora_rank=4)
    policy.keep_reference()
    nudge(policy)
    reference = policy.reference_log_probs(batch)
    torch.testing.assert_close(reference, after_sft, atol=1e-4, rtol=0)
    assert not torch.allclose(reference, base.evaluate(batch).log_probs.detach(), atol=1e-2)


def test_saving_adapters_merges_them_and_leaves_the_policy_as_it_was(peft, tmp_path):
    small_policy().save(tmp_path / "base")
    batch = demonstrations(some_rows()).batch()
    policy = Policy.from_pretrained(tmp_path / "base", lora_rank=4)
    nudge(policy)
    before = policy.evaluate(batch).log_probs.detach()
    policy.save(tmp_path / "merged")
    merged = Policy.from_pretrained(tmp_path / "merged").evaluate(batch).log_probs.detach()
    torch.testing.assert_close(merged, before, atol=1e-4, rtol=0)
    assert torch.equal(policy.evaluate(batch).log_probs.detach(), before)


def test_a_copied_policy_scores_the_same():
    policy, batch = small_policy(), demonstrations(some_rows()).batch()
    twin = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    assert torch.equal(policy.evaluate(batch).log_probs, twin.evaluate(batch).log_probs)
    assert policy.fingerprint() == twin.fingerprint()
