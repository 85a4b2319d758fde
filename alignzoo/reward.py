"""The reward contract: text in, one number per response out; higher is better."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from alignzoo.config import RewardConfig
from alignzoo.errors import ConfigError, DataError, did_you_mean

Prompt = str | list[dict[str, str]]
RewardFunction = Callable[..., Sequence[float | None]]


class RewardModel:
    """Base of every reward. Subclasses set `Config` and write `score`; higher is always better.

    `score` must not depend on what else is in the batch. A reward that learns names the kinds of
    human judgement it learns from in `learns_from`, and writes `fit`, `save` and `load`.
    """

    Config: ClassVar[type[RewardConfig]] = RewardConfig

    # Kinds of judgement, keys of `alignzoo.data.JUDGEMENTS`, that `fit` takes; empty for a rule.
    learns_from: ClassVar[tuple[str, ...]] = ()

    # What it should score, worked out by hand, for the conformance kit to hold it to: mappings
    # with `prompt`, `completion`, `options` and columns of the data where it needs them, and
    # `score`. One without `score` only says which options and columns the reward needs.
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ()

    def __init__(self, config: RewardConfig) -> None:
        self.config: Any = config

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str], **columns: Sequence[Any]
    ) -> Sequence[float | None]:
        """Returns one number per response; None or NaN where a response cannot be scored.

        Args:
            prompts: B prompts, strings or chat messages.
            responses: B responses, decoded without special tokens.
            columns: further columns of the data file, each of length B, by name.
        """
        raise NotImplementedError

    def fit(self, data: Any, *, seed: int = 0) -> Mapping[str, float]:
        """Learns from human judgements and returns measures of the fit, such as its loss.

        Args:
            data: what a reader of `alignzoo.data` takes or returns, of a kind in `learns_from`.
            seed: all randomness of the fit comes from it.
        Raises:
            ConfigError: this reward is a rule.
            DataError: a row is wrong, or there is nothing to learn; the message says where.
        """
        raise ConfigError(f"reward {type(self).__name__} is a rule; it has nothing to learn")

    def class_probabilities(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Mapping[str, Sequence[float]] | None:
        """Returns the probability of each class by name, each of length B; None if it has none."""
        return None

    def save(self, folder: Path) -> None:
        """Writes what `fit` learned as safetensors and JSON (`alignzoo.model_files`)."""

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote; the options are those it was made with."""


class FunctionReward(RewardModel):
    """A Python function as a reward: `function(prompts, completions, **columns)`.

    It is called by keyword with what it declares, so it may leave out what it does not use;
    `**columns` receives everything. As in TRL, the completion of a chat prompt arrives as
    messages, `[{"role": "assistant", "content": "..."}]`, under the name `completions`. Under the
    name `responses` it is always text. Returns one number or None per row.

    Raises:
        ConfigError: it cannot be called by keyword.
    """

    def __init__(self, function: RewardFunction, *, name: str | None = None) -> None:
        super().__init__(RewardConfig())
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__).strip("<>")
        self.arguments, self.takes_all, self.required = _signature(function, self.name)

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str], **columns: Sequence[Any]
    ) -> Sequence[float | None]:
        """Returns what the function returns.

        Raises:
            DataError: it declares an argument that is no column of the data.
        """
        completions = [
            response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        available: dict[str, Any] = {
            **columns,
            "prompts": list(prompts),
            "completions": completions,
            "responses": list(responses),
        }
        for name in self.required:
            if name not in available:
                has = ", ".join(f"'{column}'" for column in columns) or "none"
                raise DataError(
                    f"reward function {self.name} declares '{name}', which is no column of the "
                    f"data; besides prompts and completions there is {has}."
                    f"{did_you_mean(name, available)}"
                )
        if self.takes_all:
            return self.function(**available)
        return self.function(**{k: v for k, v in available.items() if k in self.arguments})


def declared_arguments(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Returns the names `function` can be given by keyword, and whether it takes any other."""
    parameters = inspect.signature(function).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return frozenset(p.name for p in parameters if p.kind in named), takes_all


def _signature(function: Any, name: str) -> tuple[frozenset[str], bool, tuple[str, ...]]:
    """Returns the names it can be given, whether it takes any other, and those it must be given."""
    if not callable(function) or inspect.isclass(function):
        raise ConfigError(f"reward {name} is a {type(function).__name__}; expected a function.")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ConfigError(f"reward function {name} does not say what arguments it takes.") from None
    required = [
        p
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if any(p.kind is p.POSITIONAL_ONLY for p in required):
        raise ConfigError(f"reward function {name} cannot be called by keyword; drop the '/'.")
    return (*declared_arguments(function), tuple(p.name for p in required))


def load_function(text: str) -> RewardFunction:
    """Returns the function that `path/to/file.py:function` names.

    The file is run under a name of its own. While it runs, and only then, modules beside it can
    be imported; what it prints goes to standard error.

    Raises:
        ConfigError: the file or function does not exist (with a did-you-mean), the file fails
            when it is run, or the name is no function.
    """
    file, _, name = text.rpartition(":")
    if not file or not name:
        raise ConfigError(
            f"reward '{text}' names no function; expected {text.rstrip(':')}:FUNCTION."
        )
    path = Path(file).expanduser()
    if not path.is_file():
        names = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"reward '{text}': no file {file}.{did_you_mean(path.name, names)}")
    module = _run_file(path.resolve(), text)
    functions = [n for n, value in vars(module).items() if inspect.isroutine(value)]
    if not hasattr(module, name):
        has = f" It has {', '.join(functions)}." if functions else ""
        raise ConfigError(
            f"reward '{text}': {file} has no function '{name}'.{did_you_mean(name, functions)}{has}"
        )
    function: Any = getattr(module, name)
    if not callable(function) or inspect.isclass(function):
        raise ConfigError(
            f"reward '{text}': '{name}' is a {type(function).__name__}; expected a function "
            "f(prompts, completions, **columns)."
        )
    return function  # type: ignore[no-any-return]


def _run_file(path: Path, text: str) -> ModuleType:
    """Returns the module made by running a file; its name is the same for the same path."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    module = ModuleType(f"_alignzoo_{path.stem}_{digest}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look their module up
    try:
        code = compile(path.read_bytes(), str(path), "exec")
        with _importable(path.parent), contextlib.redirect_stdout(sys.stderr):
            exec(code, vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"reward '{text}': {path.name} fails when run: {reason}") from error
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Makes the modules in a folder importable within the block."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
