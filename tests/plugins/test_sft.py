"""SFT: which tokens it learns from, by hand and through a model.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from learner.algorithm_cases import make_batch, outputs, random_tables
from policy.cases import demonstrations, plain_log_probs, small_policy, stories_policy

import alignzoo as az
from alignzoo.data import encode_demonstrations, read_demonstrations
from alignzoo.learner import Learner
from alignzoo.offline import append_examples, evaluate_examples
from alignzoo.testing import TokenMDP


def loss_of(log_probs, lengths, *, given=None, **options):
    algorithm = az.make("sft", **options)
    batch = make_batch(algorithm, {}, lengths, **(given or {}))
    out = outputs(log_probs=log_probs)
    return algorithm.loss(batch, out), out


# -- by hand -----------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_tokens_worked_by_hand():
    # Demonstrations of 3 tokens and of 1: (1 + 2 + 0.5 + 3) / 4 = 1.625.
    loss, out = loss_of([[-1, -2, -0.5], [-3, 0, 0]], [3, 1])
    assert float(loss.value.detach()) == pytest.approx(1.625)
    loss.value.backward()
    assert out.log_probs.grad[0].tolist() == [-0.25, -0.25, -0.25]
    assert float(out.log_probs.grad[1, 0]) == -0.25
    assert az.Metrics(loss.metrics).result()["loss"] == pytest.approx(1.625)


def test_how_token_losses_are_averaged_is_an_option():
    # correctness.md #10. Over sequences: ((1 + 2 + 0.5) / 3 + 3) / 2.
    loss, out = loss_of([[-1, -2, -0.5], [-3, 0, 0]], [3, 1], aggregate="sequence_mean")
    assert float(loss.value.detach()) == pytest.approx((3.5 / 3 + 3) / 2)
    loss.value.backward()
    assert out.log_probs.grad[0].tolist() == pytest.approx([-1 / 6] * 3)
    assert float(out.log_probs.grad[1, 0]) == -0.5


def test_a_mean_over_sequences_counts_unmasked_tokens_alone():
    # correctness.md #7.
    masks = {"response_masks": [[True, False, True], [False, True, False]]}
    loss, _ = loss_of([[-1, 0, -2], [0, -3, 0]], [3, 3], given=masks, aggregate="sequence_mean")
    assert float(loss.value.detach()) == pytest.approx((1.5 + 3) / 2)
    loss, _ = loss_of([[-1, 0, -2], [0, -3, 0]], [3, 3], given=masks)
    assert float(loss.value.detach()) == pytest.approx(6 / 3)


# -- which tokens carry loss ---------------------------------------------------------------------


def logit_gradient(policy, batch):
    """Returns the loss's gradient in the model's logits, summed in size over V: [B, L]."""
    algorithm = az.make("sft")
    model = policy.language_model
    model.has_linear_head = False  # so that whole logits are made, and can be watched
    kept = []
    forward = model.forward

    def watch(token_ids):
        hidden, logits = forward(token_ids)
        logits.retain_grad()
        kept.append(logits)
        return hidden, logits

    model.forward = watch
    algorithm.loss(batch, policy.evaluate(batch)).value.backward()
    return kept[0].grad.abs().sum(-1)


def test_the_loss_has_a_gradient_where_the_target_is_a_response_token_and_nowhere_else():
    # correctness.md #24: none where the target is a prompt token; some at the first response token.
    prompts, responses = [[1, 50, 51, 52], [1, 60]], [[70, 71, 2], [80, 81, 82, 83, 2]]
    batch = demonstrations(list(zip(prompts, responses, strict=True))).batch()
    gradient = logit_gradient(small_policy(), batch)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        first, last = len(prompt) - 1, len(prompt) + len(response) - 2
        assert bool((gradient[row, first : last + 1] > 1e-4).all())
        assert not gradient[row, :first].any()
        assert not gradient[row, last + 1 :].any()


CONVERSATION = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "ein"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "zwei"},
    ]
}


def encoded(policy, rows):
    ends = [policy.end_token_id]
    return encode_demonstrations(policy.tokenizer, read_demonstrations(rows), end_ids=ends)[0]


def test_every_assistant_turn_carries_loss_and_no_other_turn_does():
    # correctness.md #24: multi-turn.
    policy = small_policy()
    rows = encoded(policy, [CONVERSATION])
    buffer = az.RolloutBuffer()
    batch = buffer.batch(append_examples(buffer, rows, version=0))
    gradient = logit_gradient(policy, batch)[0]
    learned = [
        int(batch.token_ids[0, place + 1]) for place in range(len(gradient)) if gradient[place] > 0
    ]
    assert policy.tokenizer.decode(learned) == "ein<end>zwei<end>"
    assert len(learned) == batch.num_tokens == len("einzwei") + 2


def test_the_loss_is_that_of_the_model_row_by_row():
    policy = stories_policy()
    texts = [("Once upon a time", ", there was a cat."), ("The dog", " ran home. It was happy.")]
    rows = encoded(policy, [{"prompt": p, "completion": c} for p, c in texts])
    buffer = az.RolloutBuffer()
    batch = buffer.batch(append_examples(buffer, rows, version=0))
    algorithm = az.make("sft")
    loss = algorithm.loss(batch, policy.evaluate(batch))
    exact = -plain_log_probs(policy.model, batch).double().sum() / batch.num_tokens
    assert float(loss.value.detach()) == pytest.approx(float(exact), rel=1e-5)
    learner = Learner(policy, algorithm, buffer)
    held_out = evaluate_examples(learner, rows)
    assert held_out["eval_loss"] == pytest.approx(float(exact), rel=1e-5)


# -- learning ----------------------------------------------------------------------------------


def test_it_learns_the_demonstrations_by_heart():
    policy = small_policy(spread=0.1)
    texts = [("ping", "pong!"), ("tic", "tac"), ("a", "bcd")]
    rows = encoded(policy, [{"prompt": p, "completion": c} for p, c in texts])
    buffer = az.RolloutBuffer()
    batch = buffer.batch(append_examples(buffer, rows, version=0))
    learner = Learner(policy, az.make("sft", learning_rate=1e-2, num_epochs=80), buffer)
    learner.algorithm.update(batch, learner)
    prompts = [row.prompt_ids for row in rows]
    written = policy.generate(prompts, max_new_tokens=10, temperature=0)
    assert policy.decode(written.token_ids) == [c for _, c in texts]
    assert written.stop_reasons == ["end"] * 3  # the end token is learned too


def test_its_minimum_is_the_distribution_of_the_demonstrations():
    # Maximum likelihood of a table is counting: every response as often as the truth says.
    mdp = TokenMDP.random(0, horizon=2, end_token=2)
    truth, start = random_tables(mdp, 3)
    counts = np.round(mdp.response_probs(truth) * 200).astype(int)
    rows = [
        (mdp.prompt, list(response))
        for response, count in zip(mdp.responses, counts, strict=True)
        for _ in range(count)
    ]
    policy = mdp.policy(start)
    buffer = demonstrations(rows)
    options = {"learning_rate": 0.3, "num_epochs": 150, "schedule": "linear", "decay_steps": 150}
    learner = Learner(policy, az.make("sft", **options), buffer)
    learner.algorithm.update(buffer.batch(), learner)
    learned = policy.model.lm_head.weight.detach().double().T.numpy()
    found = mdp.response_probs(learned)
    np.testing.assert_allclose(found, counts / counts.sum(), atol=1e-3)


# -- options -----------------------------------------------------------------------------------


def test_it_learns_from_demonstrations_and_keeps_no_reference():
    algorithm = az.make("sft")
    assert algorithm.needs == az.Needs(source="demonstrations")
    assert algorithm.config.kl_in == "none"
    assert algorithm.kl_coef == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"aggregate": "sum"}, {"kl_in": "reward"}, {"learning_rate": 0}, {"num_epochs": 0},
        {"minibatch_size": 0}, {"weight_decay": -1}, {"learning_rate": math.inf},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"sft: option '{name}' is"):
        az.make("sft", **wrong)


def test_a_row_without_a_token_to_learn_from_is_refused():
    # correctness.md #23: an error naming rows, never a loss of 0.0.
    with pytest.raises(az.DataError, match="row 1"):
        demonstrations([([1], [5]), ([1], [6])], response_masks=[[True], [False]])


def test_losses_are_in_nats():
    # A flat policy over V tokens loses log V a token.
    mdp = TokenMDP.random(0, horizon=2)
    policy = mdp.policy(np.zeros(mdp.rewards.shape))
    batch = demonstrations([(mdp.prompt, [0, 1])]).batch()
    loss = az.make("sft").loss(batch, policy.evaluate(batch))
    assert float(loss.value.detach()) == pytest.approx(math.log(3), rel=1e-6)
    assert loss.value.dtype == torch.float32
