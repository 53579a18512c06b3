"""Figures for print: every file has its size and its fonts, what cannot be drawn is said, and marks differ in grey."""

from __future__ import annotations

import importlib
import itertools
import re
import warnings
import zlib
from pathlib import Path
from unittest import mock

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from peftbench import cli
from peftbench.records import Category
from peftbench.report import collect
from peftbench.report.figures import FIGURES, canvas, writing
from peftbench.results import store
from tests.support.results_factory import make_result

RANKED = (("fp32", 2, 0.70), ("fp32", 8, 0.85), ("bf16", 8, 0.84), ("bf16", 2, 0.69))


def ledger(peak: int) -> dict[str, int]:
    parts = {category.column: peak // len(Category) for category in Category}
    return parts | {"peak_train_bytes": sum(parts.values())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cells of two ranks, two precisions and three learning rates, with two seeds, an untuned base and a failure."""
    place = tmp_path_factory.mktemp("figures") / "results"
    for seed in (0, 1):
        for precision, rank, score in RANKED:
            store.write(
                place,
                make_result(
                    f"lora r={rank} {precision}",
                    "lora",
                    precision,
                    rank,
                    seed,
                    scores={"judge": score + seed / 50},
                    examples=0,
                    trainable_parameters=1000 * rank,
                    named_settings="",
                    **ledger(rank * 10**6),
                ),
            )
        for rate in (1e-3, 3e-3, 1e-2):
            name = f"lr={rate:g}"
            store.write(
                place,
                make_result(
                    f"full {name} fp32",
                    "full",
                    "fp32",
                    None,
                    seed,
                    scores={"judge": 0.5 + 20 * rate},
                    examples=0,
                    learning_rate=rate,
                    named_settings=name,
                    trainable_parameters=10**6,
                    **ledger(9 * 10**7),
                ),
            )
    store.write(place, make_result("base fp32", "base", "fp32", None, None, scores={"judge": 0.2}, examples=0))
    store.write(place, make_result("adapter r=8 fp32", "adapter", "fp32", 8, 0, status="oom", named_settings=""))
    return place


WRITTEN = ("rank_curves", "memory_ledger")
"""Figures whose files are looked at by default: laying out and writing all takes ten seconds of CPU time."""


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    some = tuple(figure for figure in FIGURES if figure.name in WRITTEN)
    with mock.patch.object(writing, "FIGURES", some):
        return {one.figure.name: one for one in writing.write(collect.collect(folder), out)}


def plan(name, results):
    return importlib.import_module(f"peftbench.report.figures.{name}").plan(results)


def drawn(planned, width=3.3):
    with mpl.rc_context(canvas.SETTINGS):
        figure = Figure(figsize=(width, planned.height(width)))
        FigureCanvasAgg(figure)
        planned.draw(figure, width)
    return figure


def assert_files(one):
    assert one.reason is None, one.reason
    widths = [f"{one.figure.name}_{width}in.{suffix}" for width in (3.3, 6.8) for suffix in ("pdf", "png")]
    assert [path.name for path in one.files] == widths
    assert all(path.stat().st_size > 5_000 for path in one.files)


def test_a_figure_is_written_in_both_widths_and_formats(made):
    assert set(made) == set(WRITTEN)
    for one in made.values():
        assert_files(one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "nano_grid", "nano_tuning", "peft_zoo"])
def test_every_figure_of_committed_results_fits_its_page(name, tmp_path):
    reference = Path(__file__).parents[2] / "results" / "reference" / name
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns if axes have no room left
        made = list(writing.write(collect.collect(reference), tmp_path))
    assert [one.figure for one in made] == list(FIGURES)
    for one in made:
        if one.reason is None:
            assert_files(one)
        else:
            assert re.match("no |another", one.reason), one.reason


def test_sizes_are_those_of_a_column_and_of_a_page(made):
    for one in made.values():
        for path in one.files:
            width = float(re.search(r"_([\d.]+)in", path.name)[1])
            if path.suffix == ".png":
                assert Image.open(path).width == round(300 * width)
            else:
                box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", path.read_bytes())
                assert float(box[1]) == pytest.approx(72 * width)


def test_fonts_are_embedded_as_truetype(made):
    for one in made.values():
        content = next(path for path in one.files if path.suffix == ".pdf").read_bytes()
        assert b"/FontFile2" in content
        assert b"/Type3" not in content
        assert b"DejaVuSans" in content


def test_the_same_results_make_the_same_file(folder, made, tmp_path):
    planned = plan("rank_curves", collect.collect(folder))
    again = next(iter(writing._files(planned, tmp_path, "rank_curves")))
    assert zlib.crc32(again.read_bytes()) == zlib.crc32(made["rank_curves"].files[0].read_bytes())


def test_error_bars_notes_and_units_say_what_is_shown(folder):
    planned = plan("score_memory", collect.collect(folder))
    text = " ".join(planned.notes)
    assert "Bars: standard deviation over 2 seeds." in text
    assert "Not shown (1 oom): bottleneck adapter r=8." in text
    assert "there are no tests" in text
    (axes,) = drawn(planned).axes
    assert axes.get_xlabel() == "peak memory of a training step (MiB)"
    assert axes.get_ylabel() == "judge (%)"
    assert axes.get_xscale() == "log", "from 2 to 90 MB"
    bars = [container for container in axes.containers if container.has_yerr]
    assert len(bars) == len(RANKED) + 3


def test_parameters_are_on_a_logarithmic_axis_with_labels(folder):
    figure = drawn(plan("score_parameters", collect.collect(folder)))
    (axes,) = figure.axes
    figure.canvas.draw()
    low, high = axes.get_xlim()
    labels = [t.get_text() for t in axes.get_xticklabels() if low <= t.get_position()[0] <= high]
    assert axes.get_xscale() == "log"
    assert len([text for text in labels if text]) >= 2


def test_lines_join_only_what_differs_in_the_rank_or_the_rate(folder):
    results = collect.collect(folder)
    panels = drawn(plan("rank_curves", results), 6.8).axes
    assert [axes.get_title() for axes in panels] == ["fp32", "bf16"]
    assert [list(axes.lines[0].get_xdata()) for axes in panels] == [[2, 8], [2, 8]]
    (axes,) = drawn(plan("learning_rates", results)).axes
    assert list(axes.lines[0].get_xdata()) == [1e-3, 3e-3, 1e-2]
    assert axes.get_xscale() == "log"


def test_the_ladder_has_the_rank_with_the_highest_score_and_qlora_is_loras_lowest_step(tmp_path):
    for name, method, precision in (("lora r=8 fp32", "lora", "fp32"), ("qlora r=8 nf4", "qlora", "nf4")):
        made = make_result(name, method, precision, 8, 0, scores={"judge": 0.8}, examples=0, named_settings="")
        store.write(tmp_path / "r", made)
    score, memory = drawn(plan("precision_ladder", collect.collect(tmp_path / "r"))).axes
    assert [text.get_text() for text in score.get_xticklabels()] == ["fp32", "nf4"]
    assert score.get_legend_handles_labels()[1] == ["LoRA / QLoRA r=8"]
    assert "MiB" in memory.get_ylabel() or "KiB" in memory.get_ylabel()


def test_the_ledgers_bars_are_the_peaks_and_told_apart_by_hatches(folder):
    figure = drawn(plan("memory_ledger", collect.collect(folder)))
    (axes,) = figure.axes
    ends = [max(patch.get_x() + patch.get_width() for patch in axes.patches)]
    assert ends == [pytest.approx(8 * (9 * 10**7 // 8) / 2**20)]
    bars = [container.patches[0] for container in axes.containers]
    looks = [(bar.get_hatch(), bar.get_facecolor()) for bar in bars]
    assert all(one[0] != other[0] for one, other in itertools.pairwise(looks)), "neighbours differ in grey"


def test_marks_differ_without_colour():
    found = canvas.marks([f"method{i}" for i in range(10)])
    assert len({mark.marker for mark in found.values()}) == 10
    many = canvas.marks([f"method{i}" for i in range(40)])
    alone = [mark.marker for mark in many.values() if mark.marker != "."]
    assert len(set(alone)) == len(alone) == canvas.MOST_KINDS
    assert canvas.legend_name("method39", many) == "other methods (31)"


def test_what_cannot_be_drawn_is_said(tmp_path, capsys):
    store.write(tmp_path / "r", make_result(scores={"judge": 0.5}, examples=0, trainable_parameters=None))
    assert cli.main(["report", str(tmp_path / "r"), "--figures", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "no cell's number of trainable parameters is known" in out
    assert "no method has a score at two ranks that differ in nothing else" in out
    assert "no method has a score at two precisions" in out
    assert "no learning rates were searched" in out
    assert out.count("written: ") + 4 * out.count("not drawn: ") == 4 * len(FIGURES)


def test_results_without_any_score_have_no_score_figures(tmp_path):
    store.write(tmp_path / "r", make_result(status="oom"))
    found = {one.figure.name: one.reason for one in writing.write(collect.collect(tmp_path / "r"), tmp_path / "out")}
    assert all(found.values())


def test_the_memory_of_imported_results_has_an_axis_of_its_own(tmp_path):
    theirs = make_result(
        scores={"judge": 0.5},
        examples=0,
        protocol=None,
        memory_kind="reserved_whole_run",
        peak_train_bytes=None,
        peak_run_reserved_bytes=22 * 2**30,
        **dict.fromkeys(category.column for category in Category),
    )
    store.write(tmp_path / "r", theirs)
    results = collect.collect(tmp_path / "r")
    (axes,) = drawn(plan("score_memory", results)).axes
    assert axes.get_xlabel() == "memory reserved over the whole run (GiB)"
    assert plan("memory_ledger", results) == "no cell's memory is known by category"
    assert "may join them" in plan("rank_curves", results)


@pytest.mark.parametrize("more", [["-o", "x.html"], ["--format", "text"], ["--table", "lora-t2"], ["--notes"]])
def test_options_of_the_page_are_refused_beside_figures(folder, tmp_path, capsys, more):
    assert cli.main(["report", str(folder), "--figures", str(tmp_path), *more]) == 2
    assert "--figures DIR: writes figures only" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["report", str(folder), "--figures", str(tmp_path / "file")]) == 2
    assert f"cannot write figures to {tmp_path / 'file'}" in capsys.readouterr().err


def test_figures_are_not_written_among_the_results_or_nowhere(folder, capsys):
    for place, said in ((folder / "trials" / "figures", "only results are stored there"), ("", "given an empty name")):
        assert cli.main(["report", str(folder), "--figures", str(place)]) == 2
        assert said in capsys.readouterr().err


def test_a_file_of_an_earlier_call_is_told_from_those_of_this_one(tmp_path, capsys):
    store.write(tmp_path / "r", make_result(status="oom"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rank_curves_3.3in.pdf").write_text("")
    assert cli.main(["report", str(tmp_path / "r"), "--figures", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("; rank_curves_3.3in.pdf is of an earlier call") == 1


def test_two_folders_have_a_folder_of_figures_each(tmp_path, capsys):
    for name in ("one", "two"):
        store.write(tmp_path / name, make_result(status="oom"))
    assert cli.main(["report", str(tmp_path / "one"), str(tmp_path / "two"), "--figures", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "two"}
    assert capsys.readouterr().out.count("not drawn") == 2 * len(FIGURES)
