"""DQN and Double DQN: by hand, and against the exact Q* of token MDPs.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from learner.algorithm_cases import random_tables
from policy.cases import byte_prompts, roll_out, small_policy

import alignzoo as az
from alignzoo.collection import RolloutSource
from alignzoo.data import EncodedPrompt, PromptRow
from alignzoo.learner import Learner, restrict
from alignzoo.run_options import TrainerOptions
from alignzoo.scoring import RewardSum
from alignzoo.testing import TokenMDP
from alignzoo.training_data import Dataset

IDS = ["dqn", "ddqn"]


def make(id, *, online, target=None, **options):
    """Returns the algorithm with Q given as tables [S, V]; the hidden state s is one-hot."""
    states, tokens = len(online), len(online[0])
    algorithm = az.make(id, **{"dueling": False, "min_prob": 0.0, **options})
    algorithm.build(stand_in(states, tokens))
    for name, table in {"online": online, "target": online if target is None else target}.items():
        algorithm.heads[name][-1].weight.data = torch.tensor(table, dtype=torch.float32).T
    return algorithm


def stand_in(width, vocab_size):
    """Returns what `build` reads of a policy."""
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=vocab_size))
    return SimpleNamespace(
        language_model=SimpleNamespace(width=width),
        model=SimpleNamespace(config=config),
        device="cpu",
    )


def make_batch(algorithm, responses, rewards, *, masks=None):
    buffer = az.RolloutBuffer()
    buffer.append([[1]] * len(responses), responses, policy_version=0, response_masks=masks)
    buffer.set("rewards", rewards)
    return restrict(buffer.batch(), algorithm)


def make_out(states, logits=None, *, num_states, num_tokens):
    """Returns a model's output: the number of the state before each token, and flat logits."""
    hidden = torch.nn.functional.one_hot(torch.tensor(states), num_states).float()
    if logits is None:
        logits = torch.zeros((*hidden.shape[:2], num_tokens))
    nothing = torch.zeros(hidden.shape[:2])
    return az.PolicyOutput(nothing, nothing, logits=torch.as_tensor(logits), hidden=hidden)


# -- by hand -----------------------------------------------------------------------------------

ONLINE = [[0.0, 0.5, 0.0], [1.0, 3.0, 2.0]]
TARGET = [[7.0, 7.0, 7.0], [5.0, 4.0, 9.0]]


@pytest.mark.parametrize(("id", "target"), [("dqn", 1 + 0.5 * 9), ("ddqn", 1 + 0.5 * 4)])
def test_the_example_worked_by_hand(id, target):
    # correctness.md #19. One response of two tokens: token 1 in state 0, then token 2 in state 1,
    # rewards 1 and 2; gamma = 0.5. In state 1 the online network's best is token 1 (3), the target
    # network's is token 2 (9).
    #   dqn:  y_1 = 1 + 0.5 * max(5, 4, 9) = 5.5
    #   ddqn: y_1 = 1 + 0.5 * Q_target(1, argmax(1, 3, 2) = 1) = 1 + 0.5 * 4 = 3
    #   y_2 = 2 for both: the response has ended, so nothing follows.
    # Errors Q - y: 0.5 - y_1, and 2 - 2 = 0; huber with delta 1: |e| - 0.5, and 0; over 2 tokens.
    algorithm = make(id, online=ONLINE, target=TARGET, gamma=0.5, n_step=1)
    batch = make_batch(algorithm, [[1, 2]], [[1.0, 2.0]])
    loss = algorithm.loss(batch, make_out([[0, 1]], num_states=2, num_tokens=3))
    error = 0.5 - target
    assert float(loss.value.detach()) == pytest.approx((abs(error) - 0.5) / 2)
    found = az.Metrics(loss.metrics).result()
    assert found["q_targets"] == pytest.approx((target + 2) / 2)
    assert found["q_values"] == pytest.approx((0.5 + 2) / 2)
    loss.value.backward()
    gradient = algorithm.heads["online"][-1].weight.grad.T
    # The slope of huber is -1 beyond delta; over 2 tokens. Only Q of the token taken moves.
    assert gradient.tolist() == [[0, -0.5, 0], [0, 0, 0]]
    assert all(p.grad is None for p in algorithm.heads["target"].parameters())


