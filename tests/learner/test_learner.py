"""The learner: rates, clipping, precision, splitting, and steps that must not be taken.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from policy.cases import byte_prompts, demonstrations, roll_out, small_policy

import alignzoo as az
from alignzoo.learner import Learner, schedule_factor


class Imitate(az.Algorithm):
    """Maximum likelihood of the responses, with whatever is asked of it."""

    class Config(az.AlgorithmConfig):
        learning_rate: float = 1e-2
        kl_in: str = "none"

    def __init__(self, needs=None, **options):
        super().__init__(self.Config(**options))
        self.declared = needs or az.Needs(source="demonstrations")
        self.groups = None

    @property
    def needs(self):
        return self.declared

    def parameter_groups(self, policy, extra):
        return self.groups(policy) if self.groups else None

    def loss(self, batch, out):
        count = batch.response_mask.sum()
        total = -out.log_probs.sum()
        return az.Loss(total / batch.num_tokens, {"loss": (total.detach(), count)})


def rows(count=8, seed=0):
    generator = np.random.default_rng(seed)
    return [
        (
            [1, *generator.integers(6, 262, generator.integers(0, 9)).tolist()],
            generator.integers(6, 262, generator.integers(1, 12)).tolist(),
        )
        for _ in range(count)
    ]


def make(algorithm=None, *, policy=None, micro_batch_size=None, seed=0, data=None):
    """Returns a learner and a batch of demonstrations."""
    algorithm = algorithm or Imitate()
    buffer = demonstrations(data or rows())
    learner = Learner(
        policy or small_policy(), algorithm, buffer, micro_batch_size=micro_batch_size, seed=seed
    )
    return learner, buffer.batch()


def take(learner, batch, count=1):
    for _ in range(count):
        result = learner.step(batch, learner.algorithm.loss)
    return result


# -- the schedule ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Warm-up over 4 steps, then down over 8: progress 0, 1/8, ..., 1, 1.
        ("constant", [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]),
        ("linear", [1 / 4, 2 / 4, 3 / 4, 1, 1, 7 / 8, 6 / 8, 5 / 8]),
        (
            "cosine",
            [1 / 4, 2 / 4, 3 / 4, 1, *((1 + math.cos(k * math.pi / 8)) / 2 for k in range(4))],
        ),
    ],
)
def test_rates_warm_up_and_fall_with_the_step(schedule, expected):
    config = az.AlgorithmConfig(schedule=schedule, warmup_steps=4, decay_steps=8)
    assert [schedule_factor(config, step) for step in range(8)] == pytest.approx(expected)
    if schedule != "constant":
        assert schedule_factor(config, 12) == pytest.approx(0.0)
        assert schedule_factor(config, 1000) == pytest.approx(0.0)


def test_without_warm_up_and_decay_the_rate_is_the_peak():
    config = az.AlgorithmConfig(schedule="constant")
    assert [schedule_factor(config, step) for step in (0, 1, 10**6)] == [1, 1, 1]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_that_falls_must_say_over_how_many_steps(schedule):
    with pytest.raises(ValueError, match="decay_steps"):
        az.AlgorithmConfig(schedule=schedule)


def test_every_group_follows_the_schedule_from_its_own_peak():
    algorithm = Imitate(warmup_steps=2, schedule="linear", decay_steps=2)
    algorithm.groups = lambda policy: [
        {"params": list(policy.model.parameters()), "lr": 1e-2},
        {"params": list(policy.value_head.parameters()), "lr": 1e-1},
    ]
    policy = small_policy()
    policy.add_value_head()
    learner, batch = make(algorithm, policy=policy)
    rates = []
    for _ in range(5):
        take(learner, batch)
        rates.append([group["lr"] for group in learner.optimizer.param_groups])
    factors = [1 / 2, 1, 1, 1 / 2, 0]
    np.testing.assert_allclose(rates, [[1e-2 * f, 1e-1 * f] for f in factors], atol=1e-12)


def test_a_rate_of_zero_moves_nothing():
    learner, batch = make(Imitate(schedule="linear", decay_steps=1))
    take(learner, batch)  # at progress 0
    before = learner.get_vector()
    take(learner, batch)  # at progress 1
    assert torch.equal(learner.get_vector(), before)


# -- steps -------------------------------------------------------------------------------------


def test_steps_are_those_of_adamw_on_clipped_gradients():
    algorithm = Imitate(learning_rate=1e-2, weight_decay=0.1, max_grad_norm=0.5)
    learner, batch = make(algorithm)
    twin = small_policy()
    optimizer = torch.optim.AdamW(twin.model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        take(learner, batch)
        (-twin.evaluate(batch).log_probs.sum() / batch.num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(twin.model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    for mine, theirs in zip(
        learner.policy.model.parameters(), twin.model.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_a_step_is_its_gradient_applied():
    one, batch = make()
    two, _ = make()
    for _ in range(2):
        by_step = one.step(batch, one.algorithm.loss)
        by_parts = two.apply(two.gradient(batch, two.algorithm.loss))
        assert by_step.metrics.result() == by_parts.metrics.result()
        assert torch.equal(one.get_vector(), two.get_vector())
    assert one.num_steps == two.num_steps == 2


def test_a_gradient_alone_changes_nothing_and_leaves_nothing_behind():
    learner, batch = make()
    before = learner.get_vector()
    gradient = learner.gradient(batch, learner.algorithm.loss)
    assert torch.equal(learner.get_vector(), before)
    assert all(parameter.grad is None for parameter in learner.parameters)
    again = learner.gradient(batch, learner.algorithm.loss)
    for one, two in zip(gradient.tensors, again.tensors, strict=True):
        assert torch.equal(one, two)
    assert learner.num_steps == 0


def test_what_lies_in_grad_from_elsewhere_is_no_part_of_a_gradient():
    learner, batch = make()
    clean = learner.gradient(batch, learner.algorithm.loss)

    def fails_late(micro, out):
        if fails_late.calls:
            raise RuntimeError("the second micro-batch")
        fails_late.calls += 1
        return learner.algorithm.loss(micro, out)

    fails_late.calls = 0
    learner.micro_batch_size = 4
    with pytest.raises(RuntimeError, match="second micro-batch"):
        learner.gradient(batch, fails_late)
    learner.micro_batch_size = None
    after = learner.gradient(batch, learner.algorithm.loss)
    for one, two in zip(clean.tensors, after.tensors, strict=True):
        assert torch.equal(one, two)


def test_steps_lower_the_loss():
    learner, batch = make()
    first = take(learner, batch).metrics.result()["loss"]
    last = take(learner, batch, 20).metrics.result()["loss"]
    assert last < 0.7 * first


def test_a_loss_that_says_stop_takes_no_step():
    learner, batch = make()
    before = learner.get_vector()
    result = learner.step(batch, lambda b, o: az.Loss(o.log_probs.sum(), {"seen": 3.0}, stop=True))
    assert result.stop
    assert not result.skipped
    assert result.metrics.result()["seen"] == 3.0
    assert torch.equal(learner.get_vector(), before)
    assert learner.num_steps == 0


def test_an_update_ends_where_a_loss_says_stop():
    class Stops(Imitate):
        calls = 0

        def loss(self, batch, out):
            self.calls += 1
            result = super().loss(batch, out)
            result.stop = self.calls == 3
            return result

    learner, batch = make(Stops(num_epochs=4, minibatch_size=4))
    learner.algorithm.update(batch, learner)
    assert learner.algorithm.calls == 3
    assert learner.num_steps == 2


def test_parameters_that_do_not_train_are_left_alone():
    policy = small_policy()
    frozen = policy.model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    before = frozen.clone()
    learner, batch = make(policy=policy)
    assert all(parameter is not frozen for parameter in learner.parameters)
    take(learner, batch, 2)
    assert torch.equal(frozen, before)


def test_an_algorithms_own_parts_train_and_its_frozen_ones_do_not():
    class WithParts(Imitate):
        def build(self, policy):
            self.head = torch.nn.Linear(32, 1)
            self.target = torch.nn.Linear(32, 1).requires_grad_(False)
            return torch.nn.ModuleList([self.head, self.target])

        def loss(self, batch, out):
            value = (self.head(out.hidden) ** 2 + self.target(out.hidden)).sum()
            return az.Loss(value / batch.num_tokens)

    torch.manual_seed(0)
    learner, batch = make(WithParts(az.Needs(source="demonstrations", hidden=True)))
    algorithm = learner.algorithm
    head, target = algorithm.head.weight.clone(), algorithm.target.weight.clone()
    take(learner, batch)
    assert not torch.equal(algorithm.head.weight, head)
    assert torch.equal(algorithm.target.weight, target)


# -- clipping ----------------------------------------------------------------------------------


def two_groups(value_scale):
    """A learner whose value head has a gradient of any size beside the policy's."""

    class Two(Imitate):
        def loss(self, batch, out):
            value = super().loss(batch, out).value
            return az.Loss(value + value_scale * out.values.sum() / batch.num_tokens)

    needs = az.Needs(source="demonstrations", values=True, detach_values=True)
    algorithm = Two(needs, max_grad_norm=0.25)
    algorithm.groups = lambda policy: [
        {"params": list(policy.model.parameters())},
        {"params": list(policy.value_head.parameters())},
    ]
    policy = small_policy()
    policy.add_value_head()
    return make(algorithm, policy=policy)


