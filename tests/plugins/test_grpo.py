"""GRPO and its kin: by hand, against enumerated groups, and in the dialects of others.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from learner.algorithm_cases import learn, make_batch, outputs, random_tables
from learner.group_cases import cosine, score_missed
from policy.cases import byte_prompts, roll_out, small_policy

import alignzoo as az
from alignzoo.testing import TokenMDP
from alignzoo.testing.enumeration import EveryBatch

IDS = ("grpo", "dr_grpo", "dapo", "gspo", "cispo")
NAN = float("nan")
PAGES = Path(__file__).parents[2] / "docs" / "algorithms"


def prepared(id, scores, lengths=None, *, group_ids=None, given=None, **options):
    """Returns the algorithm and a batch whose rows score this at their last token."""
    algorithm = az.make(id, **options)
    lengths = lengths or [1] * len(scores)
    rewards = np.zeros((len(scores), max(lengths)))
    rewards[np.arange(len(scores)), np.array(lengths) - 1] = scores
    groups = np.zeros(len(scores), dtype=int) if group_ids is None else np.array(group_ids)
    given = {"group_ids": groups, "scores": np.array(scores, dtype=float), **(given or {})}
    batch = make_batch(algorithm, {"rewards": rewards}, lengths, **given)
    algorithm.prepare(batch)
    return algorithm, batch


def advantages_of(*arguments, **options):
    _, batch = prepared(*arguments, **options)
    return batch.advantages[:, 0].tolist()


def metrics_of(loss):
    return az.Metrics(loss.metrics).result()


def with_ratios(id, ratios, advantages, lengths, **options):
    """Returns the loss of tokens with these ratios, and the gradient by their log-probs."""
    algorithm = az.make(id, **options)
    columns = {"old_log_probs": -np.ones(np.shape(ratios)), "advantages": advantages}
    batch = make_batch(algorithm, columns, lengths)
    out = outputs(log_probs=-1 + np.log(ratios))
    loss = algorithm.loss(batch, out)
    loss.value.backward()
    return loss, out.log_probs.grad


# -- by hand -----------------------------------------------------------------------------------


def test_the_example_worked_by_hand():
    # Two responses to one prompt, of 2 tokens and of 1; scores 1 and 0: mean 0.5, std 0.5 (of the
    # group itself), advantages 1 and -1. Ratios (1.3, 0.9) and 0.7, clipped to [0.8, 1.2]:
    #   min(1.3, 1.2) = 1.2 and min(0.9, 0.9) = 0.9: mean 1.05
    #   min(-0.7, -0.8) = -0.8
    #   policy loss -(1.05 - 0.8) / 2 = -0.125
    # The reference finds the first token twice as likely, the others as likely as the policy does:
    #   k3 = 2 - 1 - log 2 there, else 0; its mean over tokens, then responses: (1 - log 2) / 4
    #   loss -0.125 + 0.04 * (1 - log 2) / 4
    algorithm, batch = prepared("grpo", [1, 0], [2, 1], group_size=2)
    assert batch.advantages.tolist() == [[1.0, 1.0], [-1.0, 0.0]]
    old = np.array([[-1, -2], [-0.5, 0]])
    new = old + np.log([[1.3, 0.9], [0.7, 1]])
    columns = {"old_log_probs": old, "ref_log_probs": new + np.log([[2, 1], [1, 1]])}
    columns["advantages"] = batch.advantages.numpy()
    batch = make_batch(algorithm, columns, [2, 1])
    out = outputs(log_probs=new, entropy=[[0.3, 0.6], [0.9, 0]])
    loss = algorithm.loss(batch, out)
    expected = -0.125 + 0.04 * (1 - math.log(2)) / 4
    assert float(loss.value.detach()) == pytest.approx(expected, abs=1e-12)
    loss.value.backward()
    # Clipped tokens: 0; else -r A / length / 2. k3's gradient is 1 - 2 = -1 at the first token.
    expected = [[-0.04 / 4, -0.9 / 4], [0.0, 0.0]]
    assert out.log_probs.grad.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]
    log_ratios = np.log([1.3, 0.9, 0.7])
    assert metrics_of(loss) == pytest.approx(
        {
            "policy_loss": -0.125,
            "entropy": 0.6,
            "clip_frac": 2 / 3,  # correctness.md #13: clips that act
            "approx_kl": float((np.exp(log_ratios) - 1 - log_ratios).mean()),
            "ratio_max": 1.3,
        }
    )


@pytest.mark.parametrize(
    ("options", "winner", "loser"),
    [
        ({"dialect": "verl"}, 2.4749, -0.3536),
        ({"dialect": "trl"}, 2.4742, -0.3535),
        ({"dialect": "openrlhf"}, 2.4749, -0.3536),
        ({"dialect": "paper"}, 2.6458, -0.3780),
        ({"scale": "leave_one_out", "ddof": 1}, 1.0, -0.3780),
        ({"scale": "none"}, 0.875, -0.125),
    ],
)
def test_the_winner_of_eight_gets_the_advantage_its_dialect_gives(options, winner, loser):
    # correctness.md #28: one name, different maths.
    found = advantages_of("grpo", [1, 0, 0, 0, 0, 0, 0, 0], **options)
    assert [round(x, 4) for x in found] == [winner] + [loser] * 7


def test_a_response_is_measured_against_the_spread_of_the_others():
    # Others of 5: 1, 2, 3: mean 2, std 1. Of 1: 5, 2, 3: mean 10/3, std sqrt(7/3). And so on.
    found = advantages_of("grpo", [5, 1, 2, 3], scale="leave_one_out", ddof=1)
    expected = [3.0]
    for own, others in ((1, [5, 2, 3]), (2, [5, 1, 3]), (3, [5, 1, 2])):
        expected.append((own - np.mean(others)) / np.std(others, ddof=1))
    assert found == pytest.approx(expected)


def test_the_spread_may_be_that_of_all_groups():
    scores = [1, 0, 5, 4]
    found = advantages_of("grpo", scores, group_ids=[0, 0, 1, 1], scale="batch")
    assert found == pytest.approx(np.array([0.5, -0.5, 0.5, -0.5]) / np.std(scores))


# -- groups ------------------------------------------------------------------------------------

SCALES = ("group", "batch", "none", "leave_one_out")


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_advantages_of_a_group_sum_to_0(scale):
    # correctness.md #9.
    scores = [0.3, 0.1, 0.7, 5.0, 4.0, 4.5]
    found = advantages_of("grpo", scores, group_ids=[0, 1, 0, 1, 0, 1], scale=scale)
    assert sum(found[::2]) == pytest.approx(0, abs=1e-12)
    assert sum(found[1::2]) == pytest.approx(0, abs=1e-12)
    assert max(map(abs, found)) > 0.1


@pytest.mark.parametrize("scale", SCALES)
def test_equal_scores_and_a_response_alone_teach_exactly_nothing(scale):
    # correctness.md #9. The mean of seven 0.1 is not 0.1 in floating point.
    scores = [0.1] * 7 + [3.0] + [1.0, 2.0]
    found = advantages_of("grpo", scores, group_ids=[0] * 7 + [1] + [2] * 2, scale=scale)
    assert found[:8] == [0.0] * 8
    assert found[8] < 0 < found[9]


def test_unscorable_responses_are_left_out_of_their_group():
    # correctness.md #9: a NaN score. Two of each three responses are left.
    policy = small_policy()
    scores = iter([1.0, NAN, 3.0, 2.0, 8.0, NAN])
    run = roll_out(
        policy,
        az.make("grpo", group_size=3),
        byte_prompts([3, 5]),
        reward=lambda completions: [next(scores) for _ in completions],
        batch_size=6,
    )
    assert run.collected.num_unscorable == 2
    assert run.batch.advantages[:, 0].tolist() == [-1.0, 1.0, -1.0, 1.0]


@pytest.mark.parametrize("id", IDS)
def test_groups_of_one_are_refused(id):
    with pytest.raises(az.ConfigError, match=rf"{id}: option 'group_size' is 1; .*2"):
        az.make(id, group_size=1)


def test_a_batch_that_groups_do_not_fill_is_refused_naming_both(tmp_path, capsys):
    from alignzoo.cli import main

    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    code = main(
        f"train grpo --policy tiny --prompts {tmp_path}/prompts.jsonl --reward length "
        f"--out {tmp_path}/run --batch-size 12 --group-size 8".split()
    )
    said = capsys.readouterr().err
    assert code == 2
    for name, value in (("batch.size", 12), ("group.size", 8)):
        assert re.search(rf"{name} is {value}", said)


def test_a_penalty_in_the_reward_is_a_part_of_what_is_compared():
    algorithm = az.make("dr_grpo", kl_in="reward")
    rewards = [[-0.5, 1.0], [0.25, 0.25]]
    batch = make_batch(algorithm, {"rewards": rewards}, [2, 2], group_ids=np.zeros(2, dtype=int))
    algorithm.prepare(batch)
    assert batch.advantages.tolist() == [[0, 0], [0, 0]]  # 0.5 each


def test_the_reference_is_asked_for_only_where_the_loss_needs_it():
    assert az.make("grpo").needs.ref_log_probs
    assert not az.make("grpo", kl_coef=0.0).needs.ref_log_probs
    assert not az.make("grpo", kl_in="reward").needs.ref_log_probs
    assert not az.make("grpo", kl_in="none").needs.ref_log_probs
    assert not az.make("dapo").needs.ref_log_probs


# -- what differs between them -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        # correctness.md #10. Rows of 3 tokens and of 1, advantages 1 and 2, ratio 1.
        ("token_mean", -(3 * 1 + 1 * 2) / 4),
        ("sequence_mean", -(1 + 2) / 2),
        ("sequence_sum_norm", -(3 * 1 + 1 * 2) / (2 * 10)),
    ],
)
def test_how_token_losses_are_averaged_is_an_option(aggregate, expected):
    loss, _ = with_ratios(
        "dapo", np.ones((2, 3)), [[1, 1, 1], [2, 0, 0]], [3, 1],
        aggregate=aggregate, max_response_length=10,
    )  # fmt: skip
    assert float(loss.value.detach()) == pytest.approx(expected)


def test_the_averages_are_those_of_the_papers():
    found = {id: az.make(id).config.aggregate for id in IDS}
    assert found == {
        "grpo": "sequence_mean",
        "dr_grpo": "sequence_sum_norm",
        "dapo": "token_mean",
        "gspo": "sequence_mean",
        "cispo": "token_mean",
    }


def test_dr_grpo_leaves_the_spread_out():
    assert advantages_of("dr_grpo", [3, 1, 1, 1]) == [1.5, -0.5, -0.5, -0.5]


def test_dapo_follows_a_ratio_further_up_than_down():
    ratios, advantages = [[1.25, 1.3, 0.75, 0.85]], [[1.0, 1.0, -1.0, -1.0]]
    _, gradient = with_ratios("dapo", ratios, advantages, [4])
    expected = [-1.25 / 4, 0.0, 0.0, 0.85 / 4]  # 1 + 0.28 and 1 - 0.2
    assert gradient.flatten().tolist() == pytest.approx(expected)


def test_the_second_clip_bounds_the_ratio_of_bad_tokens():
    _, gradient = with_ratios("grpo", [[2.0, 4.0]], [[-1.0, -1.0]], [2], dialect="verl", kl_coef=0)
    assert gradient.flatten().tolist() == pytest.approx([2.0 / 2, 0.0])
    _, gradient = with_ratios("grpo", [[2.0, 4.0]], [[-1.0, -1.0]], [2], dialect="trl")
    assert gradient.flatten().tolist() == pytest.approx([2.0 / 2, 4.0 / 2])


def test_gspo_clips_whole_responses():
    # Of two responses of 2 tokens: ratios (e^0.3, e^-0.1), so s = e^0.1; and (e^-0.3, e^0.1), so
    # s = e^-0.1. Bounds 1 +- 0.15: neither is clipped; 1 + 0.05: the first. ds / dlog p_t = s / 2.
    ratios = np.exp([[0.3, -0.1], [-0.3, 0.1]])
    s = np.exp([0.1, -0.1])
    loss, gradient = with_ratios("gspo", ratios, np.ones((2, 2)), [2, 2], clip_range=0.15,
                                 clip_range_high=0.15)  # fmt: skip
    assert float(loss.value.detach()) == pytest.approx(-s.mean())
    assert gradient.tolist() == [pytest.approx([-x / 4] * 2) for x in s]
    loss, gradient = with_ratios("gspo", ratios, np.ones((2, 2)), [2, 2], clip_range=0.15,
                                 clip_range_high=0.05)  # fmt: skip
    assert float(loss.value.detach()) == pytest.approx(-(1.05 + s[1]) / 2)
    assert gradient.tolist() == [[0.0, 0.0], pytest.approx([-s[1] / 4] * 2)]
    assert metrics_of(loss)["clip_frac"] == 0.5


def test_cispo_clips_the_weight_and_leaves_no_token_out():
    # Ratios 6 and 0.1 where the bounds are 5 and 0: weights 5 and 0.1, whatever the advantage.
    ratios, advantages = [[6.0, 0.1, 6.0, 0.1]], [[1.0, 1.0, -1.0, -1.0]]
    loss, gradient = with_ratios("cispo", ratios, advantages, [4])
    assert gradient.flatten().tolist() == pytest.approx([-5 / 4, -0.1 / 4, 5 / 4, 0.1 / 4])
    assert metrics_of(loss)["clip_frac"] == 0.0


# -- dapo's sampling and lengths ---------------------------------------------------------------


def test_dapo_drops_groups_whose_scores_are_all_equal():
    algorithm, batch = prepared(
        "dapo", [1, 1, 0.5, 1, 0, 0, 7], group_ids=[0, 0, 1, 1, 2, 2, 3], group_size=2
    )
    assert algorithm.keep(batch).tolist() == [False, False, True, True, False, False, False]
    assert az.make("dapo", dynamic_sampling=False).keep(batch) is None


def test_dapo_samples_again_for_what_it_dropped():
    scores = iter([1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 5.0, 5.0])
    run = roll_out(
        small_policy(),
        az.make("dapo", group_size=2),
        byte_prompts([3, 5]),
        reward=lambda completions: [next(scores) for _ in completions],
        batch_size=4,
    )
    # Of two groups the first is dropped; one more is sampled, and kept.
    assert run.batch.scores.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert run.metrics["kept_fraction"] == pytest.approx(4 / 6)


def test_dapo_takes_score_from_overlong_responses():
    # eq. 13 of the paper with L_max = 10, L_cache = 4: nothing up to 6 tokens, then a quarter a
    # token, all of it from 10 on. Scores 1: 1, 1, 0.75, 0; their mean 0.6875.
    lengths = [2, 6, 7, 10]
    _, batch = prepared(
        "dapo", [1, 1, 1, 1], lengths, overlong_buffer=4, max_response_length=10, scale="none"
    )
    assert batch.advantages[:, 0].tolist() == [0.3125, 0.3125, 0.0625, -0.6875]
    _, batch = prepared(
        "dapo", [1, 1, 1, 1], lengths, overlong_buffer=4, max_response_length=10, scale="none",
        overlong_penalty=2.0,
    )  # fmt: skip
    assert batch.advantages[:, 0].tolist() == [0.625, 0.625, 0.125, -1.375]


def test_dapo_may_leave_truncated_responses_out():
    ended = np.array([True, False])
    given = {"terminated": ended, "truncated": ~ended}
    _, batch = prepared("dapo", [1, 0], given=given, overlong_filter=True)
    assert batch.advantages[:, 0].tolist() == [1.0, 0.0]
    _, batch = prepared("dapo", [1, 0], given=given)
    assert batch.advantages[:, 0].tolist() == [1.0, -1.0]


# -- masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
def test_a_response_counts_without_its_masked_tokens(id):
    # correctness.md #7.
    options = {"group_size": 2, "kl_coef": 0.1, "aggregate": "token_mean"}
    algorithm = az.make(id, **options)
    masks = [[True, False, True, True], [False, True, True, False]]
    same = {"group_ids": np.zeros(2, dtype=int), "scores": np.array([3.0, 1.0])}
    old = [[-1, NAN, -2, -3], [NAN, -1, -2, NAN]]
    ref = [[-2, NAN, -1, -3], [NAN, -2, -1, NAN]]
    new = [[-1.1, NAN, -1.9, -3], [NAN, -1, -2.3, NAN]]
    rewards = [[0, NAN, 0, 3], [NAN, 0, 1, NAN]]
    losses = []
    for keep in (None, masks):

        def cut(rows, keep=keep):
            if keep is not None:
                return rows
            short = [[x for x, m in zip(row, mask, strict=True) if m]
                     for row, mask in zip(rows, masks, strict=True)]  # fmt: skip
            return [row + [0.0] * (3 - len(row)) for row in short]

        given = same if keep is None else {**same, "response_masks": masks}
        columns = {"rewards": rewards, "old_log_probs": old, "ref_log_probs": ref}
        lengths = [3, 2] if keep is None else [4, 4]
        batch = make_batch(algorithm, {k: cut(v) for k, v in columns.items()}, lengths, **given)
        algorithm.prepare(batch)
        loss = algorithm.loss(batch, outputs(log_probs=cut(new), entropy=np.zeros_like(cut(new))))
        losses.append(float(loss.value.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0] != 0


# -- enumerated groups -------------------------------------------------------------------------


def advantages_by_formula(id, scores):
    centred = scores - scores.mean()
    if id == "dr_grpo" or scores.min() == scores.max():
        return centred * (scores.min() < scores.max())
    return centred / scores.std(unbiased=False)


def loss_by_formula(id, kl_coef):
    """Returns the papers' own objectives, token by token, with alignzoo's default numbers."""

    def loss(new, old, ref, rewards):
        scores = torch.stack([r.sum() for r in rewards])
        advantages, tokens = advantages_by_formula(id, scores), []
        for a, n, o, f in zip(advantages, new, old, ref, strict=True):
            r = torch.exp(n - o)
            if id == "gspo":
                r = torch.exp((n - o).mean()).expand(len(n))
            low, high = {
                "dapo": (0.8, 1.28),
                "gspo": (1 - 3e-4, 1 + 4e-4),
                "cispo": (0.0, 5.0),
            }.get(id, (0.8, 1.2))
            if id == "cispo":
                surrogate = r.clamp(low, high).detach() * a * n
            else:
                surrogate = torch.minimum(r * a, r.clamp(low, high) * a)
            tokens.append(-surrogate + kl_coef * (torch.exp(f - n) - 1 - (f - n)))
        if id in ("grpo", "gspo"):
            return torch.stack([t.mean() for t in tokens]).mean()
        if id == "dr_grpo":
            return torch.cat(tokens).sum() / (len(tokens) * 64)
        return torch.cat(tokens).mean()

    return loss


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_the_expected_gradient_is_that_of_its_own_formula(id, kl_coef):
    mdp = TokenMDP.random(0, horizon=2, end_token=2)
    logits, ref = random_tables(mdp, 1)
    old = logits + 0.3 * random_tables(mdp, 2)[0]
    algorithm = az.make(id, group_size=3, kl_coef=kl_coef)
    case = EveryBatch(mdp, logits, algorithm, size=3, old_logits=old, ref_logits=ref)
    expected = case.expected_by_formula(loss_by_formula(id, kl_coef))
    found = case.expected_gradient()
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(1.0, abs(expected).max()))
    assert abs(expected).max() > 1e-4


@pytest.mark.parametrize("size", [2, 3])
def test_dr_grpo_is_the_exact_policy_gradient_times_g_minus_one_over_g(size):
    mdp = TokenMDP.random(0, horizon=2, end_token=2)
    logits, _ = random_tables(mdp, 1)
    algorithm = az.make("dr_grpo", group_size=size, max_response_length=1)
    found = EveryBatch(mdp, logits, algorithm, size=size).expected_gradient()
    np.testing.assert_allclose(found, (size - 1) / size * mdp.policy_gradient(logits), atol=1e-6)


def cosine_to_the_policy_gradient(id):
    """Returns it for groups of 3, at ratio 1, averaged over five MDPs and policies."""
    found = []
    for seed in range(5):
        mdp = TokenMDP.random(seed, horizon=2, end_token=2)
        logits, _ = random_tables(mdp, seed)
        algorithm = az.make(id, group_size=3, kl_coef=0.0)
        gradient = EveryBatch(mdp, logits, algorithm, size=3).expected_by_formula(
            loss_by_formula(id, 0.0)
        )
        found.append(cosine(gradient, mdp.policy_gradient(logits)))
    return min(found), float(np.mean(found))


@pytest.mark.parametrize("id", IDS)
def test_its_page_prints_the_cosine_to_the_policy_gradient(id):
    least, mean = cosine_to_the_policy_gradient(id)
    page = (PAGES / "grpo.md").read_text()
    assert "not the gradient of" in page
    assert f"| `{id}` | {mean:.3f} | {least:.3f} |" in page
    assert (least > 1 - 1e-9) == (id == "dr_grpo")


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id", ["grpo", *(pytest.param(id, marks=pytest.mark.slow) for id in IDS[1:])]
)
@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_largest_score(id, seed):
    # Their objective without a penalty. A policy near the optimum draws equal scores alone, and
    # `learn` has no updates without a batch, which dynamic sampling would leave.
    mdp = TokenMDP.random(seed, end_token=2)
    options = {"dynamic_sampling": False} if id == "dapo" else {}
    algorithm = az.make(
        id, learning_rate=0.3, kl_coef=0.0, schedule="linear", decay_steps=50, **options
    )
    assert score_missed(mdp, np.zeros(mdp.rewards.shape)) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=50, batch_size=96)
    assert score_missed(mdp, logits) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": "mean"}, {"ddof": 2}, {"eps": -1e-9}, {"kl_coef": -0.1}, {"kl_in": "both"},
        {"kl_estimator": "k4"}, {"kind": "ppo"}, {"level": "word"}, {"clip_range": 0.0},
        {"clip_range_high": 0.0}, {"dual_clip": 1.0}, {"aggregate": "sum"}, {"ent_coef": -1.0},
        {"max_response_length": 0}, {"eps": NAN}, {"num_epochs": 0}, {"learning_rate": 0},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(id, wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"{id}: option '{name}' is"):
        az.make(id, **wrong)


@pytest.mark.parametrize(
    ("id", "wrong", "said"),
    [
        ("cispo", {"dual_clip": 3.0}, "dual_clip"),
        ("dapo", {"overlong_buffer": 65}, "overlong_buffer 65 .*max_response_length, 64"),
        ("dapo", {"overlong_buffer": 0}, "overlong_buffer"),
        ("dapo", {"overlong_penalty": 0.0}, "overlong_penalty"),
        ("grpo", {"dialect": "deepspeed"}, "dialect"),
        ("dapo", {"dialect": "trl"}, "dapo has no option 'dialect'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(id, wrong, said):
    with pytest.raises(az.ConfigError, match=said):
        az.make(id, **wrong)


def test_an_option_given_goes_before_the_dialects():
    config = az.make("grpo", dialect="verl", eps=0.5, aggregate="sequence_mean").config
    assert (config.eps, config.aggregate, config.dual_clip) == (0.5, "sequence_mean", 3.0)


def test_the_paper_is_the_dialect_that_is_spoken_unasked():
    assert az.make("grpo").config == az.make("grpo", dialect="paper").config
    fields = type(az.make("grpo").config).model_fields
    for name, value in type(az.make("grpo").config).dialects["paper"].items():
        assert fields[name].default == value
