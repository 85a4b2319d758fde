"""grpo, rloo, reinforce_pp and ppo's advantages beside TRL, verl and OpenRLHF on one fixed batch.

Each dialect's advantages, loss and gradient are those of the framework's own functions.
"""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from learner.algorithm_cases import make_batch, outputs
from peers import peer

import alignzoo as az
from alignzoo import kernels

pytestmark = pytest.mark.peer

GROUP, LENGTHS = 4, [5, 3, 1, 4, 2, 5, 5, 3]
SCORES = torch.tensor([1.0, 0.0, 0.5, 0.0, 2.0, 2.0, -1.0, 0.25], dtype=torch.float64)
GROUP_IDS = np.arange(8) // GROUP
MASK = torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def log_probs(seed: int, near: torch.Tensor | None = None) -> torch.Tensor:
    """Returns log-probs [B, T], 0 in the padding, at random or near others."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    found = -draw.abs() - 0.5 if near is None else near + 0.3 * draw
    return found * MASK


OLD = log_probs(0)
NEW, REF = log_probs(1, OLD), log_probs(2, OLD)
NEW[1, 0] = OLD[1, 0] + 1.5  # a bad token that the policy has come to like


class Ours:
    """What alignzoo makes of the batch: advantages [B, T], the loss and its gradient."""

    def __init__(self, id: str, **options: Any) -> None:
        self.algorithm = algorithm = az.make(id, group_size=GROUP, **options)
        rewards = torch.zeros(8, 5, dtype=torch.float64)
        rewards[torch.arange(8), torch.tensor(LENGTHS) - 1] = SCORES
        if algorithm.config.kl_in == "reward":
            rewards -= algorithm.kl_coef * (OLD - REF)
        columns = {"rewards": rewards, "old_log_probs": OLD, "ref_log_probs": REF}
        batch = make_batch(algorithm, columns, LENGTHS, group_ids=GROUP_IDS, scores=SCORES.numpy())
        algorithm.prepare(batch)
        out = outputs(log_probs=NEW.tolist())
        loss = algorithm.loss(batch, out).value
        loss.backward()
        self.rewards, self.advantages = rewards, batch.advantages
        self.loss, self.gradient = loss.detach(), out.log_probs.grad

    def is_like(self, advantages: torch.Tensor, loss: torch.Tensor, leaf: torch.Tensor) -> None:
        """Checks a peer's advantages, loss, and gradient by its log-probs."""
        np.testing.assert_allclose(self.advantages, advantages * MASK, atol=1e-5)
        (gradient,) = torch.autograd.grad(loss, leaf)
        np.testing.assert_allclose(self.loss, loss.detach(), atol=1e-5)
        np.testing.assert_allclose(self.gradient, gradient, atol=1e-5)
        assert gradient.abs().max() > 0.01


# -- TRL ---------------------------------------------------------------------------------------


def trl_trainer(name: str, new: torch.Tensor, **options: Any) -> Any:
    """Returns what a TRL trainer's own methods read of it; the model is a table of log-probs."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), process_index=0, num_processes=1, gather=lambda x: x,
        reduce=lambda x, reduction: x,
    )  # fmt: skip
    tokens = [list(range(length)) for length in LENGTHS]
    generated = {
        "grpo": (tokens, tokens, None, ["text"] * 8, None, {}, None, None),
        "rloo": (tokens, tokens, ["text"] * 8),
    }
    tables = {"model": iter([OLD, new]), "reference": iter([REF])}
    return MagicMock(
        accelerator=accelerator,
        model=SimpleNamespace(training=True, is_gradient_checkpointing=False, name="model"),
        ref_model=SimpleNamespace(name="reference"),
        args=SimpleNamespace(
            per_device_train_batch_size=8, gradient_accumulation_steps=1, steps_per_generation=2,
            delta=None, use_bias_correction_kl=False, gradient_checkpointing_kwargs=None,
        ),
        current_gradient_accumulation_steps=2, num_iterations=2, num_generations=GROUP,
        environment_factories=None, environments=None, tools=None, use_vllm=False,
        aux_loss_enabled=False, mask_truncated_completions=False, _is_vlm=False,
        pad_to_multiple_of=None, reward_weights=torch.ones(1, dtype=torch.float64),
        reward_func_names=["score"], multi_objective_aggregation="sum_then_normalize",
        _metrics=defaultdict(lambda: defaultdict(list)), _pending_metrics={},
        _logs=defaultdict(list, rewards=defaultdict(list)), _pending_extra_logs={},
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, reward_clip_range=None,
        _entropy_bonus_enabled=False, normalize_advantages=False, max_completion_length=5,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _generate=lambda prompts: generated[name],
        _calculate_rewards=lambda *_: SCORES[:, None].clone(),
        _get_per_token_logps_and_entropies=lambda model, *_, **__: (
            next(tables[model.name]), torch.zeros(8, 5), None,
        ),
        **options,
    )  # fmt: skip


def trl_step(name: str, trainer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns TRL's advantages [B] and loss."""
    cls = {"grpo": "GRPOTrainer", "rloo": "RLOOTrainer"}[name]
    module = peer("trl", f"trl.trainer.{name}_trainer")
    peer("accelerate", "accelerate").PartialState(cpu=True)
    methods = getattr(module, cls)
    inputs = methods._generate_and_score_completions(trainer, [{"prompt": "text"}] * 8)
    return inputs["advantages"], methods._compute_loss(trainer, trainer.model, inputs)