def clipped_gradients(learner):
    """Returns each group's gradient as the optimiser saw it: ten times Adam's first moment."""
    moments = [10 * learner.optimizer.state[master]["exp_avg"] for master in learner.masters]
    return [torch.cat([m.flatten() for m in moments[part]]) for part in learner.group_slices]


def test_each_group_is_clipped_on_its_own():
    learner, batch = two_groups(1e4)
    take(learner, batch)
    for gradient in clipped_gradients(learner):
        assert float(gradient.norm()) == pytest.approx(0.25, rel=1e-4)


def test_a_large_gradient_in_one_group_does_not_shrink_another():
    policies = []
    for scale in (1e-3, 1e4):
        learner, batch = two_groups(scale)
        take(learner, batch)
        policies.append(clipped_gradients(learner)[0])
    torch.testing.assert_close(policies[0], policies[1])


def test_small_gradients_are_not_scaled_up():
    learner, batch = make(Imitate(max_grad_norm=1e6))
    gradient = learner.gradient(batch, learner.algorithm.loss)
    flat = torch.cat([t.flatten() for t in gradient.tensors])
    take(learner, batch)
    torch.testing.assert_close(clipped_gradients(learner)[0], flat)


def test_the_norm_logged_is_that_before_clipping():
    learner, batch = make(Imitate(max_grad_norm=1e-3))
    gradient = learner.gradient(batch, learner.algorithm.loss)
    norm = torch.cat([t.flatten() for t in gradient.tensors]).norm()
    logged = take(learner, batch).metrics.result()["grad_norm"]
    assert logged == pytest.approx(float(norm), rel=1e-5)


