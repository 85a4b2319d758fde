"""The model card of a trained policy: README.md beside its weights, written from the run itself."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignzoo.report.run_config import (
    algorithm_name,
    baseline,
    data_name,
    is_hub_id,
    library_versions,
    option,
    rewards,
    short_name,
)


class Measure(NamedTuple):
    """A metric the card reports, first and last, and how to read it."""

    metric: str
    label: str
    unit: str


MEASURES = (
    Measure("score_mean", "mean score", ""),
    Measure("loss", "loss", ""),
    Measure("kl", "KL to the reference", "nats per response"),
    Measure("response_length_mean", "response length", "tokens"),
)


def model_card(
    config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], *, steered: bool = False
) -> str:
    """Returns the text of README.md for a trained model, in the hub's format.

    Of local paths only the last part is told, for a card is published with the model. What the run
    did not measure is said to be unmeasured; nothing is claimed beyond the run's own numbers.

    Args:
        config: what config.yaml holds; any part may be missing. Where it has `baseline`, a mapping
            of the held-out metrics before the first update, these are the first figures.
        metrics: the run's updates in order, as in metrics.jsonl.
        steered: the algorithm also shapes the logits when it generates, with weights of its own
            that plain transformers does not load.
    """
    before = baseline(config)
    if before:
        metrics = [{"step": 0, **before}, *metrics]
    sections = [
        _front_matter(config),
        _opening(config, metrics),
        _section("Results", _results(metrics)),
        _section("How to use it", _usage(steered)),
        _section("Training", _training(config, metrics)),
        _section("Limits and responsible use", _limits(config, metrics)),
        _section("Versions", _versions(config)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(config: Mapping[str, Any]) -> str:
    import yaml

    algorithm = algorithm_name(config)
    base = option(config, "policy")
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["alignzoo", "alignment", *([algorithm] if algorithm else [])],
    }
    if isinstance(base, str) and is_hub_id(base):
        header["base_model"] = base
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return f"---\n{text}---"


def _opening(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    algorithm = algorithm_name(config)
    base = short_name(option(config, "policy"))
    source = f" from {_base(base)}" if base else ""
    by = f" with {_code(algorithm)}{_paper(config)}" if algorithm else ""
    names = [_code(reward.name) for reward in rewards(config)]
    goal = f", rewarded by {' and '.join(names)}" if names else ""
    title = f"# {_plain(base or 'Language model')}, trained with {_plain(algorithm or 'alignzoo')}"
    count = sum(1 for row in metrics if row.get("step") != 0)
    length = f" The run made {count:,} update{'' if count == 1 else 's'}." if count else ""
    return f"{title}\n\nA causal language model that alignzoo trained{source}{by}{goal}.{length}"


def _base(base: str) -> str:
    if base == "tiny":
        return "a small model made from scratch with a byte-level tokenizer"
    return _code(base)


def _paper(config: Mapping[str, Any]) -> str:
    algorithm = config.get("algorithm")
    paper = algorithm.get("paper") if isinstance(algorithm, Mapping) else None
    if not paper:
        return ""
    found = re.fullmatch(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)", str(paper).strip())
    if found:
        return f" ([{found.group()}](https://arxiv.org/abs/{found.group(1)}))"
    return f" ({_plain(str(paper))})"


def _results(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The tables of first and last figures: held-out first, then training."""
    held_out = list(_rows(metrics, "eval_"))
    training = list(_rows(metrics, ""))
    parts = []
    if held_out:
        parts += [
            "On the held-out data, first and last time it was measured:",
            _table(RESULT_HEAD, held_out),
        ]
    elif training:
        parts.append("Nothing was measured on held-out data.")
    if training:
        parts += ["On training data, first and last update:", _table(RESULT_HEAD, training)]
    return "\n\n".join(parts)


RESULT_HEAD = ("measure", "first", "last", "at updates")


def _rows(metrics: Sequence[Mapping[str, Any]], prefix: str) -> Iterator[tuple[str, ...]]:
    for measure in MEASURES:
        found = _measured(metrics, prefix + measure.metric)
        if not found:
            continue
        label = f"{measure.label} ({measure.unit})" if measure.unit else measure.label
        (first_step, first), (last_step, last) = found[0], found[-1]
        if len(found) == 1:
            yield label, "", _number(last), last_step
        else:
            yield label, _number(first), _number(last), f"{first_step} and {last_step}"


def _measured(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[str, float]]:
    """Returns (step, value) where the metric is a finite number."""
    found = []
    for i, row in enumerate(metrics):
        value = row.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            found.append((f"{row.get('step', i + 1)}", float(value)))
    return found


def _usage(steered: bool) -> str:
    code = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its id on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