def trl_defaults(name: str) -> dict[str, Any]:
    """Returns the defaults of TRL's own configuration, under the names its trainer uses."""
    cls = {"grpo": "GRPOConfig", "rloo": "RLOOConfig"}[name]
    fields = getattr(peer("trl", f"trl.trainer.{name}_config"), cls).__dataclass_fields__
    options = {key: fields[key].default for key in ("beta", "epsilon", "epsilon_high")}
    found = {"beta": options["beta"], "epsilon_low": options["epsilon"]}
    found["epsilon_high"] = options["epsilon_high"] or options["epsilon"]
    if name == "grpo":
        for key in ("loss_type", "scale_rewards", "importance_sampling_level"):
            found[key] = fields[key].default
    return found


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"kl_coef": 0.1}, {"beta": 0.1}),
        ({"aggregate": "sequence_mean"}, {"loss_type": "grpo"}),
        ({"aggregate": "sequence_sum_norm", "max_response_length": 5}, {"loss_type": "dr_grpo"}),
        ({"scale": "none"}, {"scale_rewards": "none"}),
        ({"clip_range_high": 0.28}, {"epsilon_high": 0.28}),
        ({"level": "sequence"}, {"importance_sampling_level": "sequence"}),
    ],
)
def test_grpo_speaks_trl(ours, theirs):
    new = NEW.clone().requires_grad_()
    options = {**trl_defaults("grpo"), **theirs}
    trainer = trl_trainer("grpo", new, **options)
    # GRPOTrainer takes old log-probs where a rollout serves several steps.
    advantages, loss = trl_step("grpo", trainer)
    loss = loss * (2 if options["loss_type"] in ("grpo", "dr_grpo") else 1)  # of 2 accumulated
    Ours("grpo", dialect="trl", **ours).is_like(advantages[:, None], loss, new)


def test_grpo_with_the_batchs_spread_is_trls():
    new = NEW.clone().requires_grad_()
    trainer = trl_trainer("grpo", new, **trl_defaults("grpo") | {"scale_rewards": "batch"})
    advantages, loss = trl_step("grpo", trainer)
    Ours("grpo", dialect="trl", scale="batch").is_like(advantages[:, None], loss, new)


@pytest.mark.parametrize("kl_coef", [None, 0.5])
def test_rloo_speaks_trl(kl_coef):
    new = NEW.clone().requires_grad_()
    options = trl_defaults("rloo") | ({} if kl_coef is None else {"beta": kl_coef})
    trainer = trl_trainer("rloo", new, **options)
    advantages, loss = trl_step("rloo", trainer)
    ours = {} if kl_coef is None else {"kl_coef": kl_coef}
    Ours("rloo", dialect="trl", **ours).is_like(advantages[:, None], loss, new)


# -- verl --------------------------------------------------------------------------------------


@pytest.fixture
def verl() -> Any:
    return peer("verl", "verl.trainer.ppo.core_algos")


@pytest.fixture
def actor(verl: Any) -> Any:
    return importlib.import_module("verl.workers.config").ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=8
    )


def verl_loss(verl: Any, actor: Any, advantages: Any, new: Any, *, kl_coef: float) -> Any:
    """Returns verl's actor loss, the KL of `kl_loss_type` included."""
    mask, mode = MASK.double(), actor.loss_agg_mode
    loss, _ = verl.compute_policy_loss_vanilla(OLD, new, advantages, mask, mode, actor)
    kl = verl.kl_penalty(new, REF, actor.kl_loss_type)
    return loss + kl_coef * verl.agg_loss(kl, mask, mode)


