"""Batches: padded tensors, permissions, what an algorithm may write."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from rollout.strategies import draws, masked

from alignzoo.errors import ConfigError, DataError, RunError
from alignzoo.rollout import Column, RolloutBuffer


def small(**options) -> RolloutBuffer:
    """Three rows: responses of 3, 1 and 2 tokens; the first has a masked token in its middle."""
    buffer = RolloutBuffer({"mine": Column("sequence", "int64")}, **options)
    buffer.append(
        [[1, 2], [3], [4, 4, 4]], [[5, 6, 7], [8], [9, 9]], policy_version=2,
        response_masks=[[True, False, True], [True], [True, True]],
        sampler_log_probs=[[-1, -2, -3], [-4], [-5, -6]], scores=[1.0, 2.0, 3.0],
    )  # fmt: skip
    return buffer


@given(draws())
@settings(max_examples=50, deadline=None)
def test_a_batch_is_the_rows_padded_with_zero(draw):
    buffer = RolloutBuffer()
    rows = buffer.append(**draw, policy_version=4)
    batch = buffer.batch()
    count, width = len(rows), max(map(len, draw["responses"]))
    total = max(len(p) + len(r) for p, r in zip(draw["prompts"], draw["responses"], strict=True))
    assert batch.token_ids.shape == (count, total)
    assert batch.response_mask.shape == batch.sampler_log_probs.shape == (count, width)
    for i, row in enumerate(rows):
        prompt, response, mask = (draw[k][i] for k in ("prompts", "responses", "response_masks"))
        pad, rest = [0] * (width - len(response)), [0] * (total - len(prompt) - len(response))
        assert batch.token_ids[i].tolist() == prompt + response + rest
        assert batch.attention_mask[i].tolist() == [True] * (total - len(rest)) + [False] * len(
            rest
        )
        assert batch.response_ids[i].tolist() == response + pad
        assert batch.response_mask[i].tolist() == mask + [False] * len(pad)
        log_probs = masked(draw["sampler_log_probs"][i], mask).tolist()
        assert batch.sampler_log_probs[i].tolist() == log_probs + pad
        assert (batch.prompt_lengths[i], batch.response_lengths[i]) == (len(prompt), len(response))
        assert batch.rows[i] == row
    assert batch.policy_version.tolist() == [4] * count
    assert batch.num_tokens == sum(map(sum, draw["response_masks"]))
    assert batch.num_sequences == len(batch) == count


def test_rows_come_in_the_order_asked_for_and_may_repeat():
    batch = small().batch([2, 0, 2])
    assert batch.row_numbers == batch.rows.tolist() == [2, 0, 2]
    assert batch.scores.tolist() == [3, 1, 3]
    assert batch.response_ids.tolist() == [[9, 9, 0], [5, 6, 7], [9, 9, 0]]


def test_token_ids_are_int64_as_embeddings_want_them():
    batch = small().batch()
    assert batch.token_ids.dtype == batch.response_ids.dtype == torch.int64
    assert batch.response_mask.dtype == torch.bool


def test_an_empty_buffer_gives_an_empty_batch():
    batch = RolloutBuffer().batch()
    assert len(batch) == batch.num_tokens == 0
    assert batch.response_ids.shape == (0, 0)


def test_an_undeclared_column_is_withheld_by_name():
    buffer = small()
    buffer.set("values", torch.ones(3, 3))
    batch = buffer.batch().restrict("ppo", ["old_log_probs"])
    message = (
        r"ppo reads column 'values', which its needs do not declare; set values=True in Needs\."
    )
    with pytest.raises(ConfigError, match=message):
        _ = batch.values
    with pytest.raises(ConfigError, match=r"'mine'.*add it to Needs\.columns"):
        _ = batch.mine
    assert "values" not in batch.columns
    assert batch.token_ids.shape == (3, 5)


def test_a_column_nothing_has_filled_says_so():
    with pytest.raises(RunError, match="'old_log_probs', which nothing has filled"):
        _ = small().batch().old_log_probs


def test_a_misspelled_column_gets_a_hint():
    batch = small().batch()
    with pytest.raises(AttributeError, match=r"'advantage'\. Did you mean 'advantages'"):
        _ = batch.advantage
    with pytest.raises(ConfigError, match=r"unknown column 'advantage'\. Did you mean"):
        batch.advantage = torch.zeros(3, 3)


def test_only_writable_columns_can_be_written():
    batch = small().batch()
    with pytest.raises(ConfigError, match="'scores', which is read-only here"):
        batch.scores = torch.zeros(3)
    with pytest.raises(ConfigError, match="'rows', which is read-only here"):
        batch.rows = torch.zeros(3)
    view = batch.restrict("sft", [], ["weights"])
    with pytest.raises(ConfigError, match=r"sft writes column 'returns'.*it may write weights"):
        view.returns = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("advantages", torch.zeros(3, 4), r"shape \(3, 4\); expected \[B, T\] = \(3, 3\)"),
        ("advantages", torch.zeros(3), r"shape \(3,\)"),
        ("weights", torch.zeros(3, 3), r"expected \[B\] = \(3,\)"),
        ("weights", 1.0, r"shape \(\)"),
        ("mine", torch.zeros(3), r"'mine' as torch.float32; expected torch.int64"),
        ("returns", torch.zeros(3, 3, dtype=torch.complex64), "as torch.complex64"),
    ],
)
def test_shape_and_dtype_of_a_write_are_checked(name, value, message):
    with pytest.raises(ConfigError, match=message):
        setattr(small().batch(), name, value)


def test_a_write_that_is_not_finite_names_row_and_token():
    buffer = small()
    buffer.append([[1], [1]], [[1, 2], [3, 4]], policy_version=2)
    batch = buffer.batch([3, 4])
    with pytest.raises(RunError, match="'returns': row 4, token 1 is inf; expected a finite value"):
        batch.returns = torch.tensor([[1.0, 2.0], [3.0, float("inf")]])
    with pytest.raises(RunError, match="'weights': row 3 is nan"):
        batch.weights = torch.tensor([float("nan"), 1.0])


def test_written_columns_are_cast_detached_and_copied():
    batch = small().batch()
    value = torch.ones(3, dtype=torch.float64, requires_grad=True)
    batch.weights = value
    assert batch.weights.dtype == torch.float32
    assert not batch.weights.requires_grad
    plain = torch.ones(3)
    batch.weights = plain
    plain.zero_()
    assert batch.weights.tolist() == [1, 1, 1]
    batch.advantages = np.ones((3, 3))
    assert batch.advantages.sum() == batch.num_tokens


def test_what_was_written_goes_back_to_the_buffer():
    buffer = small()
    batch = buffer.batch([2, 0])
    batch.restrict("mine", []).advantages = torch.tensor([[1.0, 2, 9], [3, 9, 4]])
    assert batch.written == ["advantages"]
    buffer.write_back(batch)
    assert batch.written == []
    assert buffer.padded("advantages", [0, 2]).tolist() == [[3, 0, 4], [1, 2, 0]]
    assert not buffer.is_filled("advantages", [1])
    batch.advantages.mul_(2)
    assert batch.written == ["advantages"]
    buffer.write_back(batch)
    assert buffer.padded("advantages", [2]).tolist() == [[2, 4]]


def test_write_back_checks_what_was_changed_in_place():
    buffer = small()
    batch = buffer.batch()
    batch.weights[1] = float("nan")
    with pytest.raises(DataError, match="`weights` row 1 is nan"):
        buffer.write_back(batch)


def test_writing_after_the_row_left_is_an_error():
    buffer = small()
    batch = buffer.batch()
    batch.weights = torch.ones(3)
    buffer.append([[1]], [[2]], policy_version=3)
    with pytest.raises(DataError, match="row 0 has left the buffer"):
        buffer.write_back(batch)


def test_a_batch_is_a_copy():
    buffer = small()
    batch = buffer.batch()
    batch.scores.fill_(7)
    assert buffer.column("scores").tolist() == [1, 2, 3]


def test_a_read_only_column_changed_in_place_is_noticed():
    batch = small().batch()
    before = batch.fingerprint()
    view = batch.restrict("sly", ["scores"])
    assert view.modified == []
    view.scores.add_(1)
    assert view.modified == batch.modified == ["scores"]
    assert batch.written == []
    changed = [name for name, value in batch.fingerprint().items() if value != before[name]]
    assert changed == ["scores"]


def test_inference_mode_is_harmless():
    buffer = small()
    with torch.inference_mode():
        batch = buffer.batch()
        batch.advantages = torch.ones(3, 3) * 2
        part = batch.select([0])
    weight = torch.ones((), requires_grad=True)
    (part.advantages * weight).sum().backward()
    assert weight.grad == 4


def test_counts_can_be_set_for_several_workers():
    batch = small().batch()
    batch.num_tokens, batch.num_sequences = 40, 12
    assert {(part.num_tokens, part.num_sequences) for part in batch.micro_batches(max_rows=1)} == {
        (40, 12)
    }
    assert batch.restrict("x", []).num_tokens == batch.to("cpu").num_tokens == 40
    with pytest.raises(ConfigError, match="num_tokens is 0"):
        batch.num_tokens = 0


def test_to_moves_columns_and_keeps_what_was_written():
    batch = small().batch()
    batch.weights = torch.zeros(3)
    moved = batch.to("cpu")
    assert moved.written == ["weights"]
    assert moved.fingerprint() == batch.fingerprint()


def test_float64_columns_stay_float64():
    batch = small(float_dtype="float64").batch()
    assert batch.scores.dtype == batch.sampler_log_probs.dtype == torch.float64
    batch.advantages = torch.full((3, 3), 0.1, dtype=torch.float64)
    assert batch.advantages[0, 0].item() == 0.1


def test_a_batch_can_be_shown_and_copied():
    batch = small().batch()
    assert "3 rows, T=3" in repr(batch)
    assert copy.copy(batch).row_numbers == [0, 1, 2]


@pytest.mark.gpu
def test_a_batch_lives_on_a_device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    buffer = small()
    batch = buffer.batch(device="cuda")
    batch.advantages = torch.ones(3, 3)
    assert batch.advantages.is_cuda
    assert [part.device.type for part in batch.micro_batches(max_rows=1)] == ["cuda"] * 3
    buffer.write_back(batch)
    assert buffer.column("advantages").tolist() == [1, 0, 1, 1, 1, 1]
