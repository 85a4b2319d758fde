"""dpo, its kin and kto beside TRL's own losses on one fixed batch: values and gradients."""

from __future__ import annotations

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

pytestmark = pytest.mark.peer

LENGTHS = torch.tensor([5, 3, 1, 4, 2, 5, 5, 3])  # chosen, rejected, chosen, ...
MASK = torch.arange(5) < LENGTHS[:, None]
PAIRS = {"group_ids": np.arange(8) // 2, "pair_labels": [1, 0] * 4}
BY_LABEL = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])  # TRL has chosen rows first


def log_probs(seed: int) -> torch.Tensor:
    """Returns log-probs [B, T], 0 in the padding."""
    generator = torch.Generator().manual_seed(seed)
    return (-torch.randn(8, 5, generator=generator, dtype=torch.float64).abs() - 0.2) * MASK


NEW, REF, MISMATCHED, REF_MISMATCHED = (log_probs(seed) for seed in range(4))


def ours(algorithm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns our loss and its gradient by the log-probs [B, T]."""
    columns = {"ref_log_probs": REF} if algorithm.needs.ref_log_probs else {}
    batch = make_batch(algorithm, columns, LENGTHS.tolist(), **PAIRS)
    out = outputs(log_probs=NEW.tolist())
    loss = algorithm.loss(batch, out).value
    loss.backward()
    assert out.log_probs.grad is not None
    return loss.detach(), out.log_probs.grad


def assert_like(algorithm: Any, loss: torch.Tensor, leaf: torch.Tensor) -> None:
    """Compares with a peer's loss of `leaf`, log-probs [B, T] in our order."""
    value, gradient = ours(algorithm)
    (theirs,) = torch.autograd.grad(loss, leaf)
    np.testing.assert_allclose(value, loss.detach(), atol=1e-5)
    np.testing.assert_allclose(gradient * MASK, theirs * MASK, atol=1e-5)


def table(rows: torch.Tensor) -> SimpleNamespace:
    """Returns what TRL's models return, for log-probs that are given."""
    still = torch.zeros_like(rows).detach()
    return SimpleNamespace(log_probs=rows, entropy=still, mean_logits=still, is_top1=still.bool())


def trainer(**options: Any) -> Any:
    """Returns what a TRL trainer's own methods read of it."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    return MagicMock(
        accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None, use_weighting=False,
        f_divergence_type="reverse_kl", loss_weights=[1.0], precompute_ref_logps=False, _tp_size=1,
        _total_train_tokens=0, _metrics=defaultdict(lambda: defaultdict(list)), alpha=0.0,
        model=torch.nn.Identity(),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, gradient_checkpointing=False),
        **options,
    )  # fmt: skip


def masks(order: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns token ids and masks of one prompt token and each response, [B, 1 + T]."""
    completion = torch.cat([torch.zeros(8, 1, dtype=torch.bool), MASK[order]], 1).long()
    ids = torch.zeros(8, 6, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": ids + 1, "completion_mask": completion}


@pytest.mark.parametrize(
    ("id", "options", "kind"),
    [
        ("dpo", {"beta": 0.1}, "sigmoid"),
        ("dpo", {"beta": 2.0}, "sigmoid"),
        ("ipo", {"beta": 0.3, "per_token": True}, "ipo"),
    ],
)
def test_dpo_and_ipo_are_trls(id: str, options: dict[str, Any], kind: str, monkeypatch) -> None:
    module = peer("trl", "trl.trainer.dpo_trainer")
    monkeypatch.setattr(module, "disable_gradient_checkpointing", lambda *_: torch.no_grad())
    leaf = NEW.clone().requires_grad_()
    theirs = trainer(
        loss_types=[kind], beta=options["beta"], ref_model=lambda **_: table(REF[BY_LABEL])
    )

    class Model:
        training = True

        def __call__(self, **_: Any) -> SimpleNamespace:
            return table(leaf[BY_LABEL])

    loss = module.DPOTrainer._compute_loss(theirs, Model(), masks(BY_LABEL), False)
    assert_like(az.make(id, **options), loss, leaf)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.5)])
def test_kto_is_trls(weights: tuple[float, float], monkeypatch) -> None:
    module = peer("trl", "trl.trainer.kto_trainer")
    monkeypatch.setattr(module, "disable_gradient_checkpointing", lambda *_: torch.no_grad())
    leaf = NEW.clone().requires_grad_()
    desirable, undesirable = weights
    theirs = trainer(
        loss_type="kto", calculate_KL=True, beta=0.5, desirable_weight=desirable,
        undesirable_weight=undesirable,
    )  # fmt: skip
    batch = masks(torch.arange(8))
    joined = {f"KL_{name}": value.clone() for name, value in batch.items()}

    class Model:
        training = True

        def __init__(self, own: torch.Tensor, mismatched: torch.Tensor) -> None:
            self.own, self.mismatched = own, mismatched

        def __call__(self, *, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
            is_joined = input_ids is joined["KL_input_ids"]
            return table(self.mismatched if is_joined else self.own)

    theirs.ref_model = Model(REF, REF_MISMATCHED)
    theirs._compute_kl_logps = lambda model, rows: module.KTOTrainer._compute_kl_logps(
        theirs, model, rows
    )
    inputs = {**batch, **joined, "label": torch.tensor([True, False] * 4)}
    loss = module.KTOTrainer._compute_loss(theirs, Model(leaf, MISMATCHED), inputs, False)
    algorithm = az.make("kto", beta=0.5, desirable_weight=desirable, undesirable_weight=undesirable)
    algorithm.kl_point = max(0.0, float((MISMATCHED - REF_MISMATCHED).sum(1).mean()))
    assert algorithm.kl_point > 0
    assert_like(algorithm, loss, leaf)


def test_the_odds_ratio_of_orpo_is_trls() -> None:
    # TRL's likelihood is over all tokens of the batch, the prompt's included; ours is each chosen
    # response's own mean, as in the paper. The odds ratio is TRL's whatever the lengths.
    module = peer("trl", "trl.experimental.orpo.orpo_trainer")
    leaf = NEW.clone().requires_grad_()
    mean = leaf.sum(1) / LENGTHS
    theirs = trainer(beta=0.3)
    odds, *_ = module.ORPOTrainer.odds_ratio_loss(theirs, mean[::2], mean[1::2])
    assert_like(az.make("orpo", beta=0.3), -mean[::2].mean() - odds.double().mean(), leaf)


def test_simpo_is_trls() -> None:
    module = peer("trl", "trl.experimental.cpo.cpo_trainer")
    leaf = NEW.clone().requires_grad_()
    mean = leaf.sum(1) / LENGTHS
    theirs = trainer(loss_type="simpo", beta=2.0, simpo_gamma=0.7, label_smoothing=0.0)
    losses, *_ = module.CPOTrainer.cpo_loss(theirs, mean[::2], mean[1::2])
    assert_like(az.make("simpo", beta=2.0, target_margin=0.7), losses.mean(), leaf)


def test_cdpo_is_trls_smoothed_sigmoid_of_log_ratios() -> None:
    module = peer("trl", "trl.experimental.cpo.cpo_trainer")
    leaf = NEW.clone().requires_grad_()
    log_ratios = (leaf - REF).sum(1)
    theirs = trainer(loss_type="sigmoid", beta=0.4, label_smoothing=0.15)
    losses, *_ = module.CPOTrainer.cpo_loss(theirs, log_ratios[::2], log_ratios[1::2])
    assert_like(az.make("cdpo", beta=0.4, label_smoothing=0.15), losses.mean(), leaf)
