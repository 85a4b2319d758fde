"""The sampler: equal to transformers where greedy, true to the model's distribution elsewhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from policy.cases import byte_prompts, small_policy, stories_policy, stories_prompts

from alignzoo.errors import ConfigError
from alignzoo.policy import Policy
from alignzoo.testing import TokenMDP

END = 2  # of the small policy's tokenizer


def transformers_greedy(policy, prompts, max_new_tokens):
    """Returns what transformers' own `generate` writes, up to and with the end token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = policy.model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=0
    )
    rows = []
    for row in out[:, width:].tolist():
        ends = [i + 1 for i, token in enumerate(row) if token in policy.end_token_ids]
        rows.append(row[: ends[0]] if ends else row)
    return rows


def responses(generation):
    return [row.tolist() for row in generation.token_ids]


def watch_rows(policy):
    """Returns a list that gets the rows and tokens [b, L] of every forward of the backbone."""
    seen: list[tuple[int, int]] = []

    def note(_module, arguments, options):
        ids = options["input_ids"] if "input_ids" in options else arguments[0]
        seen.append(tuple(ids.shape))

    policy.language_model.backbone.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def likelier_end(policy, bonus=4.0):
    """Makes the end token likely, so that rows finish at different steps."""

    def shape(logits, hidden):
        return logits + bonus * torch.nn.functional.one_hot(torch.tensor(END), logits.shape[-1])

    policy.shape_logits = shape
    return policy


# -- greedy ------------------------------------------------------------------------------------


def test_greedy_equals_transformers_on_real_prompts_of_different_lengths():
    policy = stories_policy()
    prompts = stories_prompts(policy)
    ours = policy.generate(prompts, max_new_tokens=60, temperature=0)
    assert responses(ours) == transformers_greedy(policy, prompts, 60)
    assert all(not row.any() for row in ours.log_probs)


def test_greedy_equals_transformers_where_stories_end_at_different_steps():
    policy = stories_policy()
    prompts = stories_prompts(policy)[:2]
    ours = policy.generate(prompts, max_new_tokens=350, temperature=0)
    assert "end" in ours.stop_reasons
    assert responses(ours) == transformers_greedy(policy, prompts, 350)


def test_greedy_equals_transformers_on_the_built_in_model():
    policy = Policy.from_pretrained("tiny", seed=4)
    prompts = byte_prompts([9, 1, 4])
    ours = policy.generate(prompts, max_new_tokens=12, temperature=0)
    assert responses(ours) == transformers_greedy(policy, prompts, 12)


def test_greedy_equals_transformers_on_far_from_flat_logits():
    policy = small_policy(1)
    prompts = byte_prompts([5, 12, 1, 5])
    ours = policy.generate(prompts, max_new_tokens=20, temperature=0)
    assert responses(ours) == transformers_greedy(policy, prompts, 20)


# -- rows do not touch each other ---------------------------------------------------------------


@pytest.mark.parametrize("make", [stories_policy, lambda: likelier_end(small_policy(2))])
def test_a_row_draws_the_same_whatever_its_batch_mates(make):
    policy = make()
    is_real = policy.tokenizer.vocab_size > 300
    prompts = stories_prompts(policy) if is_real else byte_prompts([3, 9, 1, 6])
    options = {"max_new_tokens": 24, "temperature": 1.0, "seed": 11}
    together = policy.generate(prompts, num_samples=2, **options)
    for i, prompt in enumerate(prompts):
        for k in range(2):
            row = 2 * i + k
            alone = policy.generate([prompt], row_ids=np.array([row]), **options)
            assert responses(alone)[0] == responses(together)[row]
            np.testing.assert_allclose(alone.log_probs[0], together.log_probs[row], atol=1e-4)
            assert alone.stop_reasons[0] == together.stop_reasons[row]


def test_the_order_of_prompts_does_not_matter_where_row_ids_go_along():
    policy, prompts = likelier_end(small_policy(2)), byte_prompts([3, 9, 1, 6])
    first = policy.generate(prompts, max_new_tokens=16, seed=5)
    order = [2, 0, 3, 1]
    second = policy.generate(
        [prompts[i] for i in order], max_new_tokens=16, seed=5, row_ids=np.array(order)
    )
    assert [responses(first)[i] for i in order] == responses(second)


