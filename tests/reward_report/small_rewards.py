"""A plugin with rewards that learn in milliseconds, from every kind of judgement."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from pydantic import Field

import alignzoo as az
from alignzoo import data, model_files

VALUES = {"bad": 0.0, "medium": 0.5, "good": 1.0}


class WordsConfig(az.RewardConfig):
    scale: float = Field(1.0, gt=0, description="what the scores are multiplied with")
    marker: str = Field("\n", description="what parts steps")


class Words(az.RewardModel):
    """Score: mean worth of the response's words; a word is worth what its responses are."""

    Config = WordsConfig
    learns_from = tuple(data.JUDGEMENTS)

    def __init__(self, config):
        super().__init__(config)
        self.worth = {}
        self.class_values = {}

    def fit(self, rows, *, seed=0):
        kind, rows = data.read_judgements(rows, self.learns_from)
        self.class_values = VALUES if kind == "classes" else {}
        sums, counts = defaultdict(float), defaultdict(int)
        for text, truth in texts_and_truths(kind, rows):
            for word in set(text.split()):
                sums[word] += truth
                counts[word] += 1
        self.worth = {word: sums[word] / counts[word] for word in sums}
        return {"words": float(len(self.worth)), "seed": float(seed)}

    def score(self, prompts, responses):
        if not self.worth:
            raise az.ConfigError("reward 'words' has learned nothing; train it first")
        return [self.config.scale * self.mean_worth(response) for response in responses]

    def mean_worth(self, text):
        known = [self.worth[word] for word in text.split() if word in self.worth]
        return sum(known) / len(known) if known else 0.0

    def step_scores(self, prompts, responses):
        return [self.score([], text.split(self.config.marker)) for text in responses]

    def class_probabilities(self, prompts, responses):
        scores = np.clip(self.score(prompts, responses), 0.0, 1.0)
        table = np.stack([np.exp(-8 * (scores - value) ** 2) for value in VALUES.values()])
        return dict(zip(VALUES, table / table.sum(0), strict=True))

    def save(self, folder):
        words = list(self.worth)
        settings = {"words": words, "class_values": dict(self.class_values)}
        worth = np.array([self.worth[word] for word in words])
        model_files.write_model(folder, settings, {"worth": worth})

    def load(self, folder):
        settings, arrays = model_files.read_model(folder)
        self.worth = dict(zip(settings["words"], arrays["worth"].tolist(), strict=True))
        self.class_values = settings["class_values"]


class Forgetful(Words):
    """Its `save` leaves half of what it learned out."""

    def save(self, folder):
        self.worth = {word: worth / 2 for word, worth in self.worth.items()}
        super().save(folder)
        self.worth = {word: worth * 2 for word, worth in self.worth.items()}


class Silent(Words):
    """It cannot score a response that says "hm"."""

    def score(self, prompts, responses):
        found = super().score(prompts, responses)
        return [math.nan if "hm" in r else s for r, s in zip(responses, found, strict=True)]


def texts_and_truths(kind, rows):
    for row in rows:
        if kind == "preferences":
            yield data.plain_text(row.chosen), 1.0
            yield data.plain_text(row.rejected), 0.0
        elif kind == "rankings":
            last = len(row.completions) - 1
            for place, text in enumerate(row.completions):
                yield data.plain_text(text), 1.0 - place / last
        elif kind == "steps":
            yield from ((s, r) for s, r in zip(row.steps, row.ratings, strict=True) if r == r)
        else:
            truth = VALUES[row.label] if kind == "classes" else row.rating
            if truth == truth:
                yield data.plain_text(row.completion), truth


@az.hookimpl
def alignzoo_rewards():
    return [
        az.RewardSpec(id="words", target=f"{__name__}:Words", summary="worth of words"),
        az.RewardSpec(id="forgetful", target=f"{__name__}:Forgetful", summary="a broken save"),
        az.RewardSpec(id="silent", target=f"{__name__}:Silent", summary="cannot score all"),
    ]
