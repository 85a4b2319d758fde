"""The figures of a benchmark for papers: which there are, and that they are the same every time."""

from __future__ import annotations

import copy
import warnings
import xml.etree.ElementTree as ET

import pytest
from benchmark.report_cases import failed, made_rows, minimal

from alignzoo.benchmark.figures import write_figures
from alignzoo.benchmark.summary import summarise

matplotlib = pytest.importorskip("matplotlib")

ALL = ["cost", "frontier", "improvement", "learning_curves", "profile"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def both(stems):
    return sorted(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg"))


@pytest.fixture(scope="module")
def rows():
    made = made_rows(["ppo", "grpo", "dqn"], num_seeds=2, num_points=3)
    made[-1] = failed(made[-1])
    return made


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    paths = write_figures(summarise(rows), rows, out)
    assert sorted(path.name for path in paths) == names(out)
    return out


def test_every_figure_is_written_as_png_of_200_dots_per_inch_and_as_svg(folder):
    assert names(folder) == both(ALL)
    for stem in ALL:
        data = (folder / f"{stem}.png").read_bytes()
        place = data.index(b"pHYs") + 4
        assert int.from_bytes(data[place : place + 4], "big") == 7874  # dots a metre
        assert ET.parse(folder / f"{stem}.svg").getroot().tag.endswith("svg")


def test_the_same_rows_give_the_same_bytes(rows, folder, tmp_path):
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30}):
        write_figures(summarise(rows), rows, tmp_path)
    for name in names(folder):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_settings_of_matplotlib_are_left_as_they_were(tmp_path):
    rows = minimal(made_rows(["ppo"], num_seeds=1))
    before = copy.deepcopy(dict(matplotlib.rcParams))
    write_figures(summarise(rows), rows, tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_what_nobody_measured_has_no_figure(tmp_path):
    rows = minimal(made_rows(["ppo", "grpo"]))
    write_figures(summarise(rows), rows, tmp_path)
    assert names(tmp_path) == both(["improvement", "profile"])


def test_names_are_drawn_as_they_are_without_a_warning(tmp_path):
    odd = ["_hidden", "$x^{$", "近端策略优化", "<b>&amp;</b>", "\x07\ud800"]
    rows = made_rows(odd, ["任务 $\\frac$"], num_seeds=2, num_points=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_figures(summarise(rows), rows, tmp_path)
    drawn = (tmp_path / "learning_curves.svg").read_text("utf-8")
    if "<text" in drawn:  # no font here has Chinese, so texts are left to who shows them
        texts = "".join(ET.fromstring(drawn).itertext())
        assert all(name in texts for name in odd[:4])
