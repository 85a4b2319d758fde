"""Deep Q-learning on a frozen language model, which its critic steers: `dqn` and `ddqn`.

    Q(s, .) = head(hidden state of s), one value per token
    y_t  = r_t + .. + gamma^(n-1) r_{t+n-1} + gamma^n bootstrap(s'),  s' = s_{t+n}
           bootstrap(s') = max_{a in A(s')} Q_target(s', a)                            dqn
                           Q_target(s', argmax_{a in A(s')} Q(s', a))                  ddqn
    A(s) = {a: p(a | s) >= min_prob max_b p(b | s)},  p of the language model, unsteered
    L    = mean huber(Q(s_t, a_t) - y_t) + cql_coef mean(log sum_a e^Q(s_t, a) - Q(s_t, a_t))
    logits to sample from = logits + Q / steer_temperature; outside A(s), Q is at most the least
                            inside

Mnih et al. 2015 (doi:10.1038/nature14236); Double DQN: van Hasselt et al. 2016, arXiv:1509.06461;
the dueling head: Wang et al. 2016, arXiv:1511.06581, eq. 9; the support A: Fujimoto et al. 2019,
arXiv:1910.01708, algorithm 1; the conservative term: Kumar et al. 2020, arXiv:2006.04779, eq. 4;
steering by Q: Snell et al. 2022, arXiv:2206.11871. Without n_step y_t is the return, and the two
are one.

What differs from the papers (`docs/algorithms/dqn.md`): the policy is a softmax tilted by Q rather
than epsilon-greedy; replay is passed through in minibatches rather than drawn from with
replacement; AdamW; n-step returns of older policies are not corrected.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

import alignzoo as az
from alignzoo import kernels, options

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alignzoo import Metrics, Policy, PolicyOutput, RolloutBatch
    from alignzoo.algorithm import Learner


class DQNConfig(az.AlgorithmConfig):
    """Options of `dqn` and `ddqn`."""

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of the Q head")
    minibatch_size: int | None = Field(
        64, gt=0, description="sequences per optimiser step; none is the whole replay"
    )
    gamma: options.Gamma = 1.0
    n_step: int | None = Field(
        32, gt=0, description="rewards summed before Q takes over; none sums all to the end"
    )
    replay: int = Field(4, ge=0, description="past rollouts learned from beside the newest")
    target_sync: int = Field(4, gt=0, description="updates between changes of the target network")
    tau: float = Field(1.0, gt=0, le=1, description="how far a change takes it to the online one")
    huber_delta: float = Field(1.0, gt=0, description="error where the square becomes a line")
    cql_coef: float = Field(0.0, ge=0, description="weight of the conservative term")
    dueling: bool = Field(True, description="Q is V plus advantages less their mean")
    head_width: int | None = Field(
        None, gt=0, description="units of a hidden layer in the Q head; none is a linear head"
    )
    min_prob: float = Field(
        0.1,
        ge=0,
        le=1,
        description="least probability, relative to the likeliest token's, of a token that Q is "
        "maximised over and steers to",
    )
    steer_temperature: float = Field(
        0.03, gt=0, description="value that makes a token e times as likely, in units of the score"
    )
    explore_temperature: float | None = Field(
        None, gt=0, description="steer_temperature at first; none is the same throughout"
    )
    explore_updates: int = Field(
        20, gt=0, description="updates over which explore_temperature becomes steer_temperature"
    )


class DQN(az.Algorithm):
    """Q-learning whose target takes the maximum of the target network."""

    Config = DQNConfig
    saved = ("num_updates",)

    def __init__(self, config: DQNConfig) -> None:
        super().__init__(config)
        self.num_updates = 0

    @property
    def needs(self) -> az.Needs:
        return az.Needs(logits=True, hidden=True, replay=self.config.replay)

    # -- the heads ------------------------------------------------------------------------------

    def build(self, policy: Policy) -> nn.Module:
        from torch import nn

        width = policy.language_model.width
        layers: list[nn.Module] = []
        if self.config.head_width is not None:
            layers = [nn.Linear(width, self.config.head_width), nn.GELU()]
            width = self.config.head_width
        vocab_size = policy.model.config.get_text_config().vocab_size
        last = nn.Linear(width, vocab_size + self.config.dueling)
        nn.init.zeros_(last.weight)  # nothing is steered at first
        nn.init.zeros_(last.bias)
        online = nn.Sequential(*layers, last).to(policy.device)
        target = copy.deepcopy(online).requires_grad_(False)
        self.heads = nn.ModuleDict({"online": online, "target": target})
        return self.heads

    def parameter_groups(self, policy: Policy, extra: nn.Module | None) -> list[dict[str, Any]]:
        return [{"params": list(self.heads["online"].parameters())}]

    def q_values(self, head: str, hidden: Tensor) -> Tensor:
        """Returns Q of every token, [.., V], in float32."""
        q: Tensor = self.heads[head](hidden.float())
        if not self.config.dueling:
            return q
        value, advantages = q[..., -1:], q[..., :-1]
        return value + advantages - advantages.mean(-1, keepdim=True)

    def support(self, logits: Tensor) -> Tensor:
        """Returns which tokens the unsteered model finds likely enough, bool [.., V]."""
        probs = (logits - logits.amax(-1, keepdim=True)).exp()
        return probs >= self.config.min_prob

    # -- learning -------------------------------------------------------------------------------

    def update(self, batch: RolloutBatch, learner: Learner) -> Metrics:
        config, metrics = self.config, az.Metrics()
        replay = learner.buffer.batch(learner.buffer.rows(), device=batch.device)
        for minibatch in learner.minibatches(replay, config.minibatch_size, config.num_epochs):
            result = learner.step(minibatch, self.loss)
            metrics.merge(result.metrics)
            if result.stop:
                break
        return metrics

    def loss(self, batch: RolloutBatch, out: PolicyOutput) -> az.Loss:
        config, mask = self.config, batch.response_mask
        hidden = out.hidden[mask].detach()  # [N, D]: masked tokens are gone from the sequences
        support = self.support(out.logits[mask].detach())
        q = self.q_values("online", hidden)
        best, chosen = self.maxima(q, hidden, support, batch.response_ids[mask].long())
        targets = self.targets(batch, best)
        whole, count = batch.num_tokens, mask.sum()
        q_loss = kernels.huber(chosen - targets, delta=config.huber_delta).sum()
        value = q_loss / whole
        if config.cql_coef:
            value = value + config.cql_coef * (q.logsumexp(-1) - chosen).sum() / whole
        return az.Loss(
            value,
            {
                "q_loss": (q_loss.detach(), count),
                "q_values": (chosen.detach().sum(), count),
                "q_targets": (targets.sum(), count),
            },
        )

    def maxima(
        self, q: Tensor, hidden: Tensor, support: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the target network's largest value over the support, and Q of the actions."""
        chosen = q.gather(-1, actions[:, None]).squeeze(-1)
        target = self.q_values("target", hidden)
        best, _, _ = kernels.max_and_gather(target.masked_fill(~support, -float("inf")), actions)
        return best, chosen

    def targets(self, batch: RolloutBatch, best: Tensor) -> Tensor:
        """Returns y_t of every unmasked token, [N]; `best` is the value of its own state."""
        mask = batch.response_mask
        row = mask.nonzero()[:, 0]
        terminated = row != row.roll(-1)  # no state follows a row's last token: its value is 0
        terminated[-1] = True
        return kernels.td_targets(
            batch.rewards[mask],
            best.to(batch.rewards.dtype).roll(-1),
            gamma=self.config.gamma,
            terminated=terminated,
            n_step=self.config.n_step or len(best),
        )

    def after_update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Moves the target network every `target_sync` updates."""
        import torch

        self.num_updates = step
        if step % self.config.target_sync:
            return
        with torch.no_grad():
            online, target = self.heads["online"], self.heads["target"]
            for new, old in zip(online.parameters(), target.parameters(), strict=True):
                old.lerp_(new, self.config.tau)

    # -- acting ---------------------------------------------------------------------------------

    @property
    def temperature(self) -> float:
        """The steering temperature in force, on a line from explore_ to steer_temperature."""
        config = self.config
        if config.explore_temperature is None:
            return float(config.steer_temperature)
        share = min(1.0, self.num_updates / config.explore_updates)
        start = config.explore_temperature
        return float(start + share * (config.steer_temperature - start))

    def shape_logits(self, logits: Tensor, hidden: Tensor) -> Tensor:
        q = self.q_values("online", hidden.detach()).detach()
        support = self.support(logits.detach())
        worst = q.masked_fill(~support, float("inf")).amin(-1, keepdim=True)
        return logits + q.where(support, q.minimum(worst)) / self.temperature


class DoubleDQN(DQN):
    """Q-learning where the online network chooses the maximum and the target network rates it."""

    def maxima(
        self, q: Tensor, hidden: Tensor, support: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        allowed = q.detach().masked_fill(~support, -float("inf"))
        _, argmax, _ = kernels.max_and_gather(allowed, actions)
        chosen = q.gather(-1, actions[:, None]).squeeze(-1)
        best = self.q_values("target", hidden).gather(-1, argmax[:, None]).squeeze(-1)
        return best, chosen


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="dqn",
            target="alignzoo.plugins.dqn:DQN",
            summary="a Q head over the vocabulary steers a frozen language model",
            paper="doi:10.1038/nature14236",
        ),
        az.AlgorithmSpec(
            id="ddqn",
            target="alignzoo.plugins.dqn:DoubleDQN",
            summary="dqn with the online network choosing and the target network rating",
            paper="arXiv:1509.06461",
        ),
    ]
