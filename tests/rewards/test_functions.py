"""Python functions as rewards: what they are given, and what is said when they cannot be loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from alignzoo.errors import ConfigError, DataError
from alignzoo.reward import FunctionReward, load_function
from alignzoo.scoring import RewardSum

CHAT = [{"role": "user", "content": "hi"}]


def seen_by(function: Any, prompts: list[Any], **columns: list[Any]) -> Any:
    """Returns what `function`, which returns its arguments, was given."""
    return FunctionReward(function).score(prompts, ["a", "b"][: len(prompts)], **columns)


def test_a_function_gets_what_it_declares() -> None:
    def some(completions: Any, answer: Any) -> Any:
        return completions, answer

    def every(prompts: Any, completions: Any, **columns: Any) -> Any:
        return prompts, completions, columns

    columns = {"answer": [1, 2], "id": [3, 4]}
    assert seen_by(some, ["p", "q"], **columns) == (["a", "b"], [1, 2])
    told = seen_by(every, ["p", "q"], **columns)
    assert told == (["p", "q"], ["a", "b"], {**columns, "responses": ["a", "b"]})


def test_responses_is_accepted_for_completions() -> None:
    def function(prompts: Any, responses: Any) -> Any:
        return responses

    assert seen_by(function, ["p", "q"]) == ["a", "b"]


def test_completions_of_chat_prompts_are_messages_as_in_trl() -> None:
    """The reward function of TRL's documentation, in form: it reads completion[0]["content"]."""

    def function(completions: Any, **kwargs: Any) -> Any:
        return [float(len(completion[0]["content"])) for completion in completions]

    assert seen_by(function, [CHAT, CHAT]) == [1.0, 1.0]

    def both(prompts: Any, completions: Any, responses: Any) -> Any:
        return prompts, completions, responses

    message = {"role": "assistant", "content": "b"}
    assert seen_by(both, ["p", CHAT]) == (["p", CHAT], ["a", [message]], ["a", "b"])


def test_a_default_stands_in_for_a_column_the_data_lacks() -> None:
    def function(completions: Any, scale: int = 7) -> Any:
        return scale

    assert seen_by(function, ["p"]) == 7
    assert seen_by(function, ["p"], scale=[2]) == [2]


def test_a_declared_column_that_the_data_lacks_is_named() -> None:
    def function(completions: Any, answr: Any) -> Any:
        return [0.0]

    with pytest.raises(DataError, match=r"function declares 'answr'.*'answer'.*Did you mean"):
        seen_by(function, ["p"], answer=[1])


def test_objects_that_can_be_called_are_functions() -> None:
    class Judge:
        def __call__(self, completions: Any) -> Any:
            return [1.0] * len(completions)

    reward = FunctionReward(Judge())
    assert (reward.name, list(reward.score(["p"], ["a"]))) == ("Judge", [1.0])


def test_what_cannot_be_called_by_keyword_is_refused() -> None:
    def function(completions: Any, /) -> Any:
        return completions

    with pytest.raises(ConfigError, match="function cannot be called by keyword"):
        FunctionReward(function)
    with pytest.raises(ConfigError, match="expected a function"):
        FunctionReward(int)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of reward functions that imports the module beside it and prints."""
    (tmp_path / "beside_rewards.py").write_text("SCALE = 2.0\n")
    path = tmp_path / "rewards.py"
    path.write_text(
        "import dataclasses\n"
        "from beside_rewards import SCALE\n"
        "print('loaded')\n"
        "LIMIT = 3\n"
        "@dataclasses.dataclass\n"
        "class Judge:\n    x: int = 0\n"
        "def brevity(completions, **kwargs):\n"
        "    return [-SCALE * len(c) for c in completions]\n"
    )
    return path


def test_a_function_is_loaded_by_path(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.path)
    function = load_function(f"{file}:brevity")
    assert RewardSum.of(function).score(["p"], ["abc"]).total.tolist() == [-6.0]
    assert sys.path == before
    out, err = capsys.readouterr()
    assert (out, err) == ("", "loaded\n")
    assert not list(file.parent.glob("__pycache__/rewards*"))


def test_a_file_is_read_anew_each_time(file: Path) -> None:
    assert load_function(f"{file}:brevity")(completions=["a"]) == [-2.0]
    file.write_text(file.read_text().replace("-SCALE", "+SCALE"))
    assert load_function(f"{file}:brevity")(completions=["a"]) == [2.0]


def test_what_cannot_be_loaded_is_named(file: Path) -> None:
    cases = {
        f"{file.parent}/reward.py:brevity": r"no file .*reward\.py\. Did you mean 'rewards\.py'",
        f"{file}:brevty": r"has no function 'brevty'\. Did you mean 'brevity'\? It has brevity\.",
        f"{file}:LIMIT": r"'LIMIT' is a int; expected a function",
        f"{file}:Judge": r"'Judge' is a type; expected a function",
        f"{file}": "names no function; expected .*rewards.py:FUNCTION",
    }
    for text, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            load_function(text)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module_here", "ModuleNotFoundError: No module named"),
        ("def f(:", "SyntaxError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_that_fails_is_named_with_its_error(tmp_path: Path, code: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(code)
    before = list(sys.path)
    with pytest.raises(ConfigError, match=rf"bad\.py:f': bad\.py fails when run: {message}"):
        load_function(f"{path}:f")
    assert sys.path == before
