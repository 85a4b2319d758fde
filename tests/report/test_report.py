"""The run report: what a reader and a browser find in report.html."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignzoo.errors import DataError
from alignzoo.report import write_report

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}
OPTIONAL_END = {"li", "p"}
FETCHING = {"src", "href", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """A parsed report: tags, attributes and text by element; refuses tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        return "".join(text for tag, text in self.texts if tag not in ("style", "script"))

    def attributes(self, tag: str, name: str) -> list[str]:
        return [found[name] or "" for t, found in self.tags if t == tag and name in found]


def write_run(
    folder: Path,
    metrics: list[dict[str, Any]] | None = None,
    samples: list[dict[str, Any]] | None = None,
    config: Any = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("metrics", metrics), ("samples", samples)):
        if rows is not None:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def report_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def ppo_metrics(count: int) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, count + 1):
        row: dict[str, Any] = {
            "step": step,
            "score_mean": 0.2 + 0.7 * step / count,
            "kl": 20.0 * step / count,
            "entropy": 2.0 - step / count,
            "kl_coef": 0.02,
            "tokens": 100 * step,
            "seconds": 0.5,
        }
        if step % 5 == 0:
            row |= {"eval_score_mean": 0.1 + 0.7 * step / count, "eval_kl": 18.0 * step / count}
        rows.append(row)
    return rows


CONFIG = {
    "run": {"policy": "models/stories", "seed": 3, "steps": 10},
    "algorithm": {"id": "ppo", "options": {"clip_range": 0.2, "names": ["a", "b"]}},
    "rewards": [{"id": "keywords", "weight": 1.0}],
}


def test_headline_shows_first_and_last_figures(tmp_path: Path) -> None:
    text = report_of(write_run(tmp_path, ppo_metrics(10), config=CONFIG)).text
    figures = text[: text.index("mean score of the responses")]
    assert "0.27 →" in figures
    assert "0.9" in figures
    assert "score, held-out" in figures
    assert "0.45 →" in figures
    assert "0.8" in figures
    assert "response tokens 1,000" in figures
    assert "time 5.00 s" in figures
    assert "ppo" in figures
    assert "stories" in figures
    assert "keywords" in figures


def test_main_curves_come_first_with_held_out_laid_over(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path, ppo_metrics(10), config=CONFIG))
    names = [text for tag, text in page.texts if tag == "title"][1:]
    assert names[0].startswith("score_mean: training 0.27 at update 1, 0.9 at update 10")
    assert "held-out 0.45 at update 5, 0.8 at update 10" in names[0]
    assert [name.partition(":")[0] for name in names[1:3]] == ["kl", "score against KL"]
    assert any(name.startswith("entropy:") for name in names[3:])
    assert not any(name.startswith("eval_") for name in names)


def test_baseline_stands_before_the_first_update(tmp_path: Path) -> None:
    config = {**CONFIG, "baseline": {"eval_score_mean": 0.125, "eval_kl": None}}
    page = report_of(write_run(tmp_path, ppo_metrics(10), config=config))
    assert "0.125 →" in page.text
    assert "held-out 0.125 at update 0, 0.8 at update 10" in page.text
    assert "updates 10" in page.text


def test_rounding_below_zero_does_not_move_the_axis(tmp_path: Path) -> None:
    rows = ppo_metrics(10)
    rows[0]["kl"] = -1e-6
    page = report_of(write_run(tmp_path, rows))
    assert "0 → 20 nats" in page.text
    starts = [float(text.split()[0]) for text in page.attributes("div", "data-y")]
    assert starts[:2] == [0.0, 0.0]


def test_a_metric_with_one_value_is_told_in_words(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path, ppo_metrics(10)))
    assert "kl_coef 0.02" in page.text
    assert not any(text.startswith("kl_coef:") for tag, text in page.texts if tag == "title")


def test_any_other_numeric_key_is_drawn(tmp_path: Path) -> None:
    rows = [{"step": i, "score/<b>odd</b>": i / 7, "words": "no", "flag": True} for i in (1, 2, 3)]
    page = report_of(write_run(tmp_path, rows))
    assert "score/<b>odd</b>" in page.text
    assert ("b", "odd") not in page.texts
    assert "words" not in page.text
    assert "flag" not in page.text


def test_a_metric_that_the_algorithm_explains_is_explained(tmp_path: Path) -> None:
    rows = [{"step": i, "advantage_max": i / 7, "eval_advantage_max": i / 8} for i in (1, 2, 3)]
    config = {"metrics": {"advantage_max": "largest <advantage> of a rollout"}}
    page = report_of(write_run(tmp_path, rows, config=config))
    assert page.text.count("largest <advantage> of a rollout") >= 2  # beside its curve, and below


