"""The known pitfalls of masks, padding and placement, at the buffer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignzoo.errors import DataError
from alignzoo.rollout import RolloutBuffer, last_action_positions

NAN = float("nan")


def test_padding_and_batch_mates_change_no_bit_of_a_row():
    buffer = RolloutBuffer()
    generator = np.random.default_rng(0)
    lengths = [3, 9, 1, 6]
    log_probs = [-generator.random(n) for n in lengths]
    buffer.append(
        [[1] * n for n in (2, 1, 7, 4)], [[2] * n for n in lengths], policy_version=0,
        sampler_log_probs=log_probs,
    )  # fmt: skip
    together = buffer.batch()
    for i, length in enumerate(lengths):
        for alone in (buffer.batch([i]), together.select([i])):
            assert alone.response_mask.shape == (1, length)
            for name in alone.columns:
                whole, part = getattr(together, name)[i], getattr(alone, name)[0]
                width = part.shape[0] if part.ndim else None
                assert torch.equal(whole[:width] if part.ndim else whole, part)
                assert part.ndim == 0 or not whole[width:].any()


def test_masks_come_from_lengths_where_pad_equals_the_end_token():
    end = 0  # the value that padding has, as end token, in the prompt and as a sampled token
    buffer = RolloutBuffer()
    buffer.append([[end, 5], [end]], [[end, 7, end], [end]], policy_version=0)
    batch = buffer.batch()
    assert batch.response_mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.attention_mask.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert last_action_positions(batch).tolist() == [2, 0]
    assert batch.num_tokens == 4


def test_the_last_action_is_found_by_length_and_mask():
    buffer = RolloutBuffer()
    buffer.append(
        [[1]] * 4, [[9, 9, 9, 9], [9, 9], [9], [9, 9, 9]], policy_version=0,
        response_masks=[[True, True, False, False], [True, True], [True], [False, True, False]],
    )  # fmt: skip
    batch = buffer.batch()
    assert last_action_positions(batch).tolist() == [1, 1, 0, 1]
    rewards = torch.zeros(4, 4)
    rewards[torch.arange(4), last_action_positions(batch)] = torch.arange(1.0, 5)
    buffer.set("rewards", rewards)
    assert buffer.batch().rewards.sum(1).tolist() == [1, 2, 3, 4]


def test_nan_at_masked_slots_changes_nothing():
    masks = [[True, False, True], [True]]
    clean, dirty = RolloutBuffer(), RolloutBuffer()
    for buffer, garbage in ((clean, 0.0), (dirty, NAN)):
        buffer.append(
            [[1], [2]], [[3, 4, 5], [6]], policy_version=0, response_masks=masks,
            sampler_log_probs=[[-1.0, garbage, -2.0], [-3.0]],
        )  # fmt: skip
        buffer.set("values", [[1.0, garbage, 2.0], [3.0, garbage, garbage]][0:1], [0])
        buffer.set("values", np.array([[3.0, garbage]]), [1])
        batch = buffer.batch()
        batch.advantages = torch.tensor([[1.0, garbage, 2.0], [3.0, garbage, garbage]])
        buffer.write_back(batch)
    assert clean.batch().fingerprint() == dirty.batch().fingerprint()


def test_masked_tokens_keep_their_ids_and_are_not_counted():
    buffer = RolloutBuffer()
    buffer.append([[1]], [[3, 4, 5]], policy_version=0, response_masks=[[True, False, True]])
    assert buffer.batch().token_ids.tolist() == [[1, 3, 4, 5]]
    assert buffer.num_tokens == buffer.batch().num_tokens == 2


def test_an_all_masked_row_is_an_error_naming_rows():
    with pytest.raises(DataError, match="`response_masks` rows 1, 2 are all masked"):
        RolloutBuffer().append(
            [[1]] * 3, [[2], [3, 4], [5]], policy_version=0,
            response_masks=[[True], [False, False], [False]],
        )  # fmt: skip


def test_multi_turn_rows_train_on_each_unmasked_turn():
    buffer = RolloutBuffer()
    mask = [True, True, False, False, True]
    buffer.append([[1, 2]], [[3, 4, 5, 6, 7]], policy_version=0, response_masks=[mask])
    batch = buffer.batch()
    assert batch.response_ids[batch.response_mask].tolist() == [3, 4, 7]
