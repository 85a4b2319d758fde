"""Rewards for the kit to judge: right ones, and each of them with one planted bug.

The right ones are written as other people write them, without what only our own use.
"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field

import alignzoo as az
from alignzoo import model_files


class WordsConfig(az.RewardConfig):
    """Options of `Words`."""

    target: int = Field(5, gt=0, description="words that score 1")


class Words(az.RewardModel):
    """A rule: near a number of words."""

    Config = WordsConfig

    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        return [self.one(response) for response in responses]

    def one(self, response: str) -> Any:
        return max(0.0, 1 - abs(len(response.split()) - self.config.target) / self.config.target)


class WithExamples(Words):
    """A rule with two numbers worked out by hand."""

    examples: Any = (
        {"completion": "one two three four", "score": 0.8},
        {"options": {"target": 2}, "prompt": "Say it.", "completion": "one two", "score": 1},
    )


class Answer(az.RewardModel):
    """A rule that declares the one column it reads."""

    def score(self, responses: Any, answer: Any) -> Any:
        return [float(str(a) in r) for a, r in zip(answer, responses, strict=True)]


class Lookup(az.RewardModel):
    """A rule that takes its column out of all, and cannot score a row without it."""

    examples = ({"completion": "7", "wanted": ["7", "seven"], "score": 1.0},)

    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        rows = zip(responses, columns["wanted"], strict=True)
        return [float(r in wanted) if wanted else None for r, wanted in rows]


class Tensors(az.RewardModel):
    """A rule on tensors, which returns a tensor."""

    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        import torch

        with torch.no_grad():
            return torch.tensor([[len(r), r.count(" ")] for r in responses]).float().mean(1)


class Learned(az.RewardModel):
    """A straight line in words and characters, fitted to ratings or to pairs."""

    learns_from: Any = ("ratings", "preferences")
    line: Any = None

    def fit(self, data: Any, *, seed: int = 0) -> Any:
        x, y = [], []
        for row in data:
            if hasattr(row, "chosen"):
                x += [self.features(row.chosen), self.features(row.rejected)]
                y += [1.0, 0.0]
            else:
                x.append(self.features(row.completion))
                y.append(float(row.rating))
        start = self.start(seed)
        self.line = start + np.linalg.lstsq(np.array(x), np.array(y) - np.array(x) @ start)[0]
        return {"slope": float(self.line[1])}

    def start(self, seed: int) -> Any:
        return 1e-3 * np.random.default_rng(seed).normal(size=3)

    def features(self, text: Any) -> Any:
        text = az.data.plain_text(text)
        return [1.0, len(text.split()), len(text)]

    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        if self.line is None:
            raise az.ConfigError("it has learned nothing yet; train it with train-reward")
        return [float(np.dot(self.features(response), self.line)) for response in responses]

    def save(self, folder: Path) -> None:
        model_files.write_model(folder, {}, {"line": self.line})

    def load(self, folder: Path) -> None:
        self.line = model_files.read_model(folder)[1]["line"]


RIGHT = (Words, WithExamples, Answer, Lookup, Tensors, Learned)


class CentredInTheBatch(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        scores = np.array(super().score(prompts, responses))
        return (scores - scores.mean()).tolist()


class RankInTheBatch(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        scores = super().score(prompts, responses)
        return [sorted(scores).index(score) / len(scores) for score in scores]


class SortsTheBatch(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        return [self.one(response) for response in sorted(responses, key=len)]


class Noisy(Words):
    def one(self, response: str) -> Any:
        return super().one(response) + random.gauss(0, 0.1)


class RewardsWhatIsNew(Words):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.seen: set[str] = set()

    def one(self, response: str) -> Any:
        is_new = response not in self.seen
        self.seen.add(response)
        return super().one(response) + is_new


class HashOfTheText(Words):
    def one(self, response: str) -> Any:
        return (hash(response) % 1000) / 1000


class DividesByTheLength(Words):
    def one(self, response: str) -> Any:
        return response.count("e") / len(response)


class MeanOfNothing(Words):
    def one(self, response: str) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            words = response.split()
            return np.float64(sum(map(len, words))) / np.float64(len(words))


class LogOfZero(Words):
    def one(self, response: str) -> Any:
        share = super().one(response)
        return math.log(share) if share > 0 else -math.inf


class NeverScores(Words):
    def one(self, response: str) -> Any:
        return None


class OneScoreForAll(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        return float(np.mean(super().score(prompts, responses)))


class ListsOfScores(Words):
    def one(self, response: str) -> Any:
        return [super().one(response)]


class ForgetsTheLast(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        return super().score(prompts, responses)[: max(1, len(responses) - 1)]


class ScoresOneChunk(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        return super().score(prompts, responses[:32])


class KeepsTheGraph(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        import torch

        weight = torch.ones((), requires_grad=True)
        return weight * torch.tensor([float(len(response)) for response in responses])


class StripsTheResponses(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        for i, response in enumerate(responses):
            responses[i] = response.strip("[6] ")
        return super().score(prompts, responses)


class AddsToTheChat(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        for prompt, response in zip(prompts, responses, strict=True):
            if isinstance(prompt, list):
                prompt.append({"role": "assistant", "content": response})
        return super().score(prompts, responses)


class PromptsAreText(Words):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        return [len(p.split()) - len(r.split()) for p, r in zip(prompts, responses, strict=True)]


class OnlyAscii(Words):
    def one(self, response: str) -> Any:
        return float(len(response.encode("ascii")))


class Exits(Words):
    def one(self, response: str) -> Any:
        if not response:
            raise SystemExit("nothing to score")
        return super().one(response)


class WrongExample(Words):
    examples = ({"completion": "one two three four", "score": 0.7},)


class MisspeltExample(Words):
    examples = ({"completion": "one two three four", "scores": 0.8},)


class ExampleWithoutResponse(Words):
    examples = ({"prompt": "one two three four", "score": 0.8},)


class LikesWhatPeopleDislike(Learned):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        return [-score for score in super().score(prompts, responses)]


class IgnoresTheSeed(Learned):
    def start(self, seed: int) -> Any:
        return np.random.normal(size=3)

    def fit(self, data: Any, *, seed: int = 0) -> Any:
        found = super().fit(data, seed=seed)
        self.line = self.line + 0.01 * self.start(seed)
        return found


class ForgetsPartOfItself(Learned):
    def load(self, folder: Path) -> None:
        super().load(folder)
        self.line = self.line * np.array([0.0, 1.0, 1.0])


class SavesNothing(Learned):
    def save(self, folder: Path) -> None:
        pass


class SavesAPickle(Learned):
    def save(self, folder: Path) -> None:
        (folder / "line.pkl").write_bytes(pickle.dumps(self.line))

    def load(self, folder: Path) -> None:
        self.line = pickle.loads((folder / "line.pkl").read_bytes())


class UntrainedScoresZero(Learned):
    def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
        if self.line is None:
            return [0.0] * len(responses)
        return super().score(prompts, responses)


class LearnsFromWhatIsNone(Learned):
    learns_from = ("thumbs",)


class LossIsNaN(Learned):
    def fit(self, data: Any, *, seed: int = 0) -> Any:
        return {**super().fit(data, seed=seed), "loss": math.nan}


class OddProbabilities(Learned):
    def class_probabilities(self, prompts: Any, responses: Any) -> Any:
        return {"good": [0.7] * len(responses), "bad": [0.7] * len(responses)}


class _Unbounded(az.RewardConfig):
    target: int = Field(5, description="words that score 1")


class UnboundedOption(Words):
    Config = _Unbounded


class _WrongDefault(az.RewardConfig):
    target: int = Field(-5, ge=1, description="words that score 1")


class DefaultOutOfBounds(Words):
    Config = _WrongDefault


class _Thawed(az.RewardConfig):
    model_config = ConfigDict(frozen=False)
    target: int = Field(5, ge=1, description="words that score 1")


class OptionsCanChange(Words):
    Config = _Thawed


class _Loose(az.RewardConfig):
    model_config = ConfigDict(extra="ignore")
    target: int = Field(5, ge=1, description="words that score 1")


class TakesAnyOption(Words):
    Config = _Loose


class _Undocumented(az.RewardConfig):
    target: int = Field(5, ge=1)


class UndocumentedOption(Words):
    Config = _Undocumented


class NoReward:
    """It derives from nothing of ours."""


# What is planted in words, and the check that is there to catch it.
PLANTED: dict[type, tuple[str, str]] = {
    CentredInTheBatch: ("scores are centred in the batch", "the_batch_changes_nothing"),
    RankInTheBatch: ("scores are ranks in the batch", "the_batch_changes_nothing"),
    SortsTheBatch: ("responses are sorted before they are scored", "the_order_changes_nothing"),
    Noisy: ("noise of a global stream is added", "the_same_call_scores_the_same"),
    RewardsWhatIsNew: ("responses seen before are remembered", "the_same_call_scores_the_same"),
    HashOfTheText: ("`hash` of the text", "another_process_scores_the_same"),
    DividesByTheLength: ("a division by the length", "an_empty_response_is_scored"),
    MeanOfNothing: ("the mean of no words, NaN", "an_empty_response_is_scored"),
    LogOfZero: ("the logarithm of 0", "scores_are_finite"),
    NeverScores: ("every score is None", "scores_are_finite"),
    OneScoreForAll: ("one score for the whole batch", "one_number_per_response"),
    ListsOfScores: ("lists instead of numbers", "one_number_per_response"),
    ForgetsTheLast: ("one score too few", "one_number_per_response"),
    ScoresOneChunk: ("the first 32 are scored", "one_number_per_response"),
    KeepsTheGraph: ("scores that require grad", "no_gradient_is_kept"),
    StripsTheResponses: ("responses are stripped in place", "inputs_are_not_changed"),
    AddsToTheChat: ("the response is appended to the prompt", "inputs_are_not_changed"),
    PromptsAreText: ("prompts are taken for text", "chat_prompts_are_accepted"),
    OnlyAscii: ("text is taken for ASCII", "any_text_is_accepted"),
    Exits: ("sys.exit where there is nothing to score", "an_empty_response_is_scored"),
    WrongExample: ("an example that does not hold", "examples_hold"),
    MisspeltExample: ("a misspelt key in an example", "examples_hold"),
    ExampleWithoutResponse: ("an example without a response", "examples_hold"),
    LikesWhatPeopleDislike: ("the sign flipped", "it_learns_from_its_judgements"),
    LearnsFromWhatIsNone: ("an unknown kind of judgement", "it_learns_from_its_judgements"),
    LossIsNaN: ("a measure of the fit is NaN", "it_learns_from_its_judgements"),
    IgnoresTheSeed: ("the start is drawn from a global stream", "the_same_seed_learns_the_same"),
    ForgetsPartOfItself: ("load forgets the intercept", "it_scores_the_same_after_saving"),
    SavesNothing: ("save writes nothing", "it_scores_the_same_after_saving"),
    SavesAPickle: ("save writes a pickle", "it_saves_nothing_that_runs"),
    UntrainedScoresZero: ("0 before it was trained", "untrained_it_says_so"),
    OddProbabilities: ("probabilities that sum to 1.4", "class_probabilities_are_probabilities"),
    UnboundedOption: ("a number without bounds", "options_are_documented_and_bounded"),
    DefaultOutOfBounds: ("a default out of bounds", "options_are_documented_and_bounded"),
    OptionsCanChange: ("options that can be assigned", "options_are_documented_and_bounded"),
    TakesAnyOption: ("unknown options are ignored", "unknown_options_are_refused"),
    UndocumentedOption: ("an option without documentation", "the_class_loads"),
    NoReward: ("a class that derives from nothing of ours", "the_class_loads"),
}


def spec(cls: type, **fields: Any) -> az.RewardSpec:
    """Returns the record of one of these classes."""
    given = {"id": cls.__name__, "summary": f"{cls.__name__}, for the kit to judge"}
    return az.RewardSpec(target=f"{cls.__module__}:{cls.__name__}", **{**given, **fields})


@az.hookimpl
def alignzoo_rewards() -> Sequence[az.RewardSpec]:
    """Returns the records of the right ones."""
    return [spec(cls) for cls in RIGHT]
