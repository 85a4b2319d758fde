"""The conformance kit, and exact oracles to hold algorithms against.

Importing this imports none of its dependencies; a name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignzoo.testing.algorithms import algorithm_checks as algorithm_checks
    from alignzoo.testing.rewards import reward_checks as reward_checks
    from alignzoo.testing.tasks import task_checks as task_checks
    from alignzoo.testing.token_mdp import TokenMDP as TokenMDP

_HOME_OF = {
    "TokenMDP": "token_mdp",
    "algorithm_checks": "algorithms",
    "reward_checks": "rewards",
    "task_checks": "tasks",
}

__all__ = ["TokenMDP", "algorithm_checks", "reward_checks", "task_checks"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'alignzoo.testing' has no attribute '{name}'", name=name)
    value = getattr(importlib.import_module(f"alignzoo.testing.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
