"""readability against alignzoo's conformance kit and scores worked by hand."""

import pytest

import alignzoo as az
from alignzoo.testing import reward_checks


@pytest.mark.parametrize("check", reward_checks("readability"))
def test_conformance(check):
    check()


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The cat sat on the mat.", 1.0),  # an ease of 116
        ("Comprehension improves understanding mathematics readability.", 0.0),  # below 0
        ("The cat sat.", 3 / 5),  # five words are asked for
        ("12 + 30 = 42", 0.0),  # no word
        ("", 0.0),
    ],
)
def test_short_words_in_short_sentences_are_easy(response, expected):
    assert az.make_reward("readability").score(["Write."], [response]) == [expected]


def test_every_language_has_a_dictionary():
    for language in ("en", "de", "es", "fr", "it", "nl"):
        reward = az.make_reward("readability", language=language)
        assert reward.score([""], ["Rosa Marina sola."])[0] > 0
