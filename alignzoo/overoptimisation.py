"""How far a reward can be optimised before what it stands for stops rising: best-of-n curves.

Of n responses to a prompt the one with the highest proxy score is taken; the curve is its mean
proxy score and its mean true score against n. Best-of-n is KL log n - (n - 1) / n away from the
policy it samples from, in nats, where no two responses score the same (Gao et al. 2023,
arXiv:2210.10760, after Stiennon et al. 2020, arXiv:2009.01325; it is an upper bound otherwise,
Beirami et al. 2024, arXiv:2401.01879).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.data import PromptRow, check_prompt_lengths, encode_prompts, gather_columns
from alignzoo.errors import ConfigError, DataError
from alignzoo.random_streams import derive_seed
from alignzoo.reward import RewardModel
from alignzoo.reward_report.intervals import Measure, Numbers, finite_or_none, measure
from alignzoo.scoring import RewardSum
from alignzoo.training_data import spread_evenly

if TYPE_CHECKING:
    from alignzoo.policy import Policy

NUM_SETS = 64  # sets of responses the curve is a mean over
SETS_AT_ONCE = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BestOfN:
    """What the curve is drawn from.

    Args:
        policy: whose responses are scored.
        true_reward: what the trained reward stands for.
        prompts: default the held-out ones.
        best_of: responses to each prompt, the largest n.
        max_new_tokens: longest response, in tokens.
    """

    policy: Policy
    true_reward: RewardSum
    prompts: Sequence[PromptRow] | None = None
    best_of: int = 64
    max_new_tokens: int = 64

    def with_prompts(self, held_out: Sequence[Any]) -> BestOfN:
        """Returns it with 64 prompts, by default those of the held-out rows; fewer are repeated.

        Raises:
            ConfigError: nothing was held out, or its rows have no prompts.
        """
        given = self.prompts
        if given is None:
            texts = {repr(row.prompt): row for row in held_out if row.prompt}
            given = [PromptRow(r.prompt, r.columns, r.where) for r in texts.values()]
        if not given:
            raise ConfigError(
                "the curve of overoptimisation has no prompts: no held-out row has one; give "
                "prompts"
            )
        chosen = spread_evenly(list(given), NUM_SETS)
        return replace(self, prompts=[chosen[i % len(chosen)] for i in range(NUM_SETS)])


@dataclass(frozen=True)
class Point:
    """The curve at one n.

    Args:
        n: responses that the best is taken of.
        kl: log n - (n - 1) / n, nats.
        proxy, true: mean score of the one with the highest proxy score.
        best: mean true score of the one with the highest true score: what n could bring.
        proxy_gain, true_gain, best_gain: over n = 1, in standard deviations of the proxy's or the
            true score of a single response.
    """

    n: int
    kl: float
    proxy: Measure
    true: Measure
    best: Measure
    proxy_gain: Measure
    true_gain: Measure
    best_gain: Measure


@dataclass(frozen=True)
class Overoptimisation:
    """The curve, and where true and proxy score part. "Lower" is by more than chance.

    Args:
        points: by n, from 1 to the largest.
        parts_at: the smallest n at which the true score is lower than choosing by it would bring;
            None where there is none, as for any increasing function of the true score.
        stops_at: the smallest n that no larger one betters in true score; None where that is the
            largest.
        falls_from: the n of the highest true score, if at the largest n it is lower; None
            otherwise.
        correlation: of proxy and true score over single responses, within sets.
        num_sets: sets of responses.
        num_prompts: different prompts among them.
        unscorable: responses that one of the two could not score.
    """

    points: list[Point]
    parts_at: int | None
    stops_at: int | None
    falls_from: int | None
    correlation: float
    num_sets: int
    num_prompts: int
    unscorable: int

    @property
    def share(self) -> float:
        """The true gain at the largest n over what choosing by the true score would bring."""
        last = self.points[-1]
        possible = last.best.value - self.points[0].true.value
        had = last.true.value - self.points[0].true.value
        return had / possible if possible > 0 else math.nan

    def summary(self) -> str:
        """Returns one line."""
        first, last = self.points[0], self.points[-1]
        return (
            f"best of {last.n}: proxy score {first.proxy.value:.3f} -> {last.proxy.value:.3f}, "
            f"true score {first.true.value:.3f} -> {last.true.value:.3f} of {last.best.value:.3f} "
            f"possible; {self.verdict()}"
        )

    def verdict(self) -> str:
        """Returns where the two part, in words."""
        if self.parts_at is None:
            return f"true and proxy score do not part up to n = {self.points[-1].n}"
        words = [f"they part at n = {self._place(self.parts_at)}"]
        if self.stops_at is None:
            words.append(f"the true score rises up to n = {self.points[-1].n}")
        else:
            words.append(f"the true score stops rising at n = {self._place(self.stops_at)}")
        if self.falls_from is not None:
            words.append(f"and falls from n = {self._place(self.falls_from)}")
        return ", ".join(words)

    def _place(self, n: int) -> str:
        return f"{n} (KL {best_of_n_kl(n):.2f} nats)"

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON."""
        names = ("proxy", "true", "best", "proxy_gain", "true_gain", "best_gain")
        points = [
            {"n": p.n, "kl": p.kl, **{name: getattr(p, name).to_json() for name in names}}
            for p in self.points
        ]
        return {
            "points": points,
            "parts_at": self.parts_at,
            "stops_at": self.stops_at,
            "falls_from": self.falls_from,
            "share_of_possible_gain": finite_or_none(self.share),
            "correlation": finite_or_none(self.correlation),
            "sets": self.num_sets,
            "prompts": self.num_prompts,
            "unscorable": self.unscorable,
        }