@pytest.mark.parametrize("id", IDS)
def test_nothing_is_bootstrapped_past_the_end_of_a_response(id):
    # correctness.md #6, #19: neither from padding nor from the row below.
    algorithm = make(id, online=ONLINE, target=TARGET, n_step=1)
    batch = make_batch(algorithm, [[0], [1, 2]], [[4.0], [1.0, 2.0]])
    best = torch.tensor([100.0, 200.0, 9.0])
    assert algorithm.targets(batch, best).tolist() == [4.0, 1.0 + 9.0, 2.0]


@pytest.mark.parametrize(
    ("n_step", "targets"),
    # Rewards 1, 2, 3; gamma 0.5; V of the states 10, 20, 40.
    [
        (1, [1 + 0.5 * 20, 2 + 0.5 * 40, 3]),
        (2, [1 + 0.5 * 2 + 0.25 * 40, 2 + 0.5 * 3, 3]),
        (3, [1 + 0.5 * 2 + 0.25 * 3, 2 + 0.5 * 3, 3]),
        (None, [1 + 0.5 * 2 + 0.25 * 3, 2 + 0.5 * 3, 3]),
    ],
)
def test_n_steps_are_summed_before_q_takes_over(n_step, targets):
    algorithm = make("dqn", online=ONLINE, gamma=0.5, n_step=n_step)
    batch = make_batch(algorithm, [[0, 0, 0]], [[1.0, 2.0, 3.0]])
    assert algorithm.targets(batch, torch.tensor([10.0, 20.0, 40.0])).tolist() == targets


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("n_step", [1, 2, None])
def test_a_response_with_holes_learns_as_the_one_without_its_masked_tokens(id, n_step):
    # correctness.md #7: what lies under the mask, NaN included, changes nothing.
    nan = float("nan")
    algorithm = make(id, online=ONLINE, target=TARGET, gamma=0.5, n_step=n_step, cql_coef=0.3)
    holes = make_batch(
        algorithm,
        [[1, 0, 2], [0, 2]],
        [[1.0, nan, 2.0], [nan, 3.0]],
        masks=[[True, False, True], [False, True]],
    )
    out = make_out([[0, 0, 1], [0, 1, 0]], num_states=2, num_tokens=3)
    out.hidden[0, 1] = out.hidden[1, 0] = out.hidden[1, 2] = nan
    out.logits[0, 1] = out.logits[1, 0] = nan
    dense = make_batch(algorithm, [[1, 2], [2]], [[1.0, 2.0], [3.0]])
    plain = make_out([[0, 1], [1, 0]], num_states=2, num_tokens=3)
    found, expected = (algorithm.loss(*pair).value for pair in ((holes, out), (dense, plain)))
    assert float(found.detach()) == float(expected.detach())


def test_the_conservative_term_worked_by_hand():
    # One token, 1 in state 0 with Q = (0, ln 2, ln 3), reward ln 2, so that the error is 0:
    # log(1 + 2 + 3) - ln 2 = ln 3, times 0.5.
    algorithm = make("dqn", online=[[0.0, np.log(2), np.log(3)]], cql_coef=0.5)
    batch = make_batch(algorithm, [[1]], [[np.log(2)]])
    loss = algorithm.loss(batch, make_out([[0]], num_states=1, num_tokens=3))
    assert float(loss.value.detach()) == pytest.approx(0.5 * np.log(3))
    loss.value.backward()  # softmax less one-hot: (1, 2, 3) / 6 - (0, 1, 0)
    gradient = algorithm.heads["online"][-1].weight.grad[:, 0]
    assert gradient.tolist() == pytest.approx([0.5 / 6, 0.5 * (2 / 6 - 1), 0.25])


def test_a_dueling_head_is_a_value_plus_advantages_less_their_mean():
    # Wang et al. 2016, eq. 9: V = 10, A = (1, 2, 6), mean 3: Q = (8, 9, 13).
    algorithm = az.make("dqn", dueling=True)
    algorithm.build(stand_in(1, 3))
    algorithm.heads["online"][-1].bias.data = torch.tensor([1.0, 2.0, 6.0, 10.0])
    assert algorithm.q_values("online", torch.zeros(2, 1)).tolist() == [[8, 9, 13]] * 2


# -- the support -------------------------------------------------------------------------------

LOGITS = torch.log(torch.tensor([0.6, 0.3, 0.1]))