# -- steps that must not be taken ----------------------------------------------------------------


def nan_loss(batch, out):
    return az.Loss(out.log_probs.sum() * float("nan"))


def infinite_loss(batch, out):
    return az.Loss(out.log_probs.sum() - float("inf"))


def nan_gradient(batch, out):
    """0 where it stands, but the root's slope there is infinite times 0."""
    return az.Loss((out.log_probs.sum() * 0.0).sqrt())


def infinite_gradient(batch, out):
    return az.Loss((out.log_probs.sum() * 1e-30) * 1e38 * 1e30)


def one_bad_row(batch, out):
    """Only one of the micro-batches is not finite."""
    bad = (batch.rows == 5)[:, None]
    return az.Loss(torch.where(bad, out.log_probs * float("nan"), out.log_probs).sum())


BAD_LOSSES = [nan_loss, infinite_loss, nan_gradient, infinite_gradient, one_bad_row]


@pytest.mark.parametrize("micro_batch_size", [None, 2])
@pytest.mark.parametrize("bad", BAD_LOSSES)
def test_a_step_that_is_not_finite_changes_no_bit(bad, micro_batch_size):
    learner, batch = make(micro_batch_size=micro_batch_size)
    twin, _ = make(micro_batch_size=micro_batch_size)
    take(learner, batch)
    take(twin, batch)
    before = learner.get_vector()
    result = learner.step(batch, bad)
    assert result.skipped
    assert result.stop
    assert learner.skipped_rows == batch.row_numbers
    assert torch.equal(learner.get_vector(), before)
    assert bool(torch.isfinite(learner.get_vector()).all())
    for name, tensor in twin.state_tensors().items():
        assert torch.equal(learner.state_tensors()[name], tensor), name
    assert learner.num_steps == 1
    # And the next step is the one that would have come without it.
    take(learner, batch)
    take(twin, batch)
    assert torch.equal(learner.get_vector(), twin.get_vector())