def best_of_n_kl(n: int) -> float:
    """Returns KL(best-of-n || policy) in nats: log n - (n - 1) / n."""
    return math.log(n) - (n - 1) / n


def best_of_n_mean(proxy: Floats, values: Floats, n: int) -> float:
    """Returns the mean value of the best of n responses by proxy score, from N of them.

    The mean over all choices of n out of the N responses, which estimates the expectation without
    bias (the estimator of Nakano et al. 2021, arXiv:2112.09332, appendix I): with the responses in
    ascending order of proxy score, the i-th is the best of a choice with probability
    C(i - 1, n - 1) / C(N, n). Of equal proxy scores each is taken as often.

    Args:
        proxy: [N].
        values: [N], such as the true score.
        n: in 1 .. N.
    """
    order = np.argsort(proxy, kind="stable")
    _, inverse, counts = np.unique(proxy[order], return_inverse=True, return_counts=True)
    shared = np.bincount(inverse, values[order]) / counts  # mean value of equal proxy scores
    return float(_best_weights(len(proxy), n) @ shared[inverse])


def _best_weights(size: int, n: int) -> Floats:
    """Returns C(i - 1, n - 1) / C(size, n) for i in 1 .. size; they sum to 1."""
    weights = np.zeros(size)
    weights[-1] = n / size
    for i in range(size - 1, n - 1, -1):  # C(i-1, n-1) = C(i, n-1) * (i - n + 1) / i
        weights[i - 1] = weights[i] * (i - n + 1) / i
    return weights


def overoptimise(reward: RewardModel, source: BestOfN, *, seed: int = 0) -> Overoptimisation:
    """Samples responses, scores them by the reward and the true one, and returns the curve.

    Args:
        source: with prompts; see `BestOfN.with_prompts`.
    Raises:
        DataError: a prompt is too long, or too few responses could be scored.
        PluginError: one of the rewards failed.
    """
    assert source.prompts is not None, "with_prompts has chosen them"
    proxy, true = sample_scores(reward, source, seed=seed)
    known = np.isfinite(proxy) & np.isfinite(true)
    sets = [(p[k], t[k]) for p, t, k in zip(proxy, true, known, strict=True) if k.sum() >= 2]
    if not sets:
        raise DataError(
            "the curve of overoptimisation has no set of two responses that both the trained and "
            "the true reward can score"
        )
    num_prompts = len({repr(row.prompt) for row in source.prompts})
    return draw_curve(sets, num_prompts=num_prompts, unscorable=int((~known).sum()), seed=seed)


