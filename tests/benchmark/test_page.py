"""The report of a benchmark: what a reader and a browser find on the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from benchmark.report_cases import failed, is_shown, made_rows, minimal

from alignzoo.benchmark.bands import band, frontier_band, learning_band, proxy_path
from alignzoo.benchmark.charts import looks
from alignzoo.benchmark.page import render, write_page
from alignzoo.benchmark.plain_words import in_short
from alignzoo.benchmark.summary import summarise

VOID = {"meta", "br", "wbr", "hr"}


class Page(HTMLParser):
    """A parsed page: tags and their attributes, texts, and tables as lists of rows of texts."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.tables = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" in self.open:
            return
        self.texts.append(text)
        if {"td", "th"} & set(self.open) and text.strip():
            self.tables[-1][-1][-1].append(text.strip())

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def titled(self, *heads):
        """Returns the first table whose headings begin so."""
        return next(
            t for t in self.tables if [c[:1] for c in t[0]][: len(heads)] == [[h] for h in heads]
        )


def page_of(rows, **options):
    return Page(render(summarise(rows, **options), rows))


def told(rows):
    return " ".join(in_short(summarise(rows), rows))


# -- the whole page ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        made_rows(["ppo"], num_seeds=1, num_points=1),
        made_rows(["ppo"], num_seeds=1),
        minimal(made_rows(["ppo", "grpo"], ["a", "b"], num_seeds=2)),
        [failed(row) for row in made_rows(["ppo", "grpo"])],
        [{**row, "kl": None, "curve": []} for row in made_rows(["ppo", "grpo"])],
        made_rows(["ppo", "grpo"], ["a", "b"])[:9],
        [
            {**row, "budget": None, "chosen": {}, "versions": {}, "options": {}, "tuning": None}
            for row in made_rows(["ppo", "grpo"], num_seeds=1)
        ],
    ],
    ids=["one point", "one run", "minimal", "failed", "no curves", "holes", "odd conditions"],
)
def test_every_kind_of_rows_makes_a_page_without_nan_or_none(rows):
    text = page_of(rows).text
    assert not re.search(r"\b(nan|inf|None|undefined)\b", text)
    assert all(row["algorithm"] in text for row in rows)


def test_the_page_loads_nothing_and_needs_no_script():
    html = render(summarise(rows := made_rows(["ppo", "grpo"])), rows)
    page = Page(html)
    links = [v for _, a in page.tags for n, v in a.items() if n in ("src", "href", "data")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "url(" not in html
    assert "@import" not in html


def test_names_are_shown_as_they_are_and_mark_nothing_up():
    names = ["<script>alert(1)</script>", "近端策略优化", "a\"b'&amp;", "名" * 40]
    rows = made_rows(names, ["</style><b>t</b>", "任务"], num_seeds=2)
    rows[0] = failed(rows[0], "<i>lost</i>\x07")
    html = render(summarise(rows), rows)
    text = Page(html).text
    assert all(name in text for name in [*names, "</style><b>t</b>", "任务", "<i>lost</i>␇"])
    assert not any(mark in html for mark in ("<script", "<b>t</b>", "<i>lost", "\x07"))


def test_places_on_the_page_that_are_pointed_to_are_there_once():
    page = page_of(made_rows(["ppo", "grpo"], ["a", "b"], num_seeds=2))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for _, a in page.tags if "href" in a} <= set(ids)


def test_a_page_is_written_whole_and_nothing_else(tmp_path):
    rows = made_rows(["ppo"], num_seeds=1)
    path = write_page(summarise(rows), rows, tmp_path / "new" / "report.html")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.read_text("utf-8") == render(summarise(rows), rows)


@pytest.mark.slow
def test_the_whole_zoo_on_six_tasks_stays_below_three_megabytes():
    rows = made_rows([f"algorithm_{i}" for i in range(23)], "abcdef", num_seeds=10, num_points=11)
    assert len(render(summarise(rows), rows).encode()) < 3e6


# -- tables ------------------------------------------------------------------------------------


