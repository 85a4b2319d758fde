"""From samples to columns: old log-probs, where scores and penalties land, ends, tokens as drawn.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policy.cases import (
    byte_prompts,
    length_reward,
    plain_log_probs,
    roll_out,
    small_policy,
    stories_policy,
    stories_prompts,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import alignzoo as az
from alignzoo.rollout import last_action_positions
from alignzoo.testing import TokenMDP

END = 2  # of the small policy's tokenizer
PROMPTS = byte_prompts([3, 17, 1, 8, 5, 2])


class Probe(az.Algorithm):
    """Keeps the loss's view of ratios and changes nothing in the data."""

    class Config(az.AlgorithmConfig):
        pass

    def __init__(self, config=None, **options):
        super().__init__(config or self.Config(**options))
        self.log_ratios = []

    def loss(self, batch, out):
        gap = (out.log_probs - batch.old_log_probs)[batch.response_mask]
        self.log_ratios.append(gap.detach())
        return az.Loss(-(out.log_probs * batch.scores[:, None]).sum() / batch.num_tokens)


def early_ending(policy=None):
    """A policy for which about one token in five is an end token."""
    policy = policy or small_policy(3)
    policy.model.generation_config.eos_token_id = list(range(2, 60))
    return policy


def update(rollout):
    algorithm = rollout.learner.algorithm
    return algorithm.update(rollout.batch, rollout.learner).result()