@pytest.mark.parametrize("spread", [True, False])
def test_grpo_speaks_verl(verl, actor, spread):
    new = NEW.clone().requires_grad_()
    scores = torch.zeros_like(OLD).index_put((torch.arange(8), torch.tensor(LENGTHS) - 1), SCORES)
    advantages, _ = verl.compute_grpo_outcome_advantage(
        scores, MASK.double(), GROUP_IDS, norm_adv_by_std_in_grpo=spread
    )
    loss = verl_loss(verl, actor, advantages, new, kl_coef=actor.kl_loss_coef)
    ours = Ours("grpo", dialect="verl", scale="group" if spread else "none")
    assert ours.algorithm.config.kl_coef == actor.kl_loss_coef
    assert ours.algorithm.config.dual_clip == actor.clip_ratio_c
    ours.is_like(advantages, loss, new)


def test_rloo_speaks_verl(verl, actor):
    new = NEW.clone().requires_grad_()
    coef = peer("verl", "verl.trainer.config").AlgoConfig().kl_ctrl.kl_coef
    scores = torch.zeros_like(OLD).index_put((torch.arange(8), torch.tensor(LENGTHS) - 1), SCORES)
    rewards = verl.compute_rewards(scores, OLD, REF, coef)
    advantages, _ = verl.compute_rloo_outcome_advantage(rewards * MASK, MASK.double(), GROUP_IDS)
    loss = verl_loss(verl, actor, advantages, new, kl_coef=0.0)
    Ours("rloo", dialect="verl").is_like(advantages, loss, new)


@pytest.mark.parametrize("variant", ["plain", "baseline"])
def test_reinforce_pp_is_verls_but_for_ddof(verl, variant):
    ours = Ours("reinforce_pp", variant=variant)
    mask = MASK.double()
    if variant == "plain":
        theirs = verl.compute_reinforce_plus_plus_outcome_advantage
        advantages, _ = theirs(ours.rewards, mask, SimpleNamespace(gamma=1.0))
    else:
        theirs = verl.compute_reinforce_plus_plus_baseline_outcome_advantage
        advantages, _ = theirs(ours.rewards, mask, GROUP_IDS)
    count = sum(LENGTHS)
    expected = advantages * (count / (count - 1)) ** 0.5  # verl's variance has ddof 1
    np.testing.assert_allclose(ours.advantages, expected, atol=1e-5)


def test_ppo_has_verls_advantages_over_tool_tokens(verl):
    generator = torch.Generator().manual_seed(3)
    rewards, values = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    mask = MASK & (torch.rand(8, 5, generator=generator) > 0.3)
    mask[:, 0] = True
    advantages, returns = verl.compute_gae_advantage_return(
        rewards, values, mask.double(), gamma=0.9, lam=0.8
    )
    algorithm = az.make("ppo", gamma=0.9, gae_lambda=0.8, whiten_advantages="full")
    masks = [row[:n].tolist() for row, n in zip(mask, LENGTHS, strict=True)]
    columns = {"rewards": rewards, "values": values}
    batch = make_batch(algorithm, columns, LENGTHS, response_masks=masks)
    algorithm.prepare(batch)
    np.testing.assert_allclose(batch.advantages[mask], advantages[mask], atol=1e-5)
    np.testing.assert_allclose(batch.returns[mask], returns[mask], atol=1e-5)


# -- OpenRLHF ----------------------------------------------------------------------------------

ABSENT = (  # what its maths does not need, and what needs a GPU to install
    "deepspeed", "openrlhf.models.actor", "openrlhf.models.model", "openrlhf.trainer.ray.launcher",
)  # fmt: skip


@pytest.fixture(scope="module")
def openrlhf() -> Any:
    absent = {name: MagicMock() for name in ABSENT if name not in sys.modules}
    sys.modules.update(absent)
    try:
        return SimpleNamespace(
            maker=peer("openrlhf", "openrlhf.trainer.ppo_utils.experience_maker"),
            experience=peer("openrlhf", "openrlhf.trainer.ppo_utils.experience"),
            penalty=peer("openrlhf", "openrlhf.trainer.ppo_utils.length_penalty"),
            loss=peer("openrlhf", "openrlhf.models.loss"),
            kl=peer("openrlhf", "openrlhf.models.utils").compute_approx_kl,
        )
    finally:
        for name in absent:
            del sys.modules[name]


