"""Configurations as flags and files: what is read, what wins, what is said about mistakes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from alignzoo.cli.arguments import Parser
from alignzoo.cli.options import OptionSet
from alignzoo.config import Config
from alignzoo.errors import ConfigError


class Run(Config):
    policy: str = Field(..., description="model folder")
    steps: int = Field(100, gt=0, description="updates")
    reward: list[str] = Field(default_factory=list, description="rewards; several are summed")
    data: str | None = Field(None, description="a file")


class Algo(Config):
    learning_rate: float = Field(1e-5, gt=0, description="100% of the rate")
    clip_range: Annotated[float, Field(ge=0, le=1)] = Field(0.2, description="clip")
    target_kl: float | None = Field(0.1, gt=0, description="stop")
    whiten: bool = Field(True, description="whiten")
    schedule: Literal["constant", "cosine"] = Field("constant", description="shape")
    sizes: list[int] = Field(default_factory=lambda: [1, 2], description="sizes")
    weights: dict[str, float] = Field(default_factory=dict, description="weights")
    rule: str | dict[str, Any] = Field("none", description="a name or an object")


def parse(*arguments):
    parser = Parser("train toy", "Trains.")
    options = OptionSet({"run": Run, "toy": Algo})
    options.add_to(parser)
    return options.read(parser.parse(list(arguments)))


def algo(*arguments):
    return parse(*arguments).build(Algo, "toy")


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--learning-rate", "1e-3"], "learning_rate", 1e-3),
        (["--learning-rate=1e-3"], "learning_rate", 1e-3),
        (["--learning_rate", "1e-3"], "learning_rate", 1e-3),
        (["--learning-rate", "1", "--learning-rate", "2"], "learning_rate", 2.0),
        (["--target-kl", "none"], "target_kl", None),
        (["--target-kl", "0.5"], "target_kl", 0.5),
        (["--whiten"], "whiten", True),
        (["--no-whiten"], "whiten", False),
        (["--whiten", "false"], "whiten", False),
        (["--whiten=true"], "whiten", True),
        (["--no_whiten"], "whiten", False),
        (["--schedule", "cosine"], "schedule", "cosine"),
        (["--sizes", "[3, 4]"], "sizes", [3, 4]),
        (["--sizes", "3", "--sizes", "4"], "sizes", [3, 4]),
        (["--sizes", "[]"], "sizes", []),
        (["--weights", '{"a": 0.5}'], "weights", {"a": 0.5}),
        (["--rule", "strict"], "rule", "strict"),
        (["--rule", '{"a": 1}'], "rule", {"a": 1}),
        (["--rule", "none"], "rule", "none"),
    ],
)
def test_a_flag_gives_a_typed_value(arguments, name, value):
    assert getattr(algo(*arguments), name) == value


def test_a_repeated_flag_collects_texts_that_look_like_json():
    given = parse("--policy", "p", "--reward", 'keywords:{"include":["dog"]}', "--reward", "length")
    assert given.build(Run, "train").reward == ['keywords:{"include":["dog"]}', "length"]


def test_a_switch_does_not_swallow_the_next_word():
    with pytest.raises(ConfigError, match="'extra', which belongs to no option"):
        parse("--whiten", "extra")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clip-rnage", "1"], r"train toy has no option '--clip-rnage'\. Did you mean '--clip-r"),
        (["--clip"], r"train toy has no option '--clip'\."),
        (["-x"], r"train toy has no option '-x'\."),
        (["--learning-rate"], r"^--learning-rate needs a value: 100%"),
        (["--learning-rate", "--whiten"], r"^--learning-rate needs a value"),
        (["--learning-rate", "-1e-5"], r"^toy: --learning-rate is '-1e-5'; it should be greater"),
        (["--learning-rate", "fast"], r"^toy: --learning-rate is 'fast'; it should be a valid num"),
        (["--whiten=perhaps"], r"^toy: --whiten is 'perhaps'; it should be a valid boolean$"),
        (["--schedule", "cos"], r"^toy: --schedule is 'cos'; it should be 'constant' or 'cosine'$"),
        (["--sizes", "[1"], r"^--sizes is '\[1'; it should be JSON, and it breaks at character"),
        (["--sizes", '[1, "x"]'], r"^toy: --sizes\.1 is 'x'; it should be a valid integer$"),
        (["--weights", "heavy"], r"^--weights is 'heavy'; it should be JSON"),
    ],
)
def test_a_wrong_flag_is_one_clear_error(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        algo(*arguments)
    assert "\n" not in str(caught.value)


def test_a_needed_option_is_named_with_its_doc():
    with pytest.raises(ConfigError, match=r"^train: --policy is needed: model folder$"):
        parse().build(Run, "train")


def test_flags_go_over_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("clip-range: 0.3\nlearning_rate: 1e-3\nsizes: [7]\ndata: null\n")
    given = parse("--config", str(path), "--clip-range", "0.4")
    config = given.build(Algo, "toy")
    assert (config.clip_range, config.learning_rate, config.sizes) == (0.4, 1e-3, [7])
    assert given.explicit == {"clip_range"}
    assert given.from_file == {"learning_rate", "sizes", "data"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "clip_rnage: 1",
            r"run\.yaml: there is no option 'clip_rnage'\. Did you mean 'clip_ra",
        ),
        ("clip_range: 7", r"^toy: 'clip_range' in .*run\.yaml is 7; it should be less than or equ"),
        ("clip_range: 1\nclip-range: 1", r"run\.yaml: option 'clip_range' is given twice"),
        ("a: [1", r"run\.yaml is no YAML: .* in line 1"),
        ("- a\n- b", r"run\.yaml holds list; expected lines 'option: value'"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        algo("--config", str(path))


def test_a_file_that_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"^--config nowhere\.yaml cannot be read: No such file"):
        algo("--config", "nowhere.yaml")


def test_an_empty_file_changes_nothing(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("# nothing yet\n")
    assert algo("--config", str(path)) == Algo()


def test_help_shows_type_default_range_and_doc():
    parser = Parser("train toy", "Trains.")
    OptionSet({"run": Run, "toy": Algo}).add_to(parser)
    text = " ".join(parser.format_help().split())
    for part in (
        "run options:",
        "--policy STR model folder (str; required)",
        "--learning-rate FLOAT 100% of the rate (float > 0; default 1e-05)",
        "--clip-range FLOAT clip (float >= 0, <= 1; default 0.2)",
        "--target-kl FLOAT stop (float or none > 0; default 0.1)",
        "--schedule {constant,cosine} shape (default constant)",
        "--sizes LIST sizes (list of int; default [1, 2]; may be repeated)",
        "--whiten {true,false} whiten (default true; also --whiten and --no-whiten)",
        "--config FILE",
    ):
        assert part in text


def test_two_configurations_with_one_field_name_are_refused():
    with pytest.raises(ValueError, match="have a field"):
        OptionSet({"run": Run, "again": Run.__class__("Again", (Run,), {})})
