"""Numbers that describe a response to a prompt, for reward models that learn from few examples.

TF-IDF of words and characters, overlap with the prompt, length, and a policy's hidden states; a
row's numbers depend on that row alone, to the bit.
"""

from alignzoo.features.config import FeatureConfig, FeatureName
from alignzoo.features.extractor import Features
from alignzoo.features.folds import assign_folds
from alignzoo.features.ngrams import Ngrams
from alignzoo.features.reward import FeatureReward
from alignzoo.features.words import words_of

__all__ = [
    "FeatureConfig",
    "FeatureName",
    "FeatureReward",
    "Features",
    "Ngrams",
    "assign_folds",
    "words_of",
]