def test_a_tasks_table_has_the_summarys_numbers():
    rows = made_rows(["ppo", "grpo", "dqn"], num_seeds=4, proxy=True)
    rows[-1] = failed(rows[-1])
    (lines,) = summarise(rows).tasks.values()
    heads, *body = page_of(rows).titled("algorithm", "mean")
    assert len(body) == len(lines)
    columns = [head[0] for head in heads]
    for line, cells in zip(lines, body, strict=True):
        shown = {name: cell[0] for name, cell in zip(columns, cells, strict=True)}
        assert shown["algorithm"] == line.algorithm
        for name, value in (
            ("mean", line.mean.value), ("of range", line.share.value), ("median", line.median),
            ("IQM", line.iqm.value), ("optimality gap", line.gap.value), ("KL", line.kl),
            ("score", line.score_at_kl.value), ("score-KL area", line.area.value),
            ("samples", line.samples_to_threshold), ("proxy", line.proxy), ("time", line.seconds),
            ("memory", line.memory / 2**20),
        ):  # fmt: skip
            assert is_shown(value, shown[name]), (name, value, shown[name])
        low, high = cells[columns.index("mean")][1].split(" to ")
        assert is_shown(line.mean.low, low)
        assert is_shown(line.mean.high, high)
    assert body[-1][columns.index("runs")] == ["4", "1 failed"]


def test_columns_that_nobody_has_are_left_out():
    heads = page_of(minimal(made_rows(["ppo", "grpo"]))).titled("algorithm", "mean")[0]
    assert [head[0] for head in heads] == [
        "algorithm", "mean", "of range", "median", "IQM", "optimality gap", "runs",
    ]  # fmt: skip


def test_the_aggregate_table_counts_runs_and_failures_of_all_tasks():
    rows = made_rows(["ppo", "grpo"], ["a", "b"])
    rows[0] = failed(rows[0])
    summary = summarise(rows)
    _, *body = Page(render(summary, rows)).titled("algorithm", "IQM")
    for found, cells in zip(summary.aggregates, body, strict=True):
        assert cells[0] == [found.algorithm]
        assert is_shown(found.iqm.value, cells[1][0])
        assert cells[-1] == (["6", "1 failed"] if found.num_failed else ["6"])


def test_the_matrix_has_every_pair_and_marks_verdicts_by_more_than_shades():
    rows = made_rows(["ppo", "grpo", "dqn"], num_seeds=5)
    summary = summarise(rows)
    heads, *body = next(t for t in Page(render(summary, rows)).tables if t[0][0] == [])
    names = [head[0] for head in heads[1:]]
    assert names == [found.algorithm for found in summary.aggregates]
    for (x,), *cells in body:
        for y, cell in zip(names, cells, strict=True):
            if x == y:
                assert cell == []
                continue
            pair = summary.pairs[x, y]
            marks = {"better": ["▲"], "worse": ["▼"], "not told apart": []}
            assert is_shown(pair.probability.value, cell[0])
            assert cell[1:] == marks[pair.verdict]


def test_failures_are_told_with_reasons_and_the_same_reason_once():
    rows = made_rows(["ppo", "grpo"])
    rows[0], rows[2] = failed(rows[0]), failed(rows[2])
    rows[4]["score"] = float("nan")
    text = page_of(rows).text
    assert "ppo, seeds 0, 2: ZeroDivisionError: no <third> update" in text
    assert "grpo, seed 1: its score is not finite" in text


def test_options_are_told_with_who_chose_them():
    rows = made_rows(["ppo", "grpo"], num_seeds=1)
    rows[1]["chosen"] = {"task": {}, "given": {"gamma": 1.0}, "tuned": {"clip_range": 0.2}}
    text = page_of(rows).text
    for option in (
        "learning_rate 0.1 (of the task)", "clip_range 0.2 (its default)",
        "gamma 1.0 (given)", "clip_range 0.2 (tuned)",
    ):  # fmt: skip
        assert option in text


# -- words -------------------------------------------------------------------------------------


def test_the_best_is_named_with_whom_it_is_told_apart_from():
    words = told(made_rows(["ppo", "grpo", "dqn"], num_seeds=6))
    assert "On chain ppo has the highest mean: 0.9" in words
    assert "ppo is called better than dqn and grpo." in words
    assert "3 of the 3 pairs" in words


def test_runs_that_are_too_few_for_any_difference_are_said_to_be():
    words = told(made_rows(["ppo", "grpo"], num_seeds=3))
    assert "The two algorithms are not told apart" in words
    assert "no proof that they are equal: with 3 runs each the test can find no difference" in words