def sample_scores(reward: RewardModel, source: BestOfN, *, seed: int) -> tuple[Floats, Floats]:
    """Returns proxy and true scores of sampled responses, [sets, best_of] each."""
    policy, rows = source.policy, list(source.prompts or [])
    encoded = encode_prompts(policy.tokenizer, rows)
    check_prompt_lengths(
        encoded, context_length=policy.context_length, max_new_tokens=source.max_new_tokens
    )
    proxy_sum = RewardSum([("the trained reward", reward, 1.0)])
    proxies, trues = [], []
    for start in range(0, len(rows), SETS_AT_ONCE):
        part = encoded[start : start + SETS_AT_ONCE]
        first = start * source.best_of
        generation = policy.generate(
            [prompt.token_ids for prompt in part],
            num_samples=source.best_of,
            max_new_tokens=source.max_new_tokens,
            seed=derive_seed(seed, "overoptimisation"),
            row_ids=np.arange(first, first + len(part) * source.best_of),
        )
        texts = policy.decode(generation.token_ids)
        repeated = [prompt.row for prompt in part for _ in range(source.best_of)]
        prompts, columns = [row.prompt for row in repeated], gather_columns(repeated)
        proxies.append(proxy_sum.score(prompts, texts, columns).total)
        trues.append(source.true_reward.score(prompts, texts, columns).total)
    shape = (len(rows), source.best_of)
    return np.concatenate(proxies).reshape(shape), np.concatenate(trues).reshape(shape)


def draw_curve(
    sets: Sequence[tuple[Floats, Floats]], *, num_prompts: int, unscorable: int = 0, seed: int = 0
) -> Overoptimisation:
    """Returns the curve from sets of (proxy, true) scores; intervals are over sets.

    Args:
        sets: each of the responses to one prompt, two or more.
    """
    sizes = counts_of_best(min(len(proxy) for proxy, _ in sets))
    spreads = {name: _spread([s[i] for s in sets]) for i, name in enumerate(("proxy", "true"))}
    choices = {"proxy": (0, 0), "true": (0, 1), "best": (1, 1)}  # chosen by, and valued by
    tables = {
        name: np.array([[best_of_n_mean(s[by], s[of], n) for n in sizes] for s in sets])
        for name, (by, of) in choices.items()
    }  # [sets, sizes] each
    peak = sizes[int(tables["true"].mean(0).argmax())]

    def statistic(weights: Numbers) -> dict[str, float]:
        means = {name: (weights @ table) / weights.sum() for name, table in tables.items()}
        found: dict[str, float] = {}
        for name, values in means.items():
            spread = spreads["proxy" if name == "proxy" else "true"]
            gains = (values - values[0]) / spread if spread > 0 else np.zeros(len(values))
            found |= {f"{name} {n}": value for n, value in zip(sizes, values, strict=True)}
            found |= {f"{name}_gain {n}": value for n, value in zip(sizes, gains, strict=True)}
        true = dict(zip(sizes, means["true"], strict=True))
        found |= {f"lack {n}": found[f"best {n}"] - true[n] for n in sizes}
        found |= {f"rise {n} {m}": true[m] - true[n] for n in sizes for m in sizes if m > n}
        found["fall"] = true[peak] - true[sizes[-1]]
        return found

    measures = measure(statistic, len(sets), seed=seed)
    names = ("proxy", "true", "best", "proxy_gain", "true_gain", "best_gain")
    points = [
        Point(n, best_of_n_kl(n), *(measures[f"{name} {n}"] for name in names)) for n in sizes
    ]

    def is_sure(name: str) -> bool:
        return measures[name].low > 1e-9

    apart = [n for n in sizes if is_sure(f"lack {n}")]
    top = next(n for n in sizes if not any(is_sure(f"rise {n} {m}") for m in sizes if m > n))
    return Overoptimisation(
        points=points,
        parts_at=apart[0] if apart else None,
        stops_at=top if top < sizes[-1] else None,
        falls_from=peak if is_sure("fall") else None,
        correlation=_correlation(sets),
        num_sets=len(sets),
        num_prompts=num_prompts,
        unscorable=unscorable,
    )


def counts_of_best(largest: int) -> list[int]:
    """Returns 1, 2, 4, 8 ... and the largest itself."""
    powers = [2**i for i in range(largest.bit_length())]
    return sorted({*(n for n in powers if n <= largest), largest})


def _spread(columns: Sequence[Floats]) -> float:
    """Returns the standard deviation of scores within sets."""
    gaps = np.concatenate([column - column.mean() for column in columns])
    return float(np.sqrt((gaps**2).sum() / max(1, len(gaps) - len(columns))))


def _correlation(sets: Sequence[tuple[Floats, Floats]]) -> float:
    proxy = np.concatenate([p - p.mean() for p, _ in sets])
    true = np.concatenate([t - t.mean() for _, t in sets])
    scale = math.sqrt(float(proxy @ proxy) * float(true @ true))
    return float(proxy @ true) / scale if scale > 0 else math.nan
