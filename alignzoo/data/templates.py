"""Templates that turn a row of task data into an instruction and its answer.

A template is Jinja2 in a sandbox: it sees the row's columns and nothing else, cannot change them,
and cannot write without end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignzoo.errors import ConfigError, DataError, did_you_mean

MAX_CHARACTERS = 1_000_000  # that a template may write
FIELDS = ("name", "prompt", "completion", "when")
PADDING = ("center", "format", "indent", "ljust", "rjust", "zfill", "expandtabs")

DEFINED = "{{ definition }}\n\n{{ input }}"
EXAMPLE = (
    "{{ definition }}\n\nAn example.\nInput: {{ positive_examples[0].input }}\n"
    "Output: {{ positive_examples[0].output }}\n\nNow for this one.\nInput: {{ input }}\nOutput:"
)
# Sets of templates that need no file, by name: (name, prompt, completion, when).
SETS: Mapping[str, Sequence[tuple[str, str, str, str]]] = {
    "tasks": (
        ("definition", DEFINED, "{{ output }}", "{{ definition }}"),
        ("short", "{{ prompt }}\n\n{{ input }}", "{{ output }}", "{{ prompt }}"),
        ("last", "{{ input }}\n\n{{ prompt }}", "{{ output }}", "{{ prompt }}"),
        (
            "emphasis",
            "{{ definition }} {{ emphasis }}\n\nInput: {{ input }}\nOutput:",
            "{{ output }}",
            "{{ definition and emphasis }}",
        ),
        (
            "avoid",
            "{{ definition }}\nAvoid this: {{ things_to_avoid }}\n\n{{ input }}",
            "{{ output }}",
            "{{ definition and things_to_avoid }}",
        ),
        ("example", EXAMPLE, "{{ output }}", "{{ definition and positive_examples }}"),
    ),
    "questions": (
        ("plain", "{{ question }}", "{{ answer }}", ""),
        ("labelled", "Question: {{ question }}\nAnswer:", "{{ answer }}", ""),
        ("asked", "Answer this question.\n\n{{ question }}", "{{ answer }}", ""),
    ),
}


@dataclass(frozen=True)
class Template:
    """What an instruction and its answer are made of.

    Args:
        name: what the rows made with it call it.
        when: renders to nothing, 0, or False where the template does not fit a row; a column that
            the row lacks is nothing.
    """

    name: str
    prompt: str
    completion: str
    when: str = ""


class Templates:
    """Templates, ready to be filled in.

    Raises:
        ConfigError: one is not what Jinja2 can read; the message names it and the line.
    """

    def __init__(self, templates: Sequence[Template], source: str = "templates") -> None:
        from jinja2 import ChainableUndefined, StrictUndefined

        strict, lenient = _environment(StrictUndefined), _environment(ChainableUndefined)
        environments = {"prompt": strict, "completion": strict, "when": lenient}
        self.templates = tuple(templates)
        self.source = source
        self._compiled = [
            {
                part: _compile(environment, getattr(template, part), f"{source}, '{template.name}'")
                for part, environment in environments.items()
            }
            for template in templates
        ]

    def fitting(self, values: Mapping[str, Any], where: str) -> list[int]:
        """Returns the numbers of the templates that fit a row."""
        return [
            number
            for number, template in enumerate(self.templates)
            if not template.when or _is_true(self._render(number, "when", values, where))
        ]

    def fill(self, number: int, values: Mapping[str, Any], where: str) -> tuple[str, str]:
        """Returns the prompt and completion that a template makes of a row.

        Raises:
            DataError: it names a column that the row lacks, or fails on what the row holds; the
                message names row and template.
        """
        prompt = self._render(number, "prompt", values, where)
        return prompt, self._render(number, "completion", values, where)

    def _render(self, number: int, part: str, values: Mapping[str, Any], where: str) -> str:
        from jinja2 import TemplateError

        text, size = [], 0
        try:
            for piece in self._compiled[number][part].generate(values):
                text.append(piece)
                size += len(piece)
                if size > MAX_CHARACTERS:
                    raise ValueError(f"it writes over {MAX_CHARACTERS} characters")
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            columns = ", ".join(f"'{name}'" for name in values)
            raise DataError(
                f"{where}: {self.source}, '{self.templates[number].name}': the {part} cannot be "
                f"filled in: {error}. The columns are {columns}."
            ) from None
        return "".join(text)


def read_templates(source: str | Path) -> Templates:
    """Returns the templates of a YAML file, or a set of ours by name.

    The file is a list of `{name: ..., prompt: ..., completion: ..., when: ...}`; name and `when`
    may be left out.

    Raises:
        ConfigError: there is no such file, or it holds something else; the message says what.
    """
    if str(source) in SETS:
        return Templates([Template(*texts) for texts in SETS[str(source)]], str(source))
    path = Path(source).expanduser()
    if not path.is_file():
        hint = did_you_mean(str(source), SETS)
        raise ConfigError(
            f"no file {source}.{hint} Expected a YAML file of templates, or one of the sets "
            f"{', '.join(SETS)}."
        )
    return Templates(list(_of_file(_read_yaml(path), str(source))), str(source))


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as YAML: {reason}.") from None


def _of_file(content: Any, source: str) -> Iterator[Template]:
    expected = "expected a list of templates, each with 'prompt' and 'completion'"
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{source} holds no list; {expected}.")
    names: set[str] = set()
    for number, item in enumerate(content, start=1):
        place = f"{source}, template {number}"
        if not isinstance(item, dict) or not {"prompt", "completion"} <= set(item):
            raise ConfigError(f"{place} lacks a part; {expected}.")
        for key, value in item.items():
            if key not in FIELDS or not isinstance(value, str):
                hint = did_you_mean(str(key), FIELDS)
                raise ConfigError(
                    f"{place} has '{key}'; expected text in {', '.join(FIELDS)}.{hint}"
                )
        template = Template(**{"name": str(number), **item})
        if template.name in names:
            raise ConfigError(f"{place} has the name '{template.name}', which is another's.")
        names.add(template.name)
        yield template


def _compile(environment: Any, text: str, place: str) -> Any:
    from jinja2 import TemplateSyntaxError

    try:
        return environment.from_string(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{place}, line {error.lineno}: {error.message}.") from None


def _is_true(text: str) -> bool:
    return text.strip().lower() not in ("", "false", "0", "none", "[]", "{}")


def _environment(undefined: Any) -> Any:
    """Returns a Jinja2 sandbox whose templates can neither reach out nor write without end."""
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if not _is_small(operator, left, right):
                raise SecurityError(f"'{operator}' would give more than a template may write")
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            padding = isinstance(obj, str) and attr in PADDING
            return not padding and super().is_safe_attribute(obj, attr, value)

    environment = Bounded(undefined=undefined, keep_trailing_newline=True)
    for name in PADDING:
        environment.filters.pop(name, None)
    return environment


def _is_small(operator: str, left: Any, right: Any) -> bool:
    """Whether the result of an operator is of a size that a template may write."""
    if operator == "%":
        return not isinstance(left, str) or not re.search(r"\d{4}|\*", left)
    if operator == "**":
        return isinstance(right, (int, float)) and abs(right) <= 64 and _size(left) <= 10**6
    for counted, times in ((left, right), (right, left)):
        if isinstance(counted, (str, list, tuple)) and isinstance(times, int):
            return len(counted) * times <= MAX_CHARACTERS
    return True


def _size(value: Any) -> float:
    return abs(value) if isinstance(value, (int, float)) else float("inf")