inputs = tokenizer("Once upon a time", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=64, do_sample=True)
print(tokenizer.decode(output[0], skip_special_tokens=True))
```"""
    if not steered:
        return code
    return (
        "The algorithm also steers generation, with weights in the folder `alignzoo/`. Plain "
        "transformers loads the **unsteered** model; `alignzoo.Policy.from_pretrained` and "
        f"`alignzoo generate` load both.\n\n{code}"
    )


def _training(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    parts = [_facts(config, metrics)]
    algorithm = config.get("algorithm")
    options = algorithm.get("options") if isinstance(algorithm, Mapping) else None
    if isinstance(options, Mapping) and options:
        rows = [(_code(str(name)), _code(_value(value))) for name, value in options.items()]
        name = _code(algorithm_name(config) or "the algorithm")
        parts += [f"Options of {name}:", _table(("option", "value"), rows)]
    return "\n\n".join(part for part in parts if part)


def _facts(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """The bullet list: data, rewards, sampling, tokens, seed."""
    facts = []
    for name in ("prompts", "data", "eval_prompts", "eval_data"):
        value = data_name(config, name)
        if value:
            facts.append(f"{name.replace('eval_', 'held-out ')}: {_code(value)}")
    trained, held_out = option(config, "train_rows"), option(config, "held_out_rows")
    if trained is not None and held_out is not None:
        facts.append(f"rows: {trained} to train on, {held_out} held out")
    for name, weight, options in rewards(config):
        of_options = f", options {_code(_value(options))}" if options else ""
        of_weight = f", weight {_number(weight)}" if weight != 1 else ""
        facts.append(f"reward: {_code(name)}{of_weight}{of_options}")
    labels = (
        ("steps", "updates planned"),
        ("batch_size", "batch size"),
        ("max_new_tokens", "most tokens in a response"),
        ("temperature", "temperature"),
        ("dtype", "precision"),
        ("device", "device"),
        ("seed", "seed"),
    )
    for name, label in labels:
        value = option(config, name)
        if value is not None:
            facts.append(f"{label}: {_code(_value(value))}")
    tokens = _measured(metrics, "tokens")
    if tokens:
        facts.append(f"response tokens: {int(tokens[-1][1]):,}")
    return "\n".join(f"- {fact[0].upper()}{fact[1:]}" for fact in facts)


def _limits(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    has_held_out = any(_measured(metrics, "eval_" + measure.metric) for measure in MEASURES)
    points = []
    if rewards(config):
        points.append(
            "Training raised what the reward above measures. A reward stands in for a goal; where "
            "the two differ, the model follows the reward. Read its responses before relying on "
            "the score."
        )
    if has_held_out:
        points.append(
            "The held-out figures are of one run with one seed, on data of one kind; they say "
            "nothing of other uses."
        )
    else:
        points.append(
            "Nothing was measured on held-out data, so nothing is known beyond the training data."
        )
    points.append(
        "Not measured: whether what it says is true, harmless, fair to groups of people or free of "
        "private data, and how it does on other tasks and in other languages. Measure what your "
        "use depends on first."
    )
    points.append(
        "It keeps the knowledge, faults and licence of the model it was trained from; the licences "
        "of the training data apply too."
    )
    skipped, unscorable = (_measured(metrics, n) for n in ("skipped_updates", "unscorable"))
    if skipped and skipped[-1][1] > 0:
        points.append(f"Optimiser steps skipped because they were not finite: {skipped[-1][1]:g}.")
    if unscorable and unscorable[-1][1] > 0:
        points.append(f"Training responses that the reward could not score: {unscorable[-1][1]:g}.")
    return "\n".join(f"- {point}" for point in points)


def _versions(config: Mapping[str, Any]) -> str:
    rows = [(_plain(name), _code(version)) for name, version in library_versions(config).items()]
    algorithm = config.get("algorithm")
    if isinstance(algorithm, Mapping) and algorithm.get("distribution"):
        owner = f"{algorithm['distribution']} {algorithm.get('version', '')}".strip()
        revision = algorithm.get("revision")
        suffix = f", revision {revision}" if revision is not None else ""
        rows.append((f"algorithm {_code(algorithm_name(config))}", _code(owner) + suffix))
    return _table(("part", "version"), rows) if rows else ""


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def _value(value: object) -> str:
    """Returns an option as text; a local path inside it loses its folders."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    text = str(value)
    return short_name(text) if re.match(r"([/~]|\.{1,2}/|[A-Za-z]:\\)", text) else text


def _number(value: float) -> str:
    """Returns four significant digits, at most four of them decimals."""
    rounded = round(value, 4) + 0.0
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.4g}"


def _plain(text: str) -> str:
    """Returns text with Markdown's and HTML's marks escaped, on one line."""
    return re.sub(r"([\\`*_\[\]<>#&])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Returns a code span that holds `text` whatever it contains, on one line."""
    line = " ".join(text.split())
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    ticks = "`" * (longest + 1)
    pad = " " if longest or not line else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"