# -- old log-probs -----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
@pytest.mark.parametrize("source", ["sampler", "recompute"])
def test_old_and_reference_log_probs_are_taken_at_the_sampling_temperature(source, temperature):
    # correctness.md #1.
    policy = early_ending()
    rollout = roll_out(policy, Probe(), PROMPTS, temperature=temperature, old_log_probs=source)
    exact = plain_log_probs(policy.model, rollout.batch, temperature=temperature)
    for name in ("old_log_probs", "ref_log_probs", "sampler_log_probs"):
        torch.testing.assert_close(getattr(rollout.batch, name), exact, atol=1e-4, rtol=0, msg=name)
    current = rollout.learner.evaluate(rollout.batch).log_probs
    torch.testing.assert_close(current, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_ratios_are_exactly_one_before_the_first_step(dtype, micro_batch_size):
    # correctness.md #2: exactly, where both passes share packing and dtype.
    policy = early_ending(small_policy(3, dtype=dtype))
    rollout = roll_out(
        policy, Probe(), PROMPTS, old_log_probs="recompute", micro_batch_size=micro_batch_size
    )
    update(rollout)
    ratios = torch.cat(rollout.learner.algorithm.log_ratios).exp()
    assert len(ratios) == rollout.batch.num_tokens
    assert torch.equal(ratios, torch.ones_like(ratios))


def test_recomputed_ratios_are_exactly_one_on_the_pretrained_model():
    policy = stories_policy()
    rollout = roll_out(
        policy, Probe(), stories_prompts(policy), old_log_probs="recompute", max_new_tokens=40
    )
    update(rollout)
    assert not torch.cat(rollout.learner.algorithm.log_ratios).any()


def test_sampler_ratios_are_one_within_rounding_on_real_generations():
    # correctness.md #2: <= 1e-4 a token in float32, ragged prompts.
    policy = stories_policy()
    rollout = roll_out(
        policy, Probe(), stories_prompts(policy) * 4, old_log_probs="sampler", max_new_tokens=60
    )
    assert torch.equal(rollout.batch.old_log_probs, rollout.batch.sampler_log_probs)
    update(rollout)
    gaps = torch.cat(rollout.learner.algorithm.log_ratios).abs()
    assert float(gaps.max()) <= 1e-4


@pytest.mark.parametrize(("dtype", "source"), [("float32", "sampler"), ("bfloat16", "recompute")])
def test_the_default_source_of_old_log_probs_depends_on_the_dtype(dtype, source):
    policy = early_ending(small_policy(3, dtype=getattr(torch, dtype)))
    batch = roll_out(policy, Probe(), PROMPTS).batch
    same = torch.equal(batch.old_log_probs, batch.sampler_log_probs)
    assert same == (source == "sampler")


@pytest.mark.parametrize("source", ["sampler", "recompute"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gap_between_sampler_and_training_forward_is_logged(dtype, source):
    # correctness.md #2: sampler_mismatch, mean and max, in every run.
    policy = stories_policy(dtype)
    prompts = stories_prompts(policy)
    rollout = roll_out(policy, Probe(), prompts, old_log_probs=source, max_new_tokens=30)
    batch = rollout.batch
    gap = (rollout.learner.evaluate(batch).log_probs - batch.sampler_log_probs).abs()
    gap = gap[batch.response_mask]
    metrics = update(rollout)
    assert metrics["sampler_mismatch"] == pytest.approx(float(gap.double().mean()), rel=1e-5)
    assert metrics["sampler_mismatch_max"] == pytest.approx(float(gap.max()), rel=1e-6)
    assert (metrics["sampler_mismatch_max"] < 1e-4) == (dtype == "float32")


def test_the_mismatch_is_that_of_the_policy_that_sampled():
    # Later steps of an update move the policy; that is no mismatch.
    class Steep(Probe):
        class Config(az.AlgorithmConfig):
            learning_rate: float = 1e-2
            num_epochs: int = 3

    policy = early_ending()
    metrics = update(roll_out(policy, Steep(), PROMPTS, reward=length_reward))
    assert metrics["sampler_mismatch_max"] < 1e-4


# -- rewards -----------------------------------------------------------------------------------


def penalised(coef, *, where="reward", moved=True, **options):
    """Returns a rollout whose policy has moved away from its reference."""
    policy = early_ending()
    policy.keep_reference()
    if moved:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            for parameter in policy.model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    algorithm = Probe(Probe.Config(kl_coef=coef, kl_in=where))
    return roll_out(policy, algorithm, PROMPTS, **options)


def test_the_score_lands_on_the_last_token_of_each_response():
    # correctness.md #5: by length.
    batch = penalised(0.0).batch
    assert len(set(batch.response_lengths.tolist())) > 2
    expected = torch.zeros_like(batch.rewards)
    for row, length in enumerate(batch.response_lengths.tolist()):
        expected[row, length - 1] = batch.scores[row]
    assert torch.equal(batch.rewards, expected)
    assert torch.equal(last_action_positions(batch), batch.response_lengths - 1)


@pytest.mark.parametrize("source", ["sampler", "recompute"])
def test_rewards_sum_to_score_minus_penalty_times_log_ratio(source):
    # correctness.md #5 and #12: k1 = log p_old - log p_ref, a token at a time.
    coef = 0.3
    batch = penalised(coef, old_log_probs=source).batch
    log_ratio = (batch.old_log_probs - batch.ref_log_probs).double()
    assert float(log_ratio.abs().max()) > 0.1
    expected = batch.scores.double() - coef * log_ratio.sum(1)
    torch.testing.assert_close(batch.rewards.double().sum(1), expected, atol=1e-5, rtol=0)
    before_last = batch.response_mask.clone()
    before_last[torch.arange(len(batch)), last_action_positions(batch)] = False
    torch.testing.assert_close(
        batch.rewards[before_last].double(), -coef * log_ratio[before_last], atol=1e-6, rtol=0
    )


def test_the_penalty_in_the_reward_has_no_gradient():
    # correctness.md #12: detached; a loss that only sums rewards has nothing to train.
    batch = penalised(0.3).batch
    for name in ("rewards", "old_log_probs", "ref_log_probs"):
        assert not getattr(batch, name).requires_grad


@pytest.mark.parametrize("where", ["loss", "none"])
def test_a_penalty_elsewhere_leaves_the_rewards_alone(where):
    batch = penalised(0.3, where=where).batch
    torch.testing.assert_close(batch.rewards.sum(1), batch.scores)
    assert int((batch.rewards != 0).sum()) <= len(batch)


def test_the_divergence_logged_is_the_mean_over_responses_of_the_summed_log_ratio():
    rollout = penalised(0.0)
    gap = (rollout.batch.old_log_probs - rollout.batch.ref_log_probs).double()
    assert rollout.metrics["kl"] == pytest.approx(float(gap.sum(1).mean()), rel=1e-6)


def test_the_divergence_is_zero_before_anything_was_learned():
    metrics = penalised(0.1, moved=False, old_log_probs="recompute").metrics
    assert metrics["kl"] == 0.0


def test_the_first_divergence_is_exactly_zero_to_the_reference_under_adapters(tmp_path):
    pytest.importorskip("peft")
    small_policy(3).save(tmp_path / "base")
    policy = early_ending(az.Policy.from_pretrained(tmp_path / "base", lora_rank=2))
    rollout = roll_out(policy, Probe(), PROMPTS, old_log_probs="recompute")
    assert rollout.metrics["kl"] == pytest.approx(0.0, abs=1e-6)


# -- ends --------------------------------------------------------------------------------------


def test_the_stop_reason_decides_what_is_terminated_and_what_is_truncated():
    # correctness.md #6: an end token drawn as the last possible one is an end.
    mdp = TokenMDP.random(0, end_token=2)
    policy = mdp.policy(np.zeros(mdp.rewards.shape))
    batch = roll_out(policy, Probe(), [mdp.prompt] * 60, max_new_tokens=mdp.horizon).batch
    kinds = set()
    for row in range(len(batch)):
        length = int(batch.response_lengths[row])
        ended = int(batch.response_ids[row, length - 1]) == 2
        assert bool(batch.terminated[row]) is ended
        assert bool(batch.truncated[row]) is not ended
        kinds.add((length, ended))
    assert {(1, True), (2, True), (3, True), (3, False)} == kinds


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_a_scored_response_ends_the_episode_however_it_stopped(algorithm):
    # correctness.md #6: at gamma = lambda = 1 a return is the sum of the later rewards, in rows
    # that were cut by the limit as well.
    made = az.make(algorithm, kl_coef=0.2, gamma=1.0)
    batch = roll_out(early_ending(), made, PROMPTS, batch_size=24, max_new_tokens=6).batch
    assert bool(batch.truncated.any())
    assert bool(batch.terminated.any())
    later = batch.rewards.double().flip(1).cumsum(1).flip(1) * batch.response_mask
    torch.testing.assert_close(batch.returns.double(), later, atol=1e-5, rtol=0)


# -- tokens in, tokens out -----------------------------------------------------------------------


def lossy_tokenizer():
    """Decodes every token to one of three letters, and encodes none of them back."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"word{i}": i for i in range(3, 262)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(f"word{i}", "xyz"[i % 3]) for i in range(261, 2, -1)] + [decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def test_text_is_never_encoded_again_between_sampling_and_training(monkeypatch):
    # correctness.md #16.
    policy = early_ending()
    policy.tokenizer = lossy_tokenizer()
    drawn = []
    generate = policy.generate

    def record(prompts, **options):
        drawn.append((prompts, generate(prompts, **options)))
        return drawn[-1][1]

    def refuse(*arguments, **options):
        raise AssertionError("text was encoded between sampling and training")

    monkeypatch.setattr(policy, "generate", record)
    for name in ("encode", "__call__", "_encode_plus", "tokenize"):
        monkeypatch.setattr(PreTrainedTokenizerFast, name, refuse, raising=False)
    rollout = roll_out(policy, Probe(), PROMPTS)
    update(rollout)
    batch = rollout.batch
    prompts, generation = drawn[0]
    for row, (prompt, tokens) in enumerate(zip(prompts, generation.token_ids, strict=True)):
        whole = [*prompt, *tokens.tolist()]
        assert batch.token_ids[row, : len(whole)].tolist() == whole
        assert not batch.token_ids[row, len(whole) :].any()


def test_the_lossy_tokenizer_does_not_bring_its_own_text_back():
    tokenizer = lossy_tokenizer()
    ids = [40, 41, 200, 7]
    assert tokenizer.encode(tokenizer.decode(ids)) != ids


def test_the_reward_sees_the_text_without_end_and_padding_tokens():
    seen = []

    def reward(prompts, completions):
        seen.extend(zip(prompts, completions, strict=True))
        return [0.0] * len(completions)

    policy = early_ending()
    rollout = roll_out(policy, Probe(), PROMPTS, reward=reward)
    batch = rollout.batch
    rows = [
        batch.response_ids[row, : int(batch.response_lengths[row])].tolist()
        for row in range(len(batch))
    ]
    # The cursor shuffles prompts; each text must stand beside its own prompt.
    texts = [policy.tokenizer.decode([t for t in row if t > 5]) for row in rows]
    starts = [batch.token_ids[row, : int(batch.prompt_lengths[row])].tolist() for row in range(6)]
    assert [text for _, text in seen] == texts
    assert [name for name, _ in seen] == [f"prompt {PROMPTS.index(start)}" for start in starts]


# -- groups, unscorable rows ---------------------------------------------------------------------


class Grouped(Probe):
    """Wants three responses a prompt."""

    @property
    def needs(self):
        return az.Needs(group_size=3)


def test_a_group_is_one_draw_of_one_prompt():
    policy = early_ending()
    batch = roll_out(policy, Grouped(), PROMPTS[:2], batch_size=12).batch
    assert batch.group_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for group in range(4):
        rows = [i for i in range(12) if batch.group_ids[i] == group]
        starts = {tuple(batch.token_ids[i, : int(batch.prompt_lengths[i])].tolist()) for i in rows}
        assert len(starts) == 1
    responses = {tuple(row) for row in batch.response_ids.tolist()}
    assert len(responses) > 8  # twelve draws with random numbers of their own


def test_a_batch_that_cuts_a_group_is_refused():
    with pytest.raises(az.ConfigError, match="batch_size is 10 and group_size is 3"):
        roll_out(early_ending(), Grouped(), PROMPTS, batch_size=10)


def test_unscorable_rows_leave_and_are_counted():
    def reward(completions):
        return [None if i % 3 == 0 else float(i) for i in range(len(completions))]

    rollout = roll_out(early_ending(), Probe(), PROMPTS, reward=reward)
    assert rollout.batch.scores.tolist() == [1.0, 2.0, 4.0, 5.0]
    assert rollout.collected.num_unscorable == 2
    assert rollout.metrics["score_mean"] == pytest.approx(3.0)
    assert rollout.collected.num_tokens > rollout.batch.num_tokens


def test_an_infinite_score_gives_no_batch_and_says_so():
    rollout = roll_out(
        early_ending(), Probe(), PROMPTS, reward=lambda completions: [float("inf")] + [0.0] * 5
    )
    assert rollout.batch is None
    assert rollout.collected.fault == "1 of 6 scores are infinite"
    assert len(rollout.collected.culprits) == 1