def test_held_out_metric_without_a_training_twin_is_drawn(tmp_path: Path) -> None:
    rows = [{"step": i, "eval_loss": 3.0 / i, "eval_win_rate": i / 9} for i in (1, 2, 3)]
    titles = [text for tag, text in report_of(write_run(tmp_path, rows)).texts if tag == "title"]
    assert any(text.startswith("loss: held-out 3 at update 1") for text in titles)
    assert any(text.startswith("eval_win_rate:") for text in titles)


def test_report_loads_nothing(tmp_path: Path) -> None:
    samples = [{"step": 1, "prompt": "p", "response": '<img src="https://x.y/z.png">', "score": 1}]
    page = report_of(write_run(tmp_path, ppo_metrics(10), samples, CONFIG))
    for tag, attributes in page.tags:
        assert not FETCHING & set(attributes), (tag, attributes)
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
    css_and_js = "".join(text for tag, text in page.texts if tag in ("style", "script"))
    assert "url(" not in css_and_js
    assert "@import" not in css_and_js
    assert "//x" not in css_and_js
    assert "fetch(" not in css_and_js
    assert "http" not in css_and_js
    policy = page.attributes("meta", "content")
    assert any(text.startswith("default-src 'none'") for text in policy)


def test_report_follows_light_and_dark(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path, ppo_metrics(3))).read_text()
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_every_plot_has_a_title_for_those_who_cannot_see_it(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path, ppo_metrics(10)))
    plots = [found for tag, found in page.tags if tag == "svg"]
    titles = [text for tag, text in page.texts if tag == "title"]
    assert plots
    assert all(found.get("role") == "img" for found in plots)
    assert len(titles) == len(plots) + 1  # and the page's own


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_updates_give_a_valid_report(tmp_path: Path, count: int) -> None:
    page = report_of(write_run(tmp_path, ppo_metrics(count), config=CONFIG))
    assert f"updates {count}" in page.text
    assert ("no updates yet" in page.text) == (count == 0)


def test_missing_files_give_a_valid_report(tmp_path: Path) -> None:
    text = report_of(tmp_path).text
    assert "config.yaml is missing" in text
    assert "No samples were recorded" in text


