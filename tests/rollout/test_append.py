"""What goes into the buffer comes out, and what is wrong is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout.strategies import draws, masked

from alignzoo.errors import ConfigError, DataError
from alignzoo.rollout import Column, RolloutBuffer


@given(st.lists(draws(), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out(appends):
    buffer = RolloutBuffer()
    for draw in appends:
        rows = buffer.append(**draw, policy_version=0)
        for i, row in enumerate(rows):
            assert buffer.column("prompt_ids", [row]).tolist() == draw["prompts"][i]
            assert buffer.column("response_ids", [row]).tolist() == draw["responses"][i]
            assert buffer.column("response_mask", [row]).tolist() == draw["response_masks"][i]
            np.testing.assert_array_equal(
                buffer.column("sampler_log_probs", [row]),
                masked(draw["sampler_log_probs"][i], draw["response_masks"][i]),
            )
        np.testing.assert_array_equal(
            buffer.column("scores", rows), np.array(draw["scores"], "float32")
        )
        assert buffer.column("terminated", rows).tolist() == draw["terminated"]
        assert buffer.column("truncated", rows).tolist() == draw["truncated"]
    assert len(buffer) == sum(len(draw["responses"]) for draw in appends)
    assert buffer.num_tokens == sum(sum(m) for draw in appends for m in draw["response_masks"])


@given(st.lists(draws(), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_groups_are_those_given_and_never_shared_between_appends(appends):
    buffer = RolloutBuffer()
    seen: set[int] = set()
    for draw in appends:
        ids = buffer.column("group_ids", buffer.append(**draw, policy_version=0))
        given_ids = np.array(draw["group_ids"])
        assert ((ids[:, None] == ids) == (given_ids[:, None] == given_ids)).all()
        assert not seen & set(ids.tolist())
        seen |= set(ids.tolist())


def test_group_ids_default_to_one_a_row():
    buffer = RolloutBuffer(keep_versions=2)
    for version in range(3):
        buffer.append([[1], [1]], [[2], [3]], policy_version=version)
    assert buffer.column("group_ids").tolist() == [2, 3, 4, 5]


def test_dense_group_labels_stay_as_they_are_in_the_first_append():
    buffer = RolloutBuffer()
    buffer.append([[1]] * 4, [[2]] * 4, policy_version=0, group_ids=[0, 0, 1, 1])
    assert buffer.column("group_ids").tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("kind", ["padded", "wider", "packed", "ragged", "torch", "bfloat16"])
def test_token_columns_are_taken_in_every_layout(kind):
    buffer = RolloutBuffer()
    rows = buffer.append([[1], [2, 2]], [[3, 4, 5], [6]], policy_version=0)
    padded = np.array([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]])
    wider = np.pad(padded, ((0, 0), (0, 2)), constant_values=np.nan)
    values = {
        "padded": padded,
        "wider": wider,
        "packed": [1, 2, 3, 4],
        "ragged": [[1, 2, 3], np.array([4])],
        "torch": torch.tensor(wider, requires_grad=True),
        "bfloat16": torch.tensor(padded, dtype=torch.bfloat16),
    }[kind]
    buffer.set("values", values, rows)
    column = buffer.column("values")
    assert column.tolist() == [1, 2, 3, 4]
    assert column.dtype == np.float32
    assert buffer.padded("values").tolist() == [[1, 2, 3], [4, 0, 0]]


def test_prompts_and_responses_may_be_tensors_and_arrays():
    buffer = RolloutBuffer()
    buffer.append(
        torch.tensor([[1, 2], [3, 4]]), [np.array([5], "uint8"), (6, 7)], policy_version=0
    )
    assert buffer.padded("prompt_ids").tolist() == [[1, 2], [3, 4]]
    assert buffer.padded("response_ids").tolist() == [[5, 0], [6, 7]]
    assert buffer.lengths().tolist() == [1, 2]


def test_own_columns_keep_their_dtype():
    own = {"shaped": Column("token", "float64"), "picked": Column("sequence", "int16")}
    buffer = RolloutBuffer(own)
    buffer.append([[1]], [[2, 3]], policy_version=0, shaped=[[0.1, 0.2]], picked=[7])
    assert buffer.column("shaped").dtype == np.float64
    assert buffer.column("picked").dtype == np.int16
    assert buffer.batch().shaped.dtype == torch.float64
    assert buffer.batch().picked.tolist() == [7]


def test_none_is_an_unscorable_score_and_inf_is_found():
    buffer = RolloutBuffer()
    buffer.append(
        [[1]] * 4, [[2]] * 4, policy_version=0, scores=[1.0, None, float("inf"), float("nan")]
    )
    assert buffer.unscorable() == [1, 3]
    assert buffer.infinite_scores() == [2]
    assert buffer.unscorable([3, 0]) == [3]


def test_an_empty_append_changes_nothing():
    buffer = RolloutBuffer()
    buffer.append([[1]], [[2]], policy_version=3)
    assert list(buffer.append([], [], policy_version=4)) == []
    assert buffer.versions == [3]


def test_empty_prompts_are_legal():
    buffer = RolloutBuffer()
    buffer.append([[], []], [[2], [3, 4]], policy_version=0)
    assert buffer.batch().token_ids.tolist() == [[2, 0], [3, 4]]


NAN = float("nan")
WRONG = {
    "responses has 1 rows": {"responses": [[3]]},
    "`responses` row 1 is empty": {"responses": [[3, 4], []]},
    "`responses` row 1, token 0 is -1; token ids are >= 0": {"responses": [[3, 4], [-1]]},
    "`prompts` row 0 is float64 of shape (1,)": {"prompts": [[1.5], [2]]},
    "`prompts` row 1 is int64 of shape ()": {"prompts": [[1], 2]},
    "`prompts` row 1, token 1 is 2147483648": {"prompts": [[1], [2, 2**31]]},
    "`sampler_log_probs` row 0, token 1 is nan; expected a finite value": {
        "sampler_log_probs": [[-1.0, NAN], [-1.0]]
    },
    "`sampler_log_probs` row 1, token 0 is 0.5; expected -inf to 0.001": {
        "sampler_log_probs": [[-1.0, -1.0], [0.5]]
    },
    "`sampler_log_probs` row 0 has shape (1,), but its response has 2 tokens": {
        "sampler_log_probs": [[-1.0], [-1.0]]
    },
    "`sampler_log_probs` has 1 rows; expected 2": {"sampler_log_probs": [[-1.0, -1.0]]},
    "`sampler_log_probs` has shape (2,); expected (3,) ([N], packed)": {
        "sampler_log_probs": [-1.0, -1.0]
    },
    "`sampler_log_probs` has shape (2, 1); expected [B, T] = (2, 2)": {
        "sampler_log_probs": np.zeros((2, 1))
    },
    "`terminated` row 1 is 2; expected bool": {"terminated": [1, 2]},
    "`terminated` is float64; expected bool": {"terminated": [1.0, 0.0]},
    "`terminated` has shape (1,); expected (2,) ([B])": {"terminated": [True]},
    "row 1 is both; expected one": {"terminated": [True, True], "truncated": [False, True]},
    "`pair_labels` row 1 is 2; expected -1 to 1": {"pair_labels": [1, 2]},
    "`pair_labels` row 0 is chosen (1) but its group has no rejected row": {"pair_labels": [1, 0]},
    "`pair_labels` row 1 is rejected (0) but its group": {"pair_labels": [-1, 0]},
    "`group_ids` is float64; expected int64": {"group_ids": [0.0, 1.0]},
    "`weights` row 1 is inf; expected a finite value": {"weights": [1.0, float("inf")]},
    "`values` row 1, token 0 is inf": {"values": [[0.0, 1.0], [float("inf")]]},
    "`values` row 0, token 1 is inf": {"values": [[0.0, 1e300], [0.0]]},
    "`scores` is <U1; expected float32": {"scores": ["a", "b"]},
    "`scores` has shape (3,); expected (2,)": {"scores": [1.0, 2.0, 3.0]},
    "`weights`: the rows differ in length": {"weights": [[1.0], [2.0, 3.0]]},
    "policy_version is -1": {"policy_version": -1},
    "policy_version is 0.5": {"policy_version": 0.5},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_row_is_refused_by_name_and_nothing_changes(message):
    buffer = RolloutBuffer()
    buffer.append([[9]], [[8]], policy_version=0)
    before = repr(buffer), buffer.nbytes, buffer.rows()
    good = {"prompts": [[1], [2, 2]], "responses": [[3, 4], [5]], "policy_version": 1}
    with pytest.raises(DataError) as caught:
        buffer.append(**{**good, **WRONG[message]})
    assert message.replace("responses has", "`responses` has") in str(caught.value)
    assert (repr(buffer), buffer.nbytes, buffer.rows()) == before
    assert buffer.append(**good) == range(1, 3)


def test_an_unknown_column_is_refused_with_a_hint():
    with pytest.raises(ConfigError, match=r"no column 'advantage'\. Did you mean 'advantages'\?"):
        RolloutBuffer().append([[1]], [[2]], policy_version=0, advantage=[1.0])


def test_structure_cannot_be_set_later():
    buffer = RolloutBuffer()
    buffer.append([[1]], [[2]], policy_version=0)
    with pytest.raises(ConfigError, match="'response_mask' is given when rows are appended"):
        buffer.set("response_mask", [[True]])


def test_a_wrong_value_in_set_names_the_row_number():
    buffer = RolloutBuffer()
    for _ in range(3):
        rows = buffer.append([[1], [1]], [[2, 3], [4]], policy_version=0)
    with pytest.raises(DataError, match=r"`values` row 5, token 0 is nan"):
        buffer.set("values", [[1.0, 2.0], [NAN]], rows)
    assert not buffer.is_filled("values", rows)
    with pytest.raises(DataError, match="row 4 comes twice"):
        buffer.set("weights", [1.0, 2.0], [4, 4])
    with pytest.raises(DataError, match="row 6 was never appended"):
        buffer.set("weights", [1.0], [6])


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"values": ("token", "float32")}, "'values' is taken"),
        ({"select": ("token", "float32")}, "'select' is taken"),
        ({"num_tokens": ("token", "float32")}, "'num_tokens' is taken"),
        ({"prompt_ids": ("token", "int32")}, "'prompt_ids' is taken"),
        ({"a b": ("token", "float32")}, "no attribute name"),
        ({"x": ("tokens", "float32")}, "shape is 'token' or 'sequence'"),
        ({"x": ("token", "complex64")}, "dtype is one of"),
    ],
)
def test_impossible_own_columns_are_refused(own, message):
    with pytest.raises(ConfigError, match=message):
        RolloutBuffer({name: Column(*parts) for name, parts in own.items()})


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="keep_versions is 0"):
        RolloutBuffer(keep_versions=0)
    with pytest.raises(ConfigError, match="max_bytes is 0"):
        RolloutBuffer(max_bytes=0)
    with pytest.raises(ConfigError, match="float_dtype is"):
        RolloutBuffer(float_dtype="bfloat16")