def test_what_failed_and_what_was_not_run_is_said():
    rows = made_rows(["ppo", "grpo"], ["a", "b"])[:-2]
    rows[0] = failed(rows[0])
    words = told(rows)
    assert "10 runs; 1 failed and count as the least of the range: ppo on a (1)." in words
    assert "Run on fewer seeds than others: grpo on b (1 of 3)." in words
    assert "Not run: grpo on b." in told(made_rows(["ppo", "grpo"], ["a", "b"])[:9])


def test_how_options_were_chosen_is_said():
    rows = made_rows(["ppo", "grpo"], num_seeds=1)
    assert "the same for everyone who has them: learning_rate" in told(rows)
    assert "Nothing was tuned." in told(rows)
    rows[0]["tuning"] = {"grid": {"learning_rate": [0.1, 1]}, "seeds": [7, 8], "tried": []}
    rows[1]["chosen"]["given"] = {"gamma": 1.0}
    words = told(rows)
    assert "tuned for ppo: learning_rate in 0.1, 1, by the best mean over 2 seeds" in words
    assert "given by hand: grpo.gamma" in words
    assert "Nothing was tuned" not in words
    assert "do not say how options were chosen" in told(minimal(rows))


def test_over_optimisation_is_said_where_the_proxy_rises_and_the_score_falls():
    assert "the proxy, the reward learned from, kept rising" in told(made_rows(["ppo"], proxy=True))
    assert "proxy" not in told(made_rows(["ppo"]))


# -- charts ------------------------------------------------------------------------------------


def test_learning_curves_go_by_the_budgets_unit():
    for unit, word in (
        ("samples", "responses"),
        ("tokens", "response tokens"),
        ("seconds", "seconds"),
    ):
        rows = made_rows(["ppo"], unit=unit)
        labels = re.findall(r'class="axis"[^>]*>([^<]*)<', render(summarise(rows), rows))
        assert labels[0] == word


def test_every_algorithm_has_a_look_of_its_own_up_to_thirty_two():
    summary = summarise(minimal(made_rows([f"a{i:02}" for i in range(32)], num_seeds=1)))
    assert len(set(looks(summary).values())) == 32


def test_charts_beyond_eight_algorithms_say_how_many_are_grey():
    page = page_of(made_rows([f"a{i}" for i in range(10)], num_seeds=1))
    assert page.text.count("2 others") == 2  # learning curves, score by KL


def test_runs_measured_at_other_places_are_interpolated_where_both_have_been():
    found = band([(np.array([0.0, 2.0, 4.0]), np.array([0.0, 2.0, 4.0])),
                  (np.array([1.0, 3.0]), np.array([11.0, 13.0]))])  # fmt: skip
    assert found.x.tolist() == [1.0, 2.0, 3.0]
    assert found.mean.tolist() == [6.0, 7.0, 8.0]
    assert found.low.tolist() == [1.0, 2.0, 3.0]  # of two runs, one drawn twice
    assert found.high.tolist() == [11.0, 12.0, 13.0]


def test_a_single_run_has_a_curve_and_no_interval():
    (line,) = summarise(made_rows(["ppo"], num_seeds=1)).tasks["chain"]
    found = learning_band(line, "samples")
    assert found.mean.tolist() == [point["score"] for point in line.rows[0]["curve"]]
    assert np.isnan(found.low).all()


def test_the_frontier_never_falls_and_keeps_what_a_shorter_run_had():
    rows = made_rows(["ppo"], num_seeds=2)
    points = [[(0, 0.1), (1, 0.5), (2, 0.3)], [(0, 0.1), (4, 0.9)]]
    for row, pairs in zip(rows, points, strict=True):
        row["curve"] = [{"samples": i, "kl": k, "score": s} for i, (k, s) in enumerate(pairs)]
    (line,) = summarise(rows).tasks["chain"]
    found = frontier_band(line)
    assert found.x.tolist() == [0, 1, 2, 4]
    assert found.mean == pytest.approx([0.1, 0.3, 0.3, 0.7])


def test_the_true_score_is_paired_with_the_proxy_at_the_same_place():
    (line,) = summarise(made_rows(["ppo"], num_seeds=2, proxy=True)).tasks["chain"]
    found = proxy_path(line, "samples")
    points = zip(*(row["curve"] for row in line.rows), strict=True)
    pairs = [[np.mean([p[n] for p in at]) for n in ("proxy", "score")] for at in points]
    assert np.stack([found.x, found.mean], axis=1) == pytest.approx(np.array(pairs))
