"""opo against alignzoo's conformance kit and numbers worked by hand."""

import pytest

import alignzoo as az
from alignzoo.testing import algorithm_checks


@pytest.mark.parametrize("check", algorithm_checks("opo"))
def test_conformance(check):
    check()


@pytest.mark.parametrize("check", algorithm_checks("opo", options={"baseline": "others"}))
def test_conformance_without_the_response_itself(check):
    check()


def advantages(responses, returns, groups, **options):
    """Returns the advantage at each response's first token."""
    algorithm = az.make("opo", **options)
    buffer = az.RolloutBuffer()
    buffer.append(
        prompts=[[5]] * len(responses),
        responses=responses,
        group_ids=groups,
        rewards=[
            [0.0] * (len(tokens) - 1) + [total]
            for tokens, total in zip(responses, returns, strict=True)
        ],
        policy_version=0,
    )
    batch = buffer.batch()
    algorithm.prepare(batch)
    return batch.advantages[:, 0].tolist()


def test_a_long_response_weighs_more_in_the_baseline():
    # b = (1 * 1 + 3 * 5) / 4 = 4
    assert advantages([[7], [7, 7, 7]], [1.0, 5.0], [0, 0]) == pytest.approx([-3.0, 1.0])


def test_prompts_are_compared_apart():
    found = advantages([[7]] * 4, [1.0, 3.0, 10.0, 20.0], [0, 0, 1, 1])
    assert found == pytest.approx([-1.0, 1.0, -5.0, 5.0])


def test_a_response_alone_has_the_baseline_zero():
    assert advantages([[7, 7]], [3.0], [0], baseline="others") == pytest.approx([3.0])
