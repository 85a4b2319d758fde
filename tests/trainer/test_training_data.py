"""Which rows are held out, and how a run walks over the rest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignzoo.data import PromptRow
from alignzoo.training_data import Cursor, split_by_prompt, spread_evenly


def rows_of(texts):
    return [PromptRow(text, {}, f"prompts[{i}]") for i, text in enumerate(texts)]


def texts_of(rows):
    return [row.prompt for row in rows]


@given(st.lists(st.text(max_size=4), max_size=60), st.floats(0, 0.99))
@settings(max_examples=60, deadline=None)
def test_no_prompt_is_on_both_sides_and_none_is_lost(texts, fraction):
    train, held_out = split_by_prompt(rows_of(texts), fraction)
    assert not set(texts_of(train)) & set(texts_of(held_out))
    assert sorted(texts_of(train) + texts_of(held_out)) == sorted(texts)
    assert train or not texts


def test_a_prompts_side_does_not_depend_on_the_others():
    texts = [f"prompt {i}" for i in range(200)]
    _, held_out = split_by_prompt(rows_of(texts), 0.1)
    _, more = split_by_prompt(rows_of([f"new {i}" for i in range(300)] + texts[::-1]), 0.1)
    assert set(texts_of(held_out)) == set(texts_of(more)) & set(texts)
    assert 8 <= len(held_out) <= 40


def test_a_larger_share_holds_out_a_superset():
    rows = rows_of([f"prompt {i}" for i in range(200)])
    small, large = (set(texts_of(split_by_prompt(rows, share)[1])) for share in (0.1, 0.3))
    assert small < large


def test_a_chat_prompts_side_depends_on_its_messages():
    chats = [[{"role": "user", "content": f"prompt {i}"}] for i in range(60)]
    _, held_out = split_by_prompt(rows_of(chats), 0.2)
    _, again = split_by_prompt(rows_of(chats[::-1]), 0.2)
    assert held_out
    assert sorted(map(str, texts_of(held_out))) == sorted(map(str, texts_of(again)))


@pytest.mark.parametrize(("count", "is_split"), [(19, False), (60, True)])
def test_few_distinct_prompts_are_not_split(count, is_split):
    texts = [f"prompt {i}" for i in range(count)] * 4
    assert bool(split_by_prompt(rows_of(texts), 0.2)[1]) == is_split


def test_a_fraction_of_zero_holds_nothing_out():
    rows = rows_of([f"prompt {i}" for i in range(60)])
    assert split_by_prompt(rows, 0) == (rows, [])


@given(st.integers(0, 50), st.integers(1, 60))
def test_rows_are_taken_from_all_over(count, most):
    taken = spread_evenly(range(count), most)
    assert len(taken) == min(count, most)
    assert taken == sorted(set(taken))
    if taken:
        assert taken[0] == 0
        assert taken[-1] >= count - 1 - count // len(taken)


@given(st.integers(1, 9), st.lists(st.integers(1, 20), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_cursor_goes_on_from_its_position(num_rows, counts):
    whole = Cursor(num_rows, seed=3).take(sum(counts))
    taken, position = [], 0
    for count in counts:
        cursor = Cursor(num_rows, seed=3)
        cursor.position = position
        taken += cursor.take(count)
        position = cursor.position
    assert taken == whole
    for start in range(0, len(whole) - num_rows, num_rows):
        assert sorted(whole[start : start + num_rows]) == list(range(num_rows))
