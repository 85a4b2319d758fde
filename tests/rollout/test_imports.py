"""What importing the buffer costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import alignzoo.rollout
from alignzoo.algorithm import Column as AlgorithmColumn


def test_importing_the_buffer_does_not_import_torch():
    code = (
        "import sys, alignzoo.rollout; assert 'numpy' not in sys.modules;"
        "from alignzoo.rollout import RolloutBuffer, RolloutBatch;"
        "RolloutBuffer().append([[1]], [[2]], policy_version=0);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_contract_and_the_buffer_share_one_column():
    assert AlgorithmColumn is alignzoo.rollout.Column


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Buffer'"):
        _ = alignzoo.rollout.Buffer
