"""Instruction data from task data: templates, what they may do, and which rows they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import (
    BuildOptions,
    BuildReport,
    Template,
    Templates,
    build_rows,
    read_demonstrations,
    read_templates,
)
from alignzoo.errors import ConfigError, DataError

TASKS = [
    {"task": "t1", "definition": "Add.", "prompt": "Sum?", "emphasis": "-", "things_to_avoid": "-",
     "positive_examples": [{"input": "1 1", "output": "2"}]},
    {"task": "t2", "definition": "Translate.", "prompt": "In German?", "emphasis": "Be short.",
     "things_to_avoid": "Slang", "positive_examples": ["-"]},
]  # fmt: skip
INSTANCES = [
    {"id": f"{task}-{i}", "task": task, "input": f"{i} {task}", "outputs": [f"a{i}", f"b{i}"]}
    for task in ("t1", "t2")
    for i in range(30)
]
PLAIN = Templates([Template("plain", "{{ input }}", "{{ output }}")])


def build(
    instances: Any = INSTANCES,
    templates: Templates = PLAIN,
    *,
    tasks: Any = TASKS,
    **options: Any,
) -> tuple[list[dict[str, Any]], BuildReport]:
    report = BuildReport()
    given = BuildOptions(layout="text", **options)
    return list(build_rows(instances, templates, given, report, tasks=tasks)), report


def test_a_template_sees_instance_and_task_and_one_of_the_outputs() -> None:
    template = Template("t", "{{ definition }} {{ input }} ({{ task }})", "{{ output }}")
    rows, _ = build(INSTANCES[:1], Templates([template]))
    assert rows[0]["prompt"] == "Add. 0 t1 (t1)"
    assert rows[0]["completion"] in ("a0", "b0")
    assert {key: rows[0][key] for key in ("id", "task", "template")} == {
        "id": "t1-0-t",
        "task": "t1",
        "template": "t",
    }


def test_rows_are_chat_demonstrations_unless_text_is_asked_for() -> None:
    rows = list(build_rows(INSTANCES[:1], PLAIN, BuildOptions(), BuildReport(), tasks=TASKS))
    (read,) = read_demonstrations(rows)
    assert read.prompt == [{"role": "user", "content": "0 t1"}]
    assert read.completion[0]["role"] == "assistant"  # type: ignore[index]


def test_each_instance_draws_its_template_and_output_for_itself() -> None:
    templates = read_templates("tasks")
    rows, report = build(templates=templates)
    assert len(rows) == report.rows == 60
    assert set(report.templates) == {
        "definition",
        "short",
        "last",
        "emphasis",
        "avoid",
        "example",
    }
    assert {row["completion"][0] for row in rows} == {"a", "b"}
    # An instance makes the same row whatever stands beside it.
    assert build(INSTANCES[7:9], templates)[0] == rows[7:9]
    assert build(templates=templates, seed=1)[0] != rows


def test_a_template_that_asks_for_what_a_task_lacks_is_not_drawn() -> None:
    rows, _ = build(templates=read_templates("tasks"), per_instance=6)
    of_first = {row["template"] for row in rows if row["task"] == "t1"}
    of_second = {row["template"] for row in rows if row["task"] == "t2"}
    assert of_first == {"definition", "short", "last", "example"}
    assert of_second == {"definition", "short", "last", "emphasis", "avoid"}


def test_several_templates_of_one_instance_are_different() -> None:
    rows, _ = build(INSTANCES[:1], read_templates("tasks"), per_instance=3)
    assert len({row["template"] for row in rows}) == 3
    assert len({row["id"] for row in rows}) == 3


def test_what_is_left_out_is_counted_by_reason() -> None:
    instances = [
        {"task": "t1", "input": "x", "outputs": ["y"]},
        {"task": "t1", "input": "x", "outputs": ["y"], "note": "the same row twice"},
        {"task": "t1", "input": "z", "outputs": []},
        {"task": "t1", "input": "z", "outputs": [" ", None]},
        {"task": "t1", "input": " ", "outputs": ["y"]},
        {"task": "t2", "input": "x2", "outputs": ["y"]},
    ]
    rows, report = build(instances)
    assert [row["prompt"] for row in rows] == ["x", "x2"]
    assert report.dropped == {"duplicate": 1, "no output": 2, "empty prompt": 1}
    assert (report.instances, report.tasks) == (6, {"t1": 1, "t2": 1})


def test_a_task_may_be_limited() -> None:
    rows, report = build(max_per_task=4)
    assert [row["task"] for row in rows] == ["t1"] * 4 + ["t2"] * 4
    assert report.dropped == {"over max_per_task": 52}


def test_instances_may_say_all_by_themselves() -> None:
    question = {"question": "1 + 1?", "answer": "2"}
    rows, _ = build([question], read_templates("questions"), tasks=None)
    assert "1 + 1?" in rows[0]["prompt"]
    assert rows[0]["completion"] == "2"


BAD_INPUT: dict[str, tuple[Any, Any, str]] = {
    "unknown task": (
        [{"task": "t11", "input": "x", "outputs": ["y"]}],
        TASKS,
        r"instances\[0\]: the task 't11', which is none of the 2 tasks\. Did you mean 't1'\?",
    ),
    "no task": ([{"input": "x"}], TASKS, r"instances\[0\]: no text in the column 'task'"),
    "task that is no text": ([{"task": ["t1"], "input": "x"}], TASKS, "no text in the column 'tas"),
    "task without a name": (INSTANCES, [{"definition": "x"}], r"tasks\[0\]: no name in the column"),
    "task twice": (INSTANCES, [*TASKS, TASKS[0]], r"tasks\[2\]: the task 't1' stands twice"),
    "no column": (
        [{"task": "t1", "inputs": "x", "outputs": ["y"]}],
        TASKS,
        r"instances\[0\]: templates, 'plain': the prompt cannot be filled in: 'input' is undefined",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_a_wrong_row_is_named_with_its_place(case: str) -> None:
    instances, tasks, message = BAD_INPUT[case]
    with pytest.raises(DataError, match=message):
        build(instances, tasks=tasks)


# -- templates -----------------------------------------------------------------------------------


def test_templates_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        '- name: ask\n  prompt: "{{ input }}?"\n  completion: "{{ output }}"\n  when: "{{ far }}"\n'
        '- prompt: "{{ input }}!"\n  completion: "{{ output }}"\n'
    )
    rows, _ = build(INSTANCES[:1], read_templates(path))
    assert (rows[0]["prompt"], rows[0]["template"]) == ("0 t1!", "2")


BAD_TEMPLATES = {
    "nothing": ("", "holds no list; expected a list of templates"),
    "object": ("prompt: x\n", "holds no list"),
    "part": ("- prompt: x\n", "template 1 lacks a part"),
    "key": ("- {prompt: x, completion: y, whn: z}\n", "has 'whn'.*Did you mean 'when'"),
    "type": ("- {prompt: 3, completion: y}\n", "template 1 has 'prompt'; expected text"),
    "syntax": ('- {name: n, prompt: "{{ x", completion: y}\n', "'n', line 1: unexpected end"),
    "names": ("- &a {name: n, prompt: x, completion: y}\n- *a\n", "template 2 has the name 'n'"),
    "yaml": ("- {prompt: [\n", "cannot be read as YAML"),
}


@pytest.mark.parametrize("case", BAD_TEMPLATES)
def test_a_bad_template_file_is_named(case: str, tmp_path: Path) -> None:
    content, message = BAD_TEMPLATES[case]
    path = tmp_path / "t.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"t\.yaml.*{message}"):
        read_templates(path)


def test_an_absent_file_or_set_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no file task\. Did you mean 'tasks'"):
        read_templates("task")


HOSTILE = [
    "{{ ''.__class__.__mro__ }}",
    "{{ input.__init__.__globals__ }}",
    "{{ outputs.append(1) }}",
    "{{ 'a' * 100000000 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ '%100000000d' % 1 }}",
    "{{ 'a'.ljust(100000000) }}",
    "{% for i in range(99999) %}{{ input * 99 }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ range(10000000) | list }}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_template_can_neither_reach_out_nor_write_without_end(text: str) -> None:
    templates = Templates([Template("hostile", text, "{{ output }}")])
    with pytest.raises(DataError, match=r"instances\[0\]: templates, 'hostile': the prompt cannot"):
        build(INSTANCES[:1], templates)


# -- real data -----------------------------------------------------------------------------------


def test_natural_instructions_become_demonstrations(real_data: Path) -> None:
    report = BuildReport()
    rows = list(
        build_rows(
            real_data / "ni_instances.jsonl",
            read_templates("tasks"),
            BuildOptions(max_per_task=30),
            report,
            tasks=real_data / "ni_tasks.jsonl",
        )
    )
    assert (report.instances, len(rows), len(report.tasks)) == (5100, 34 * 30, 34)
    assert min(report.templates.values()) > 80
    outputs = {}
    with (real_data / "ni_instances.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            outputs[row["id"]] = row
    for row, demonstration in zip(rows, read_demonstrations(rows), strict=True):
        instance = outputs[row["id"].removesuffix(f"-{row['template']}")]
        assert demonstration.completion[0]["content"] in instance["outputs"]  # type: ignore[index]
        assert instance["input"].strip() in demonstration.prompt[0]["content"]  # type: ignore[index]
