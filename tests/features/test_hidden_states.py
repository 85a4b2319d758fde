"""A policy's hidden states as features."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignzoo.errors import ConfigError, DataError
from alignzoo.features import FeatureConfig, Features
from alignzoo.features.hidden import HiddenStates
from alignzoo.policy import Policy

PROMPTS: list[Any] = ["Say hello.", [{"role": "user", "content": "Say 好."}], "", "Say more."]
RESPONSES = ["Hello, you.", "好", "no prompt", ""]


@pytest.fixture(scope="module")
def states() -> HiddenStates:
    block = HiddenStates("tiny")
    block.fit()
    return block


def test_a_row_is_the_same_alone_and_in_any_batch_to_the_bit(states: HiddenStates) -> None:
    """correctness.md #25."""
    together = states.transform(PROMPTS, RESPONSES)
    for row in range(len(PROMPTS)):
        alone = states.transform([PROMPTS[row]], [RESPONSES[row]])
        assert np.array_equal(alone[0], together[row])


def test_they_are_the_mean_over_the_response_and_the_state_at_its_end(
    states: HiddenStates,
) -> None:
    policy = Policy.from_pretrained("tiny")
    prompt_ids = policy.tokenizer.encode("Say hello.")
    ids = policy.tokenizer.encode("Hello, you.", add_special_tokens=False)
    with torch.no_grad():
        out = policy.model(torch.tensor([[*prompt_ids, *ids]]), output_hidden_states=True)
    expected = out.hidden_states[-1][0].double().numpy()
    found = states.transform(PROMPTS[:1], RESPONSES[:1])[0]
    mean = expected[len(prompt_ids) :].mean(0)
    assert found == pytest.approx(np.concatenate([mean, expected[-1]]), abs=1e-5)


def test_an_empty_response_has_the_state_its_prompt_ends_in(states: HiddenStates) -> None:
    width = states.width // 2
    found = states.transform([PROMPTS[3]], [""])[0]
    assert not found[:width].any()
    assert found[width:].any()


def test_a_row_that_exceeds_the_context_loses_the_beginning_of_its_prompt(
    states: HiddenStates, caplog: pytest.LogCaptureFixture
) -> None:
    long = "word " * 300  # 1500 tokens of 1 byte; the context is 1024
    with caplog.at_level(logging.WARNING, "alignzoo"):
        found = states.transform([long, long + long, long], ["end", "end", long])
    assert np.array_equal(found[0], found[1])
    assert np.isfinite(found).all()
    assert "3 of 3 rows exceed the context of tiny" in caplog.text


def test_another_model_in_place_of_the_policy_is_refused(tmp_path: Path) -> None:
    Policy.from_pretrained("tiny", seed=0).save(tmp_path)
    config = FeatureConfig(features=["length"], policy=str(tmp_path))
    features = Features(config).fit(PROMPTS, RESPONSES)
    settings, arrays = features.state()
    same = Features(config).restore(settings, arrays).transform(PROMPTS, RESPONSES)
    assert np.array_equal(same.toarray(), features.transform(PROMPTS, RESPONSES).toarray())
    Policy.from_pretrained("tiny", seed=1).save(tmp_path)
    with pytest.raises(DataError, match="is not the model this reward was trained with"):
        Features(config).restore(settings, arrays).transform(PROMPTS, RESPONSES)


def test_a_policy_adds_its_states_to_the_features() -> None:
    config = FeatureConfig(features=["length"], policy="tiny")
    assert config.kinds == ("length", "hidden")
    features = Features(config).fit(PROMPTS, RESPONSES)
    assert features.transform(PROMPTS, RESPONSES).shape == (4, 3 + 2 * 128)
    assert features.names()[3] == "hidden: mean state 0"


def test_a_policy_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"policy folder '.*nowhere' does not exist"):
        Features(FeatureConfig(policy="./nowhere")).fit(PROMPTS, RESPONSES)
