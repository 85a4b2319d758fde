"""The model card: a valid header, the run's own numbers, and nothing claimed beyond them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from alignzoo.model_card import model_card

CONFIG: dict[str, Any] = {
    "run": {
        "policy": "/home/someone/secret/stories260K",
        "prompts": "/home/someone/P.jsonl",
        "seed": 4,
        "max_new_tokens": 64,
    },
    "algorithm": {
        "id": "ppo",
        "options": {"clip_range": 0.2, "minibatch_size": None},
        "distribution": "alignzoo",
        "version": "0.1.0",
        "revision": 2,
        "paper": "arXiv:1707.06347",
    },
    "rewards": [{"id": "keywords", "weight": 0.5, "options": {"include": ["dog", "公园"]}}],
    "versions": {"torch": "2.13.0"},
}
METRICS = [
    {"step": 1, "score_mean": 0.2, "eval_score_mean": 0.25, "kl": 0.1, "tokens": 500},
    {"step": 2, "score_mean": 0.6},
    {"step": 3, "score_mean": 0.9, "eval_score_mean": 0.85, "kl": 9.0, "tokens": 1500},
]


def header_of(card: str) -> dict[str, Any]:
    start, header, _ = card.split("---\n", 2)
    assert start == ""
    found = yaml.safe_load(header)
    assert isinstance(found, dict)
    return found


def test_header_is_what_the_hub_reads() -> None:
    header = header_of(model_card(CONFIG, METRICS))
    assert header["library_name"] == "transformers"
    assert header["pipeline_tag"] == "text-generation"
    assert header["tags"] == ["alignzoo", "alignment", "ppo"]
    assert "base_model" not in header


def test_a_hub_id_is_the_base_model() -> None:
    config = {**CONFIG, "run": {"policy": "HuggingFaceTB/SmolLM2-135M"}}
    card = model_card(config, METRICS)
    assert header_of(card)["base_model"] == "HuggingFaceTB/SmolLM2-135M"
    assert "trained from `HuggingFaceTB/SmolLM2-135M`" in card


def test_a_folder_that_reads_as_a_hub_id_is_no_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = model_card({"run": {"policy": "runs/sft"}}, [])
    assert "base_model" not in header_of(card)
    assert "trained from `sft`" in card


def test_card_tells_algorithm_paper_reward_data_and_options() -> None:
    card = model_card(CONFIG, METRICS)
    assert "with `ppo` ([arXiv:1707.06347](https://arxiv.org/abs/1707.06347))" in card
    assert "rewarded by `keywords`" in card
    assert "`keywords`, weight 0.5, options `include: [dog, 公园]`" in card
    assert "- Prompts: `P.jsonl`" in card
    assert "| `clip_range` | `0.2` |" in card
    assert "| torch | `2.13.0` |" in card
    assert "| algorithm `ppo` | `alignzoo 0.1.0`, revision 2 |" in card
    assert "- Response tokens: 1,500" in card


def test_held_out_figures_come_before_training_figures() -> None:
    card = model_card(CONFIG, METRICS)
    held_out = card.index("| mean score | 0.25 | 0.85 | 1 and 3 |")
    training = card.index("| mean score | 0.2 | 0.9 | 1 and 3 |")
    assert held_out < training


def test_without_held_out_figures_the_card_says_so() -> None:
    card = model_card(CONFIG, [{"step": 1, "score_mean": 0.3}])
    assert "Nothing was measured on held-out data." in card
    assert "nothing is known beyond the training data" in card


def test_local_folders_are_not_told() -> None:
    odd = {**CONFIG, "algorithm": {"id": "ppo", "options": {"teacher": "/home/someone/teacher"}}}
    odd["rewards"] = ["/home/someone/rewards.py:polite"]
    for card in (model_card(CONFIG, METRICS), model_card(odd, METRICS)):
        assert "/home" not in card
    assert "`rewards.py:polite`" in model_card(odd, METRICS)


def test_a_model_from_scratch_is_called_so() -> None:
    assert "made from scratch" in model_card({"run": {"policy": "tiny"}}, [])


def test_a_steered_model_is_told_apart() -> None:
    assert "unsteered" in model_card(CONFIG, METRICS, steered=True)
    assert "unsteered" not in model_card(CONFIG, METRICS)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"algorithm": "sft", "rewards": "length", "policy": None},
        {"algorithm": None, "run": None, "rewards": [None, {}, 3], "versions": [1]},
        {"algorithm": {"id": "a: b\n- c", "options": {"x|y": "`|`"}}, "run": {"policy": "#: ---"}},
    ],
)
@pytest.mark.parametrize("metrics", [[], [{}], [{"kl": None, "score_mean": float("nan")}]])
def test_odd_input_gives_a_valid_card(config: dict[str, Any], metrics: list[Any]) -> None:
    card = model_card(config, metrics)
    assert header_of(card)["library_name"] == "transformers"
    assert "## How to use it" in card
    assert "## Limits and responsible use" in card


def test_config_as_the_command_line_writes_it_is_understood() -> None:
    config = {
        "algorithm": {"class": "alignzoo.plugins.ppo:PPO", "options": {}, "id": "ppo"},
        "options": {"batch_size": 16, "seed": 7},
        "data": {"fingerprint": "ab", "train_rows": 9, "held_out_rows": 2},
        "policy": {"fingerprint": "cd"},
        "environment": {"versions": {"torch": "2.13.0", "peft": None}, "python": "3.11.7"},
        "run": {"policy": "/models/stories", "data": None, "reward": ["ignored"]},
        "rewards": [{"reward": 'keywords:{"include": ["dog"], "weight": 2}', "paper": ""}],
    }
    card = model_card(config, METRICS)
    assert "trained from `stories` with `ppo`, rewarded by `keywords`" in card
    assert "`keywords`, weight 2, options `include: [dog]`" in card
    assert "- Rows: 9 to train on, 2 held out" in card
    assert "- Seed: `7`" in card
    assert "| torch | `2.13.0` |" in card
    assert "| python | `3.11.7` |" in card
    assert "peft" not in card


def test_config_of_a_run_from_python_names_the_class() -> None:
    config = {"algorithm": {"class": "mine:Own.Way"}, "policy": {"fingerprint": "cd"}}
    card = model_card(config, METRICS)
    assert "A causal language model that alignzoo trained with `Own.Way`." in card
    assert "cd" not in card


def test_baseline_is_the_first_figure() -> None:
    card = model_card({"baseline": {"eval_score_mean": 0.125, "eval_kl": 0.0}}, METRICS)
    assert "| mean score | 0.125 | 0.85 | 0 and 3 |" in card
    assert "The run made 3 updates." in card


def test_table_cells_stay_cells() -> None:
    card = model_card({"algorithm": {"id": "a", "options": {"pattern": "a|b`c\nd"}}}, [])
    row = next(line for line in card.splitlines() if "pattern" in line)
    assert row == "| `pattern` | `` a\\|b`c d `` |"