def test_an_update_ends_where_a_step_was_skipped():
    class Breaks(Imitate):
        def loss(self, batch, out):
            result = super().loss(batch, out)
            if 5 in batch.row_numbers:
                result.value = result.value * float("nan")
            return result

    learner, batch = make(Breaks(num_epochs=3, minibatch_size=4))
    learner.begin_update(1)
    learner.algorithm.update(batch, learner)
    assert 5 in learner.skipped_rows
    assert len(learner.skipped_rows) == 4
    assert bool(torch.isfinite(learner.get_vector()).all())
    learner.begin_update(2)
    assert learner.skipped_rows == []


# -- splitting ---------------------------------------------------------------------------------

SPLITS = [1, 2, 3, 5, None]


def whole_loss(learner, batch):
    """Returns the loss summed over micro-batches, in float64, and the gradient."""
    values = []

    def record(micro, out):
        result = learner.algorithm.loss(micro, out)
        values.append(float(result.value.detach()))
        return result

    gradient = learner.gradient(batch, record)
    flat = torch.cat([t.flatten() for t in gradient.tensors if t is not None])
    return math.fsum(values), flat, gradient.metrics.result(), len(values)


def compare_splits(learner, batch, *, bound):
    whole = whole_loss(learner, batch)
    for size in SPLITS:
        learner.micro_batch_size = size
        value, gradient, metrics, count = whole_loss(learner, batch)
        assert size is None or count == -(-len(batch) // size)
        assert value == pytest.approx(whole[0], rel=bound, abs=bound)
        assert float((gradient - whole[1]).norm() / whole[1].norm()) < bound
        for name, number in whole[2].items():
            assert metrics[name] == pytest.approx(number, rel=1e-4, abs=1e-6), name


ALGORITHMS = [
    ("reinforce", {"baseline": "none", "ent_coef": 0.01}),
    ("reinforce", {"baseline": "batch", "kl_in": "loss", "kl_coef": 0.3}),
    ("ppo", {"clip_range": 0.05, "clip_range_vf": 0.1, "ent_coef": 0.01}),
    ("reinforce", {"aggregate": "sequence_mean", "ent_coef": 0.01}),
    ("ppo", {"kl_in": "loss", "kl_coef": 0.3, "detach_values": False}),
    ("ppo", {"aggregate": "sequence_mean", "ent_coef": 0.01, "clip_range": 0.05}),
    ("ppo", {"whiten_advantages": "full", "bootstrap_truncated": True, "group_size": 2}),
]


@pytest.mark.parametrize(("name", "options"), ALGORITHMS)
def test_loss_and_gradient_do_not_depend_on_how_a_minibatch_is_split(name, options):
    # correctness.md #11: relative 1e-5 in float32.
    algorithm = az.make(name, **options)
    policy = small_policy(3)
    policy.model.generation_config.eos_token_id = list(range(2, 40))  # ragged responses
    rollout = roll_out(policy, algorithm, byte_prompts([3, 9, 1, 6, 2, 4, 7, 5]))
    with torch.no_grad():  # away from ratio 1, value 0 and KL 0
        generator = torch.Generator().manual_seed(0)
        for parameter in rollout.learner.parameters:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    rollout.learner.is_on_policy = False
    compare_splits(rollout.learner, rollout.batch, bound=1e-5)


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean"])
def test_the_loss_of_demonstrations_does_not_depend_on_how_it_is_split(aggregate):
    learner, batch = make(az.make("sft", aggregate=aggregate))
    compare_splits(learner, batch, bound=1e-5)


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean"])
def test_splitting_costs_no_digits_in_float64(aggregate):
    # correctness.md #11: relative 1e-10 in float64.
    policy = small_policy(dtype=torch.float64)
    learner, batch = make(az.make("sft", aggregate=aggregate), policy=policy)
    compare_splits(learner, batch, bound=1e-10)


def test_more_padding_changes_a_loss_by_rounding_alone():
    # correctness.md #3: a loss <= 1e-6 relative.
    data = rows()
    learner, batch = make(data=data)
    longer = demonstrations([*data, ([1] * 25, [9] * 30)]).batch()  # pads everyone to 55 tokens
    count = batch.num_tokens
    alone = -learner.evaluate(batch).log_probs.double().sum() / count
    padded = -learner.evaluate(longer).log_probs[: len(data)].double().sum() / count
    assert longer.token_ids.shape[1] > 2 * batch.token_ids.shape[1]
    assert float(padded) == pytest.approx(float(alone), rel=1e-6)


def test_micro_batches_by_tokens_hold_every_row_once():
    learner, batch = make(data=rows(40))
    parts = list(learner.micro_batches(batch))
    assert len(parts) == 1  # 40 short rows fit at once
    assert parts[0].row_numbers == batch.row_numbers
    assert parts[0].num_tokens == batch.num_tokens


# -- minibatches -------------------------------------------------------------------------------


def shuffles(learner, batch, number):
    learner.begin_update(number)
    return [part.row_numbers for part in learner.minibatches(batch, 3, 2)]


def test_minibatches_are_shuffled_by_seed_update_and_epoch():
    learner, batch = make(seed=1)
    first = shuffles(learner, batch, 1)
    assert shuffles(learner, batch, 1) == first
    assert shuffles(learner, batch, 2) != first
    assert shuffles(make(seed=2)[0], batch, 1) != first
    half = len(first) // 2
    assert first[:half] != first[half:]
    for epoch in (first[:half], first[half:]):
        assert sorted(row for part in epoch for row in part) == batch.row_numbers


# -- what an algorithm may see -------------------------------------------------------------------


def test_a_column_that_was_not_declared_is_withheld_from_the_loss():
    policy = small_policy(3)
    policy.add_value_head()
    rollout = roll_out(policy, az.make("ppo"), byte_prompts([3, 4]))

    class Sneaky(Imitate):
        def loss(self, batch, out):
            return az.Loss(batch.values.sum())

    algorithm = Sneaky(az.Needs())
    learner = Learner(policy, algorithm, rollout.learner.buffer)
    with pytest.raises(az.ConfigError, match=r"Sneaky reads column 'values'.*values=True"):
        learner.gradient(rollout.batch, algorithm.loss)


def test_outputs_hold_what_was_needed_and_no_more():
    for asked in ({}, {"values": True}, {"logits": True}, {"hidden": True}):
        policy = small_policy()
        policy.add_value_head()
        learner, batch = make(Imitate(az.Needs(source="demonstrations", **asked)), policy=policy)
        out = learner.evaluate(batch)
        for name in ("values", "logits", "hidden"):
            assert (getattr(out, name) is not None) == (name in asked)


@pytest.mark.parametrize("micro_batch_size", [1, 3, None])
def test_evaluating_in_pieces_gives_the_whole(micro_batch_size):
    needs = az.Needs(source="demonstrations", values=True, logits=True, hidden=True)
    policy = small_policy()
    policy.add_value_head().weight.data.normal_(generator=torch.Generator().manual_seed(0))
    policy.keep_reference()
    learner, batch = make(Imitate(needs), policy=policy, micro_batch_size=micro_batch_size)
    pieces, whole = (
        learner.evaluate(batch),
        policy.evaluate(batch, values=True, logits=True, hidden=True),
    )
    for name in ("log_probs", "entropy", "values", "logits", "hidden"):
        piece = getattr(pieces, name)
        assert not piece.requires_grad
        torch.testing.assert_close(piece, getattr(whole, name).detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        learner.bootstrap_values(batch), policy.final_values(batch), atol=1e-5, rtol=0
    )
    reference = learner.reference_log_probs(batch)
    torch.testing.assert_close(reference, whole.log_probs.detach(), atol=1e-4, rtol=0)


def test_demonstrations_have_no_sampler_to_disagree_with():
    learner, batch = make()
    assert "sampler_mismatch" not in take(learner, batch).metrics.result()


# -- vectors and copies ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vector_written_back_restores_every_bit(dtype):
    learner, batch = make(policy=small_policy(dtype=dtype))
    take(learner, batch)
    vector = learner.get_vector()
    before = {name: p.clone() for name, p in learner.policy.model.named_parameters()}
    outputs = learner.evaluate(batch).log_probs
    assert vector.dtype == torch.float32
    assert vector.numel() == sum(p.numel() for p in learner.parameters)
    learner.set_vector(vector + 0.5)
    assert not torch.equal(learner.evaluate(batch).log_probs, outputs)
    learner.set_vector(vector)
    assert torch.equal(learner.get_vector(), vector)
    assert torch.equal(learner.evaluate(batch).log_probs, outputs)
    for name, parameter in learner.policy.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_vector_is_a_copy():
    learner, batch = make()
    vector = learner.get_vector()
    kept = vector.clone()
    take(learner, batch)
    assert torch.equal(vector, kept)
    assert not vector.requires_grad


def test_a_vector_lies_in_the_order_of_the_gradient():
    learner, batch = make()
    gradient = learner.gradient(batch, learner.algorithm.loss)
    flat = torch.cat([t.flatten() for t in gradient.tensors])
    start, step = learner.get_vector(), 1e-3
    direction = flat / flat.norm()
    values = []
    for sign in (1, -1):
        learner.set_vector(start + sign * step * direction)
        out = learner.evaluate(batch)
        values.append(-float(out.log_probs.double().sum()) / batch.num_tokens)
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(float(flat.norm()), rel=1e-2)


def test_a_snapshot_stays_while_the_policy_moves():
    learner, batch = make()
    twin = learner.snapshot()
    before = learner.evaluate(batch).log_probs
    take(learner, batch, 3)
    assert torch.equal(twin.evaluate(batch).log_probs, before)
    assert not torch.equal(learner.evaluate(batch).log_probs, before)
    assert not any(p.requires_grad for p in twin.model.parameters())


# -- precision ---------------------------------------------------------------------------------


def test_masters_keep_steps_that_bfloat16_would_lose():
    policy = small_policy(dtype=torch.bfloat16)
    start = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    learner, batch = make(Imitate(learning_rate=1e-5), policy=policy)
    take(learner, batch)
    moved = learner.get_vector() - torch.cat([p.float().flatten() for p in start.values()])
    assert float(moved.abs().median()) == pytest.approx(1e-5, rel=0.05)  # Adam's first step
    unchanged = [
        torch.equal(p, start[name]) or float((p != start[name]).float().mean()) < 0.1
        for name, p in policy.model.named_parameters()
    ]
    assert all(unchanged)  # a step of 1e-5 is below the spacing of nearly all weights
    take(learner, batch, 60)
    changed = [(p != start[name]).float().mean() for name, p in policy.model.named_parameters()]
    assert float(torch.stack(changed).mean()) > 0.3  # but sixty of them are not


def test_parameters_are_their_masters_rounded():
    policy = small_policy(dtype=torch.bfloat16)
    learner, batch = make(policy=policy)
    take(learner, batch, 3)
    for parameter, master in zip(learner.parameters, learner.masters, strict=True):
        assert master.dtype == torch.float32
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, master.bfloat16())