@pytest.mark.parametrize(
    ("min_prob", "allowed"),
    [(0.0, [1, 1, 1]), (0.1, [1, 1, 1]), (0.2, [1, 1, 0]), (0.51, [1, 0, 0]), (1.0, [1, 0, 0])],
)
def test_the_support_holds_what_is_likely_enough_beside_the_likeliest(min_prob, allowed):
    algorithm = make("dqn", online=ONLINE, min_prob=min_prob)
    assert algorithm.support(LOGITS).tolist() == [bool(x) for x in allowed]


@pytest.mark.parametrize(("id", "target"), [("dqn", 5.0), ("ddqn", 5.0)])
def test_the_maximum_is_over_the_support_alone(id, target):
    # In state 1 the unsteered model allows tokens 0 and 2. Online Q is (4, 9, 2): among these token
    # 0 is best, and the target network's (5, 9, 3) has its maximum there too.
    algorithm = make(
        id, online=[[0.0] * 3, [4.0, 9.0, 2.0]], target=[[0.0] * 3, [5.0, 9.0, 3.0]],
        min_prob=0.5, n_step=1,
    )  # fmt: skip
    batch = make_batch(algorithm, [[1, 2]], [[0.0, 0.0]])
    logits = torch.log(torch.tensor([[[1.0, 1.0, 1.0], [0.4, 0.1, 0.4]]]))
    loss = algorithm.loss(batch, make_out([[0, 1]], logits, num_states=2, num_tokens=3))
    assert az.Metrics(loss.metrics).result()["q_targets"] == target / 2


# -- steering ----------------------------------------------------------------------------------


def test_q_over_the_temperature_is_added_to_the_logits():
    algorithm = make("dqn", online=[[1.0, 2.0, 4.0]], steer_temperature=0.5)
    steered = algorithm.shape_logits(torch.tensor([[0.1, 0.2, 0.3]]), torch.ones(1, 1))
    assert steered[0].tolist() == pytest.approx([2.1, 4.2, 8.3])


def test_a_token_outside_the_support_counts_at_most_as_the_worst_inside():
    # Allowed are tokens 0 and 1, the worse of them has Q = 1; token 2 has more, token 3 less.
    algorithm = make("dqn", online=[[1.0, 2.0, 9.0, -5.0]], steer_temperature=0.5, min_prob=0.1)
    logits = torch.tensor([[0.0, 0.0, -9.0, -9.0]])
    assert algorithm.shape_logits(logits, torch.ones(1, 1)).tolist() == [[2, 4, -7, -19]]


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("options", [{}, {"head_width": 8}, {"dueling": False}])
def test_nothing_is_steered_at_first(id, options):
    policy = small_policy()
    plain = policy.generate(byte_prompts([3, 7]), max_new_tokens=8)
    algorithm = az.make(id, **options)
    Learner(policy, algorithm, az.RolloutBuffer())
    policy.shape_logits = algorithm.shape_logits
    steered = policy.generate(byte_prompts([3, 7]), max_new_tokens=8)
    for name in ("token_ids", "log_probs"):
        for one, other in zip(getattr(plain, name), getattr(steered, name), strict=True):
            assert one.tolist() == other.tolist()


def test_the_exploration_temperature_falls_on_a_line_and_is_saved():
    algorithm = make(
        "dqn", online=ONLINE, steer_temperature=0.1, explore_temperature=0.5, explore_updates=4
    )
    seen = [algorithm.temperature]
    for step in range(1, 6):
        algorithm.after_update(step, {})
        seen.append(algorithm.temperature)
    assert seen == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    again = make("dqn", online=ONLINE, explore_temperature=0.5, explore_updates=4)
    algorithm.after_update(2, {})
    again.load_state_dict(algorithm.state_dict())
    assert again.num_updates == 2


# -- what trains -------------------------------------------------------------------------------


@pytest.mark.parametrize(("tau", "kept"), [(1.0, 0.0), (0.25, 0.75)])
def test_the_target_network_moves_every_so_many_updates(tau, kept):
    # correctness.md #19: counted in updates, whatever number of steps each has.
    algorithm = make("dqn", online=[[8.0]], target=[[4.0]], target_sync=3, tau=tau)
    seen = []
    for step in range(1, 5):
        algorithm.after_update(step, {})
        seen.append(algorithm.heads["target"][-1].weight.item())
    moved = kept * 4.0 + (1 - kept) * 8.0
    assert seen == pytest.approx([4.0, 4.0, moved, moved])