def test_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "", "\x00"])
def test_odd_config_is_told_and_not_fatal(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert "config.yaml" in report_of(write_run(tmp_path, ppo_metrics(2))).text


def test_half_a_last_line_is_ignored(tmp_path: Path) -> None:
    write_run(tmp_path, ppo_metrics(4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "score_me')
    text = report_of(tmp_path).text
    assert "updates 4" in text
    assert "Malformed" not in text


def test_malformed_lines_within_are_counted(tmp_path: Path) -> None:
    good = [json.dumps(row) for row in ppo_metrics(3)]
    lines = [good[0], "{oh", "[1]", good[1], good[2]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert "Malformed lines of metrics.jsonl, left out: 2" in report_of(tmp_path).text


def test_values_that_are_not_finite_are_told_and_left_out(tmp_path: Path) -> None:
    rows = ppo_metrics(6)
    rows[2]["kl"] = float("nan")
    rows[3]["kl"] = float("inf")
    page = report_of(write_run(tmp_path, rows))
    assert "NaN or infinite, left out: kl." in page.text
    assert all("nan" not in points and "inf" not in points for points in points_of(page))


def test_notes_tell_what_went_wrong(tmp_path: Path) -> None:
    rows = ppo_metrics(4)
    rows[-1] |= {"skipped_updates": 2, "unscorable": 7, "truncated_fraction": 0.8}
    for row in rows:
        row.pop("eval_score_mean", None)
        row.pop("eval_kl", None)
    text = report_of(write_run(tmp_path, rows, config=CONFIG)).text
    assert "has done 4 of its 10 updates" in text
    assert "not finite: 2." in text
    assert "every mean: 7." in text
    assert "80% of the last update's responses were cut off" in text
    assert "Nothing was measured on held-out prompts" in text


def test_config_is_shown_as_it_is(tmp_path: Path) -> None:
    odd = {**CONFIG, "note": "<i>&", "data": {"rows": None, "deep": [{"a": True}, {}]}}
    text = report_of(write_run(tmp_path, config=odd)).text
    for shown in ("options.clip_range", "a, b", "<i>&", "deep[0].a", "true", "[0].weight"):
        assert shown in text


def points_of(page: Page) -> list[str]:
    return page.attributes("polyline", "points")


def test_vast_runs_stay_small(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 100_001):
            value = 1000.0 if step == 77_777 else step * 7919 % 101
            file.write(f'{{"step": {step}, "score_mean": {value}, "kl": {value / 9}}}\n')
    path = write_report(tmp_path)
    page = Page(path.read_text())
    assert path.stat().st_size < 300_000
    assert max(len(points.split()) for points in points_of(page)) <= 400
    assert max(path_text.count("M") for path_text in page.attributes("path", "d")) <= 400
    assert "between 0 and 1,000" in page.text  # the one peak is in the summary
    first_curve = [point.split(",") for point in points_of(page)[0].split()]
    assert min(float(y) for _, y in first_curve) < 100  # and drawn


def test_report_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(write_run(tmp_path, ppo_metrics(2)))
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    write_run(tmp_path, ppo_metrics(3))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path)
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "report.html"}


def test_equal_runs_give_equal_reports(tmp_path: Path) -> None:
    first = write_report(write_run(tmp_path / "a" / "run", ppo_metrics(5))).read_bytes()
    second = write_report(write_run(tmp_path / "b" / "run", ppo_metrics(5))).read_bytes()
    assert first == second


def sample(step: int, prompt: Any, response: str, **more: Any) -> dict[str, Any]:
    return {"step": step, "prompt": prompt, "response": response, "score": 0.5} | more


def test_samples_are_escaped(tmp_path: Path) -> None:
    attack = "</pre><script>alert('x')</script>&amp;{{ 7 * 7 }}"
    page = report_of(write_run(tmp_path, samples=[sample(1, attack, attack)]))
    assert page.text.count(attack) == 2
    assert [tag for tag, _ in page.tags].count("script") == 1  # ours


def test_chinese_and_chat_prompts_are_shown(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "你是讲故事的人。"},
        {"role": "user", "content": "写一只小狗。"},
    ]
    text = report_of(write_run(tmp_path, samples=[sample(1, messages, "从前有一只小狗。")])).text
    for shown in ("system", "你是讲故事的人。", "user", "写一只小狗。", "从前有一只小狗。"):
        assert shown in text


def test_whitespace_of_a_sample_is_kept(tmp_path: Path) -> None:
    response = "  two  spaces\n\n\tand a tab "
    page = report_of(write_run(tmp_path, samples=[sample(1, "p", response)]))
    assert ("div", response) in page.texts
    assert "white-space: pre-wrap" in "".join(text for tag, text in page.texts if tag == "style")


def test_control_characters_and_lone_surrogates_do_not_break_the_page(tmp_path: Path) -> None:
    row = json.dumps(sample(1, "p", "a\x00b\x1bc\rd\ud800e"))
    (tmp_path / "samples.jsonl").write_text(row + "\n")
    assert "a␀b␛c␍d?e" in report_of(tmp_path).text
    assert b"\x00" not in (tmp_path / "report.html").read_bytes()


def test_same_prompts_stand_side_by_side_at_three_steps(tmp_path: Path) -> None:
    rows = [
        sample(step, prompt, f"{prompt} at {step}", split="held-out", score=step / 100)
        for step in (1, 20, 50, 90, 100)
        for prompt in ("first", "second")
    ]
    page = report_of(write_run(tmp_path, samples=rows))
    heads = [text for tag, text in page.texts if tag == "th" and text.startswith("update")]
    assert heads == ["update 1", "update 50", "update 100"]
    shown = [text for tag, text in page.texts if tag == "div" and " at " in text]
    assert shown[:3] == ["first at 1", "first at 50", "first at 100"]
    assert "0.01" in page.text
    assert "0.5" in page.text


def test_prompts_that_change_are_shown_with_each_response(tmp_path: Path) -> None:
    rows = [sample(step, f"prompt {step}", f"response {step}") for step in (1, 2)]
    text = report_of(write_run(tmp_path, samples=rows)).text
    assert "the prompts differ from step to step" in text
    assert text.index("prompt 1") < text.index("response 1") < text.index("prompt 2")


def test_unscorable_and_empty_responses_are_named(tmp_path: Path) -> None:
    text = report_of(write_run(tmp_path, samples=[sample(1, "p", "", score=None)])).text
    assert "unscorable" in text
    assert "empty" in text


def test_extremes_of_the_last_step_are_shown(tmp_path: Path) -> None:
    rows = [sample(5, f"p{i}", f"r{i}", score=i / 10) for i in range(9)]
    text = report_of(write_run(tmp_path, samples=rows)).text
    part = text[text.index("Highest and lowest scores") :]
    assert part.index("r8") < part.index("r0") < part.index("r7") < part.index("r1")


def test_long_texts_fold_and_endless_ones_are_cut(tmp_path: Path) -> None:
    long = " ".join(f"word{i}" for i in range(400))
    page = report_of(
        write_run(tmp_path, samples=[sample(1, "p", long), sample(1, "q", "x" * 50_000)])
    )
    assert long in page.text
    assert f"{len(long):,} characters" in page.text
    assert "cut here; the rest is in samples.jsonl" in page.text
    assert max(len(text) for _, text in page.texts) < 30_000


def test_odd_samples_do_not_break_the_report(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {},
        {"step": "x", "prompt": 3, "response": None, "score": "high"},
        {"step": 2, "prompt": ["a", {"content": None}], "response": 5, "score": float("nan")},
        {"step": 2, "prompt": None, "response": "r", "score": float("inf"), "split": "<other>"},
    ]
    assert "<other>" in report_of(write_run(tmp_path, samples=rows)).text