def test_float32_weights_are_their_own_masters():
    learner, _ = make()
    assert all(p is m for p, m in zip(learner.parameters, learner.masters, strict=True))


@pytest.mark.parametrize("scale", [1.0, 4e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_norm_of_half_precision_gradients_is_taken_in_float32(dtype, scale):
    # Statistics are never rounded to the weights' dtype, and a finite gradient is not skipped
    # because its norm is beyond float16 (65504).
    learner, batch = make(policy=small_policy(dtype=dtype))

    def scaled(micro, out):
        return az.Loss(scale * learner.algorithm.loss(micro, out).value)

    gradient = learner.gradient(batch, scaled)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in gradient.tensors)
    exact = float(torch.cat([tensor.double().flatten() for tensor in gradient.tensors]).norm())
    assert gradient.finite
    assert gradient.metrics.result()["grad_norm"] == pytest.approx(exact, rel=1e-5)


# -- going on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_goes_on_bitwise(dtype):
    algorithm = {"schedule": "cosine", "decay_steps": 9, "warmup_steps": 2}
    learner, batch = make(Imitate(**algorithm), policy=small_policy(dtype=dtype))
    take(learner, batch, 2)
    saved = {name: tensor.clone() for name, tensor in learner.state_tensors().items()}
    steps = learner.num_steps
    take(learner, batch, 2)
    other, _ = make(Imitate(**algorithm), policy=small_policy(7, dtype=dtype))
    other.load_state(saved, steps)
    take(other, batch, 2)
    assert torch.equal(learner.get_vector(), other.get_vector())
    assert learner.state_tensors().keys() == other.state_tensors().keys()
    for name, tensor in learner.state_tensors().items():
        assert torch.equal(tensor, other.state_tensors()[name]), name


# -- vectors and curvature ---------------------------------------------------------------------


def of_two_groups():
    class TwoGroups(az.Algorithm):
        @property
        def needs(self):
            return az.Needs(values=True, logits=True)

        def parameter_groups(self, policy, extra):
            return [
                {"params": list(policy.model.parameters())},
                {"params": list(policy.value_head.parameters())},
            ]

        def loss(self, batch, out):
            log_probs = torch.log_softmax(out.logits.double(), dim=2)
            return az.Loss((log_probs.exp() * log_probs).sum() / batch.num_tokens)

    return TwoGroups(az.AlgorithmConfig())


def test_a_vector_is_of_one_group_where_asked():
    run = roll_out(small_policy(), of_two_groups(), byte_prompts([3, 5]))
    learner, head = run.learner, run.learner.policy.value_head
    whole = learner.get_vector()
    parts = [learner.get_vector(0), learner.get_vector(1)]
    assert torch.equal(torch.cat(parts), whole)
    learner.set_vector(torch.ones_like(parts[1]), group=1)
    assert bool((head.weight == 1).all())
    assert bool((head.bias == 1).all())
    assert torch.equal(learner.get_vector(0), parts[0])
    with pytest.raises(ValueError, match=r"`vector` has shape \(3,\); these parameters have 33"):
        learner.set_vector(torch.ones(3), group=1)


def test_a_gradient_is_a_vector_in_the_order_of_the_parameters():
    run = roll_out(small_policy(), of_two_groups(), byte_prompts([3, 5]))
    gradient = run.learner.gradient(run.batch, run.learner.algorithm.loss)
    vector = run.learner.gradient_vector(gradient)
    flat = [g.reshape(-1) for g in gradient.tensors[:-2]]
    assert torch.equal(vector, torch.cat([*flat, torch.zeros(33)]))  # the value head is unused
    assert not run.learner.gradient_vector(gradient, group=1).any()


@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_a_hessian_vector_product_is_the_change_of_the_gradient(micro_batch_size):
    run = roll_out(
        small_policy(), of_two_groups(), byte_prompts([3, 5, 4]),
        micro_batch_size=micro_batch_size,
    )  # fmt: skip
    learner, loss = run.learner, run.learner.algorithm.loss
    start = learner.get_vector(0)
    vector = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    vector /= vector.norm()
    product = learner.hessian_vector(run.batch, loss, vector, group=0)
    ends = []
    for step in (1e-2, -1e-2):
        learner.set_vector(start + step * vector, group=0)
        ends.append(learner.gradient_vector(learner.gradient(run.batch, loss), group=0))
    difference = (ends[0] - ends[1]) / 2e-2
    assert float((product - difference).norm() / difference.norm()) < 2e-3


def test_one_call_may_need_more_than_the_algorithm_does():
    run = roll_out(small_policy(), az.make("reinforce"), byte_prompts([3, 5]))
    assert run.learner.evaluate(run.batch).logits is None
    more = dataclasses.replace(run.learner.needs, logits=True)
    assert run.learner.evaluate(run.batch, needs=more).logits.shape[:2] == run.batch.rewards.shape
    seen = []

    def loss(batch, out):
        seen.append(out.logits is not None)
        return az.Loss(-out.log_probs.sum())

    run.learner.step(run.batch, loss, needs=more)
    assert seen == [True]


# -- terms of a loss ---------------------------------------------------------------------------


def test_terms_add_and_scale_and_keep_their_metrics():
    first = az.Loss(torch.tensor(2.0), {"a": (1.0, 1)})
    second = az.Loss(torch.tensor(3.0), {"b": (2.0, 4)}, stop=True)
    both = first + 0.5 * second
    assert float(both.value) == 3.5
    assert both.metrics == {"a": (1.0, 1), "b": (2.0, 4)}
    assert both.stop
    with pytest.raises(ValueError, match="two terms of a loss both report a"):
        first + first


def test_a_metric_is_read_without_the_graph_it_came_from():
    value = torch.ones((), requires_grad=True) * 3
    metrics = az.Metrics({"a": value, "b": (value, 2), "c": az.Max(value)})
    assert not any(total.requires_grad for total, _ in metrics.sums.values())
    assert metrics.result() == {"a": 3.0, "b": 1.5, "c": 3.0}