def test_the_q_head_alone_is_trained():
    policy = small_policy()
    learner = Learner(policy, az.make("dqn", head_width=4), az.RolloutBuffer())
    online = list(learner.extra["online"].parameters())
    assert [id(p) for p in learner.parameters] == [id(p) for p in online]
    assert not any(p.requires_grad for p in learner.extra["target"].parameters())
    names = {name.split(".")[1] for name in learner.state_tensors() if name.startswith("extra.")}
    assert names == {"online", "target"}  # both are in a checkpoint


@pytest.mark.parametrize("id", IDS)
def test_the_language_model_gets_no_gradient(id):
    policy, algorithm = small_policy(), az.make(id, kl_in="none", cql_coef=0.1)
    before = policy.fingerprint()
    run = roll_out(policy, algorithm, byte_prompts([3, 7]))
    metrics = algorithm.update(restrict(run.batch, algorithm, may_write=True), run.learner)
    assert metrics.result()["grad_norm"] > 0
    assert all(p.grad is None for p in policy.model.parameters())
    assert policy.fingerprint() == before


# -- Q* ----------------------------------------------------------------------------------------


def q_learn(mdp, id, *, updates, seed, logits=None, score=None, batch_size=64, **options):
    """Returns what is left of a run on an MDP: `q` [S, V], the policy, the algorithm."""
    options = {"n_step": 1, "min_prob": 0.0, "kl_in": "none", "gamma": mdp.gamma} | options
    algorithm = az.make(id, **options) if isinstance(id, str) else id
    policy = mdp.policy(np.zeros(mdp.rewards.shape) if logits is None else logits)
    policy.equip(value_head=False, reference=False, shape_logits=algorithm.shape_logits)
    settings = TrainerOptions(batch_size=batch_size, max_new_tokens=mdp.horizon, seed=seed)
    buffer = az.RolloutBuffer(keep_versions=1 + algorithm.needs.replay)
    learner = Learner(policy, algorithm, buffer, seed=seed)
    dataset = Dataset([EncodedPrompt(mdp.prompt, PromptRow("0"))], [], fingerprint="")
    reward = RewardSum.of(score or (lambda completions: mdp.score(completions)))
    source = RolloutSource(learner, algorithm, reward, dataset, settings)
    for step in range(1, updates + 1):
        batch = source.collect(step).batch
        learner.begin_update(step)
        metrics = algorithm.update(restrict(batch, algorithm, may_write=True), learner)
        algorithm.after_update(step, metrics.result())
    with torch.no_grad():
        eye = torch.eye(len(mdp.contexts))
        q = algorithm.q_values("online", eye).double().numpy()
        steered = algorithm.shape_logits(policy.model.lm_head.weight.T, eye).double().numpy()
    return SimpleNamespace(q=q, steered=steered, policy=policy, algorithm=algorithm)


def sweep(mdp, id, *, updates, num_epochs, logits=None, **options):
    """Returns Q [S, V] learned from every response of an MDP, each once in every batch."""
    steps = {"num_epochs": num_epochs, "decay_steps": updates * num_epochs, "schedule": "cosine"}
    options = {"n_step": 1, "target_sync": 1, "min_prob": 0.0, "learning_rate": 0.1} | options
    algorithm = az.make(id, gamma=mdp.gamma, minibatch_size=None, **steps, **options)
    policy = mdp.policy(np.zeros(mdp.rewards.shape) if logits is None else logits)
    buffer = az.RolloutBuffer()
    learner = Learner(policy, algorithm, buffer)
    buffer.append([mdp.prompt] * len(mdp.responses), mdp.responses, policy_version=0)
    paid = [[mdp.rewards[step] for step in mdp.steps(row)] for row in mdp.responses]
    buffer.set("rewards", paid)
    for step in range(1, updates + 1):
        learner.begin_update(step)
        algorithm.update(restrict(buffer.batch(), algorithm), learner)
        algorithm.after_update(step, {})
    with torch.no_grad():
        return algorithm.q_values("online", torch.eye(len(mdp.contexts))).double().numpy()