def openrlhf_advantages(openrlhf: Any, estimator: str, *, kl_coef: float) -> torch.Tensor:
    """Returns what its experience maker writes; it computes in float32."""
    advantage = SimpleNamespace(estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=False)
    maker = SimpleNamespace(
        advantage_estimator=estimator,
        kl_ctl=SimpleNamespace(value=kl_coef),
        strategy=SimpleNamespace(
            args=SimpleNamespace(
                algo=SimpleNamespace(advantage=advantage),
                reward=SimpleNamespace(clip_range=None),
                rollout=SimpleNamespace(n_samples_per_prompt=GROUP),
            )
        ),
    )
    cls = openrlhf.maker.RemoteExperienceMaker
    maker.get_cumulative_returns = cls.get_cumulative_returns.__get__(maker)
    experience = openrlhf.experience.Experience(
        index=list(range(8)), rewards=SCORES.clone(), action_mask=MASK.long(),
        kl=openrlhf.kl(OLD, REF, kl_estimator="k1") * MASK, info={},
    )  # fmt: skip
    (found,) = cls.compute_advantages_and_returns(maker, [experience])
    return found.advantages * MASK


def openrlhf_loss(openrlhf: Any, advantages: Any, new: Any, *, kl_coef: float) -> torch.Tensor:
    """Returns its actor loss with the KL in it, as its GRPO example asks: k3."""
    loss, *_ = openrlhf.loss.PolicyLoss()(new, OLD, advantages, action_mask=MASK)
    kl = openrlhf.kl(new, REF, kl_estimator="k3")
    return loss + kl_coef * openrlhf.loss.aggregate_loss(kl, MASK)


def test_grpo_speaks_openrlhf(openrlhf):
    new = NEW.clone().requires_grad_()
    ours = Ours("grpo", dialect="openrlhf")
    advantages = openrlhf_advantages(openrlhf, "group_norm", kl_coef=0.0)
    loss = openrlhf_loss(openrlhf, advantages, new, kl_coef=ours.algorithm.config.kl_coef)
    ours.is_like(advantages, loss, new)


@pytest.mark.parametrize("kl_coef", [0.01, 0.5])
def test_rloo_speaks_openrlhf(openrlhf, kl_coef):
    new = NEW.clone().requires_grad_()
    advantages = openrlhf_advantages(openrlhf, "rloo", kl_coef=kl_coef)
    loss = openrlhf_loss(openrlhf, advantages, new, kl_coef=0.0)
    Ours("rloo", dialect="openrlhf", kl_coef=kl_coef).is_like(advantages, loss, new)


@pytest.mark.parametrize(
    ("options", "estimator"),
    [({}, "reinforce"), ({"variant": "baseline", "kl_in": "none"}, "reinforce_baseline")],
)
def test_reinforce_pp_is_openrlhfs(openrlhf, options, estimator):
    new = NEW.clone().requires_grad_()
    ours = Ours("reinforce_pp", **options)
    advantages = openrlhf_advantages(openrlhf, estimator, kl_coef=ours.algorithm.kl_coef)
    loss = openrlhf_loss(openrlhf, advantages, new, kl_coef=0.0)
    ours.is_like(advantages, loss, new)


def test_ppo_has_openrlhfs_advantages(openrlhf):
    generator = torch.Generator().manual_seed(3)
    rewards, values = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    theirs = openrlhf.maker.RemoteExperienceMaker.get_advantages_and_returns
    advantages, returns = theirs(None, values, rewards, MASK, 0.9, 0.8)
    algorithm = az.make("ppo", gamma=0.9, gae_lambda=0.8, whiten_advantages="none")
    batch = make_batch(algorithm, {"rewards": rewards, "values": values}, LENGTHS)
    algorithm.prepare(batch)
    np.testing.assert_allclose(batch.advantages[MASK], advantages[MASK], atol=1e-5)
    np.testing.assert_allclose(batch.returns[MASK], returns[MASK], atol=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_penalty_is_openrlhfs(openrlhf, estimator):
    new = NEW.clone().requires_grad_()
    theirs = openrlhf.kl(new, REF, kl_estimator=estimator)
    ours = kernels.kl_penalty(new, REF, estimator=estimator)
    np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=1e-5)
    gradients = [torch.autograd.grad(x.sum(), new)[0] for x in (ours, theirs)]
    np.testing.assert_allclose(*gradients, atol=1e-5)


def test_dapo_takes_off_what_openrlhf_takes_off_overlong_responses(openrlhf):
    experience = SimpleNamespace(response_length=torch.tensor(LENGTHS), rewards=SCORES.clone())
    openrlhf.penalty.apply_overlong_penalty(
        [experience], max_new_tokens=5, overlong_buffer_len=3, overlong_penalty_factor=0.5
    )
    options = {"overlong_buffer": 3, "max_response_length": 5, "overlong_penalty": 0.5}
    ours = Ours("dapo", **options, scale="none")
    expected = kernels.group_advantages(
        experience.rewards, torch.as_tensor(GROUP_IDS), mode="dr_grpo"
    )
    np.testing.assert_allclose(ours.advantages, expected[:, None] * MASK, atol=1e-5)