def test_finished_rows_leave_the_batch():
    policy = likelier_end(small_policy(2))
    seen = watch_rows(policy)
    drawn = policy.generate(byte_prompts([3, 9, 1, 6]), num_samples=3, max_new_tokens=16, seed=5)
    lengths = [len(row) for row in drawn.token_ids]
    assert len(set(lengths)) > 3
    # After the prefill, step t runs the rows that have more than t tokens.
    steps = [(sum(n > t for n in lengths), 1) for t in range(1, max(lengths))]
    assert seen[1:] == steps


def test_samples_of_one_prompt_share_one_prefill():
    policy = small_policy(2)
    seen = watch_rows(policy)
    prompts = byte_prompts([5, 3, 8])
    drawn = policy.generate(
        [prompts[0], prompts[1], prompts[0], prompts[2]], num_samples=4, max_new_tokens=6
    )
    assert seen[0] == (3, 8)  # distinct prompts, longest prompt
    assert len(drawn.token_ids) == 16
    assert len({tuple(row) for row in responses(drawn)}) > 8  # each its own draw


def test_equal_seeds_draw_equal_tokens_and_other_seeds_others():
    policy, prompts = small_policy(2), byte_prompts([5, 3])
    one, same, other = (
        responses(policy.generate(prompts, num_samples=2, max_new_tokens=8, seed=seed))
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_row_ids_continue_a_run():
    policy, prompts = small_policy(2), byte_prompts([5] * 6)
    whole = responses(policy.generate(prompts, max_new_tokens=8, seed=1))
    later = policy.generate(prompts[4:], max_new_tokens=8, seed=1, row_ids=np.array([4, 5]))
    assert responses(later) == whole[4:]


# -- ends --------------------------------------------------------------------------------------


def test_an_end_token_is_kept_as_the_last_one_and_no_other_follows():
    policy = likelier_end(small_policy(2))
    drawn = policy.generate(byte_prompts([3, 9, 1, 6]), num_samples=8, max_new_tokens=10)
    assert set(drawn.stop_reasons) == {"end", "length"}
    for tokens, log_probs, reason in zip(
        drawn.token_ids, drawn.log_probs, drawn.stop_reasons, strict=True
    ):
        assert len(tokens) == len(log_probs)
        assert END not in tokens[:-1]
        assert (tokens[-1] == END) == (reason == "end")
        if reason == "length":
            assert len(tokens) == 10


def test_an_end_token_drawn_at_the_limit_is_an_end():
    # correctness.md #6: the stop reason decides, never the width.
    policy = likelier_end(small_policy(2), bonus=100.0)
    drawn = policy.generate(byte_prompts([3, 5]), max_new_tokens=1)
    assert responses(drawn) == [[END], [END]]
    assert drawn.stop_reasons == ["end", "end"]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_no_response_is_longer_than_the_limit(limit):
    drawn = small_policy(2).generate(byte_prompts([3, 9]), num_samples=4, max_new_tokens=limit)
    assert max(len(row) for row in drawn.token_ids) == limit


def test_every_end_token_of_the_generation_config_ends_a_response():
    policy = small_policy(2)
    policy.model.generation_config.eos_token_id = [7, 9]
    assert policy.end_token_ids == [END, 7, 9]
    policy.shape_logits = lambda logits, hidden: (
        logits + 50 * torch.nn.functional.one_hot(torch.tensor(9), logits.shape[-1])
    )
    assert responses(policy.generate(byte_prompts([3]), max_new_tokens=5)) == [[9]]


def test_an_end_token_in_the_prompt_ends_nothing():
    # correctness.md #3: the end token may stand in the prompt.
    policy = small_policy(2)
    drawn = policy.generate([[END, 40, END]], num_samples=4, max_new_tokens=5)
    assert any(len(row) == 5 for row in drawn.token_ids)


# -- the distribution --------------------------------------------------------------------------


def exact_distribution(policy, prompt, temperature):
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    return torch.softmax(logits / temperature, -1).numpy()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_first_tokens_come_as_often_as_the_model_says(temperature):
    policy = stories_policy()
    prompt = stories_prompts(policy)[1]
    count = 20_000
    drawn = policy.generate(
        [prompt], num_samples=count, max_new_tokens=1, temperature=temperature, seed=8
    )
    expected = exact_distribution(policy, prompt, temperature) * count
    found = np.bincount([row[0] for row in drawn.token_ids], minlength=len(expected))
    rare = expected < 10
    cells = [(found[~rare], expected[~rare]), (found[rare].sum(), expected[rare].sum())]
    chi_square = sum(((f - e) ** 2 / e).sum() for f, e in cells)
    freedom = int((~rare).sum())  # cells - 1
    assert freedom > 8
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_whole_responses_come_as_often_as_the_table_says():
    mdp = TokenMDP.random(2, end_token=1)
    logits = np.random.default_rng(0).normal(size=mdp.rewards.shape)
    count = 20_000
    drawn = mdp.policy(logits).generate(
        [mdp.prompt], num_samples=count, max_new_tokens=mdp.horizon, seed=1
    )
    found = Counter(map(tuple, responses(drawn)))
    expected = mdp.response_probs(logits) * count
    chi_square = sum(
        (found[response] - e) ** 2 / e for response, e in zip(mdp.responses, expected, strict=True)
    )
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_a_generation_config_cuts_nothing_from_the_distribution():
    # correctness.md #1: training samples from the full distribution, and ignores the top-k,
    # top-p and temperature of generation_config.json.
    policy, prompts = small_policy(2), byte_prompts([5, 3])
    plain = policy.generate(prompts, num_samples=4, max_new_tokens=8, seed=1)
    config = policy.model.generation_config
    config.do_sample, config.top_k, config.top_p, config.temperature = True, 1, 0.01, 0.1
    config.repetition_penalty, config.min_new_tokens = 5.0, 8
    cut = policy.generate(prompts, num_samples=4, max_new_tokens=8, seed=1)
    assert responses(plain) == responses(cut)
    assert all(np.array_equal(a, b) for a, b in zip(plain.log_probs, cut.log_probs, strict=True))
    assert len({tuple(row) for row in responses(cut)}) == 8  # and top-k 1 would leave one a prompt


def test_a_cut_distribution_is_asked_for_and_renormalised():
    policy, prompt = small_policy(2), byte_prompts([5])[0]
    drawn = policy.generate([prompt], num_samples=200, max_new_tokens=1, top_k=3)
    exact = exact_distribution(policy, prompt, 1.0)
    best = np.argsort(-exact)[:3]
    assert {int(row[0]) for row in drawn.token_ids} <= set(best.tolist())
    for tokens, log_probs in zip(drawn.token_ids, drawn.log_probs, strict=True):
        assert log_probs[0] == pytest.approx(np.log(exact[tokens[0]] / exact[best].sum()), abs=1e-5)


# -- what is refused ---------------------------------------------------------------------------


def test_no_prompts_give_no_responses():
    assert small_policy().generate([], max_new_tokens=3).token_ids == []


def test_an_empty_prompt_is_refused_by_its_number():
    with pytest.raises(ConfigError, match="prompt 1 has no tokens"):
        small_policy().generate([[1], []], max_new_tokens=3)


def test_a_prompt_that_leaves_no_room_is_refused_with_both_lengths():
    policy = small_policy()  # a context of 64
    policy.generate(byte_prompts([61]), max_new_tokens=3)
    with pytest.raises(ConfigError, match=r"prompt 0 has 62 tokens; with 3 new ones .* 64"):
        policy.generate(byte_prompts([62]), max_new_tokens=3)


def test_values_come_with_the_sample_from_the_states_it_was_drawn_from():
    policy = small_policy()
    head = policy.add_value_head()
    head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    prompts = byte_prompts([5, 9, 2])
    drawn = policy.generate(prompts, max_new_tokens=12, num_samples=2, seed=4, values=True)
    assert policy.generate(prompts, max_new_tokens=12, num_samples=2, seed=4).values is None
    for row, (tokens, values) in enumerate(zip(drawn.token_ids, drawn.values, strict=True)):
        ids = torch.tensor([*prompts[row // 2], *tokens.tolist()])[None]
        with torch.no_grad():
            states = policy.model.model(input_ids=ids).last_hidden_state[0]
            exact = head(states).squeeze(1)[len(prompts[row // 2]) - 1 : -1]
        torch.testing.assert_close(torch.from_numpy(values), exact, atol=1e-4, rtol=0)