@pytest.mark.parametrize("id", IDS)
def test_it_reaches_the_optimal_q_values_of_a_short_language(id):
    mdp = TokenMDP.random(0, horizon=2, end_token=2, gamma=0.9)
    q = sweep(mdp, id, updates=4, num_epochs=60)
    np.testing.assert_allclose(q, mdp.optimal_q_values(), atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_optimal_q_values(id, seed):
    mdp = TokenMDP.random(seed, end_token=2, gamma=0.9)
    q = sweep(mdp, id, updates=6, num_epochs=80, dueling=seed % 2 == 0)
    np.testing.assert_allclose(q, mdp.optimal_q_values(), atol=1e-2)


def test_the_optimal_q_values_are_those_of_the_support():
    # With the model's unlikely tokens ruled out of the maximum, by dynamic programming.
    mdp, min_prob = TokenMDP.random(0, horizon=2), 0.7
    logits, _ = random_tables(mdp, 1)
    probs = mdp.probs(logits)
    allowed = probs >= min_prob * probs.max(1, keepdims=True)
    q = mdp.rewards.copy()
    q[0] += np.where(allowed[1:], q[1:], -np.inf).max(1)
    assert abs(q - mdp.optimal_q_values()).max() > 0.1
    found = sweep(mdp, "dqn", updates=4, num_epochs=80, logits=logits, min_prob=min_prob)
    np.testing.assert_allclose(found, q, atol=1e-2)


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("seed", range(5))
def test_it_explores_and_steers_to_within_two_percent_of_the_best_value(id, seed):
    mdp = TokenMDP.random(seed, end_token=2)
    run = q_learn(
        mdp, id, updates=10, num_epochs=10, seed=seed, learning_rate=0.1, schedule="cosine",
        decay_steps=100, minibatch_size=None, replay=2, target_sync=1, explore_temperature=2.0,
        explore_updates=10, steer_temperature=0.01,
    )  # fmt: skip
    best = mdp.optimal_q_values()[0].max()
    worst = -TokenMDP(-mdp.rewards, 3, 3, 2).optimal_q_values()[0].max()
    shortfall = (best - mdp.objective(run.steered)) / (best - worst)
    assert shortfall < 0.02
    assert (best - mdp.objective(np.zeros(mdp.rewards.shape))) / (best - worst) > 0.2


def test_double_dqn_over_estimates_less_where_the_scores_are_noisy():
    # correctness.md #19. Every value is 0, and what is seen of it is noise.
    mdp = TokenMDP(np.zeros((6, 5)), vocab_size=5, horizon=2)
    options = {"steer_temperature": 1e3, "learning_rate": 0.1, "minibatch_size": None, "replay": 0}
    options |= {"num_epochs": 6, "target_sync": 3, "dueling": False}
    found = {id: [] for id in IDS}
    for id in IDS:
        for seed in range(3):
            score = mdp.noisy_score(np.random.default_rng(seed))
            run = q_learn(mdp, id, updates=6, seed=seed, score=score, **options)
            found[id].append(run.q[0].mean())
    over_estimate = {id: float(np.mean(values)) for id, values in found.items()}
    assert over_estimate["dqn"] > 0.2
    assert over_estimate["ddqn"] < over_estimate["dqn"] - 0.1


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 1.1}, {"n_step": 0}, {"replay": -1}, {"target_sync": 0}, {"tau": 0.0},
        {"tau": 1.5}, {"huber_delta": 0.0}, {"cql_coef": -1}, {"min_prob": 1.1}, {"head_width": 0},
        {"steer_temperature": 0.0}, {"explore_temperature": 0.0}, {"explore_updates": 0},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"ddqn: option '{name}' is"):
        az.make("ddqn", **wrong)


# -- replay ------------------------------------------------------------------------------------


def test_it_learns_from_the_rollouts_kept_and_the_newest():
    seen = []
    original = az.make("dqn").loss.__func__

    class Watched(type(az.make("dqn"))):
        def loss(self, batch, out):
            seen.append(sorted(set(batch.policy_version.tolist())))
            return original(self, batch, out)

    mdp = TokenMDP.random(0)
    algorithm = Watched(Watched.Config(replay=2, kl_in="none", minibatch_size=None))
    q_learn(mdp, algorithm, updates=4, seed=0, batch_size=4)
    assert seen == [[1], [1, 2], [1, 2, 3], [2, 3, 4]]
