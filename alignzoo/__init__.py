"""alignzoo: a zoo of alignment algorithms and reward models on one rollout buffer and a C++ core.

Importing this package imports none of its dependencies; a name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignzoo import data as data
    from alignzoo import features as features
    from alignzoo import kernels as kernels
    from alignzoo import model_files as model_files
    from alignzoo import objectives as objectives
    from alignzoo import options as options
    from alignzoo import scalar_model as scalar_model
    from alignzoo import testing as testing
    from alignzoo.algorithm import Algorithm as Algorithm
    from alignzoo.algorithm import Column as Column
    from alignzoo.algorithm import Gradient as Gradient
    from alignzoo.algorithm import Learner as Learner
    from alignzoo.algorithm import Loss as Loss
    from alignzoo.algorithm import Max as Max
    from alignzoo.algorithm import Metrics as Metrics
    from alignzoo.algorithm import Needs as Needs
    from alignzoo.algorithm import StepResult as StepResult
    from alignzoo.config import AlgorithmConfig as AlgorithmConfig
    from alignzoo.config import RewardConfig as RewardConfig
    from alignzoo.errors import AlignzooError as AlignzooError
    from alignzoo.errors import ConfigError as ConfigError
    from alignzoo.errors import DataError as DataError
    from alignzoo.errors import PluginError as PluginError
    from alignzoo.errors import RunError as RunError
    from alignzoo.hookspecs import hookimpl as hookimpl
    from alignzoo.plugin_registry import make as make
    from alignzoo.plugin_registry import make_reward as make_reward
    from alignzoo.plugin_registry import registry as registry
    from alignzoo.policy import Policy as Policy
    from alignzoo.policy import PolicyOutput as PolicyOutput
    from alignzoo.reward import RewardModel as RewardModel
    from alignzoo.reward_training import train_reward as train_reward
    from alignzoo.rollout import RolloutBatch as RolloutBatch
    from alignzoo.rollout import RolloutBuffer as RolloutBuffer
    from alignzoo.specs import AlgorithmSpec as AlgorithmSpec
    from alignzoo.specs import CommandSpec as CommandSpec
    from alignzoo.specs import RewardSpec as RewardSpec
    from alignzoo.specs import TaskSpec as TaskSpec
    from alignzoo.task import Task as Task
    from alignzoo.task import TaskConfig as TaskConfig
    from alignzoo.trainer import Trainer as Trainer

    __version__: str

_HOMES = {
    "algorithm": "Algorithm Column Gradient Learner Loss Max Metrics Needs StepResult",
    "config": "AlgorithmConfig RewardConfig",
    "errors": "AlignzooError ConfigError DataError PluginError RunError",
    "hookspecs": "hookimpl",
    "plugin_registry": "make make_reward registry",
    "policy": "Policy PolicyOutput",
    "reward": "RewardModel",
    "reward_training": "train_reward",
    "rollout": "RolloutBatch RolloutBuffer",
    "specs": "AlgorithmSpec CommandSpec RewardSpec TaskSpec",
    "task": "Task TaskConfig",
    "trainer": "Trainer",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
_MODULES = (
    "data",
    "features",
    "kernels",
    "model_files",
    "objectives",
    "options",
    "scalar_model",
    "testing",
)

__all__ = sorted([*_HOME_OF, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("alignzoo")
    elif name in _MODULES:
        value = importlib.import_module(f"alignzoo.{name}")
    elif name in _HOME_OF:
        value = getattr(importlib.import_module(f"alignzoo.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'alignzoo' has no attribute '{name}'", name=name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
