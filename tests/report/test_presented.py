"""Columns and order that are asked for, display names, and warnings that come before a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from peftbench.errors import UserError
from peftbench.records import units
from peftbench.report import collect, publish, table
from peftbench.report.names import display_names, renamed
from peftbench.report.notes import voids
from peftbench.report.tables.presented import Choice, read_columns
from tests.support.results_factory import make_grid, make_result, store
from tools.docs import reference

QUICKSTART = reference.RESULTS / "quickstart"


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """A grid like the quickstart's, with an unsupported cell."""
    return make_grid(tmp_path_factory.mktemp("grid") / "r", steps=1, examples=4)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def chosen(folder: Path, columns: str, sort: str | None = None, form: str = "csv") -> str:
    return table(folder, form, Choice(read_columns(columns), sort))


def test_columns_are_those_that_are_asked_for_in_their_order(grid):
    assert list(rows(chosen(grid, "n,score,method"))[0])[:3] == ["seeds_ok", "seeds_run", "not_ok"]
    assert list(rows(chosen(grid, "n,score,method"))[0])[-1] == "method"
    text = chosen(grid, "cell,memory,judge", form="text")
    assert text.splitlines()[0].split() == ["cell", "peak", "judge"]
    md = chosen(grid, "Cell,peak train memory,score_judge_mean", form="md")
    assert md.startswith("| cell | peak train memory (MiB) | judge (%) |\n")
    tex = chosen(grid, "cell,mean", form="tex")
    assert r"\begin{tabular}{@{}lr@{}}" in tex


def test_a_column_has_many_names_but_one_meaning(grid):
    for names in (
        ("peak", "memory", "peak_train_memory", "Peak train memory", "peak_train_bytes_mean", "peak_train_bytes"),
        ("score", "mean", "mean over tasks"),
        ("train", "time", "train_time"),
        ("n", "seeds"),
        ("params", "trainable_parameters"),
    ):
        assert len({chosen(grid, name) for name in names}) == 1, names


def test_other_tables_and_stored_columns_can_be_joined():
    text = chosen(QUICKSTART, "cell,forgetting,wall_seconds,learning_rate", form="text")
    heads = text.splitlines()
    assert heads[0].split() == ["cell", "forgetting", "wall", "seconds", "learning", "rate"]
    assert heads[1].split() == ["nats/token", "s"]
    full = next(line for line in heads if line.startswith("full fine-tuning fp32"))
    cells = {cell.name: cell for cell in collect.collect(QUICKSTART).cells}
    walls = {name: cells[name].trials["wall_seconds"].mean() for name in ("full fp32", "base fp32")}
    assert full.split()[-3:] == ["+0.353", f"{walls['full fp32']:.2f}", "5.0e-04"]
    base = next(line for line in heads if line.startswith("untuned base"))
    assert base.split()[2:] == [units.MISSING, f"{walls['base fp32']:.2f}", units.MISSING]
    exact = {row["cell"]: row["forgetting"] for row in rows(chosen(QUICKSTART, "cell,forgetting"))}
    assert float(exact["full fp32"]) == pytest.approx(0.353, abs=5e-4)


def test_only_the_first_table_is_printed_with_chosen_columns():
    assert "forgetting" in table(QUICKSTART, "text")
    assert "forgetting" not in chosen(QUICKSTART, "cell,mean", form="text").split("─")[0]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("score", "score_mean_over_tasks_mean"),
        ("speed", "tokens_per_second_mean"),
        ("memory", "peak_train_bytes_mean"),
        ("params", "trainable_parameters"),
        ("wall_seconds", "wall_seconds_mean"),
    ],
)
def test_rows_are_sorted_with_the_best_first_and_unknown_ones_last(grid, column, values):
    found = rows(chosen(grid, f"cell,{column}", column))
    cells = [row for row in found if row["cell"] not in ("majority", "chance")]
    assert [row["cell"] for row in found[len(cells) :]] == [
        r["cell"] for r in found if r["cell"] in ("majority", "chance")
    ]
    known = [float(row[values]) for row in cells if row[values]]
    assert len(known) >= 13
    assert known == sorted(known, reverse=column in ("score", "speed"))
    assert all(not row[values] for row in cells[len(known) :])


def test_the_order_does_not_depend_on_whether_the_column_is_shown(grid):
    names = [row["cell"] for row in rows(chosen(grid, "cell,memory", "memory"))]
    assert [row["cell"] for row in rows(chosen(grid, "cell", "memory"))] == names
    plain = [row["cell"] for row in rows(table(grid, "csv"))]
    assert [row["cell"] for row in rows(chosen(grid, "cell", "cell"))] == plain
    assert sorted(names) == sorted(plain)


def test_a_score_that_is_a_loss_is_sorted_the_other_way(tmp_path):
    made = [make_result(f"lora r={rank} fp32", rank=rank, scores={"text": bits}) for rank, bits in ((2, 0.9), (4, 0.5))]
    folder = store(tmp_path / "r", *made, tasks=("text",))
    assert [row["rank"] for row in rows(chosen(folder, "cell,text", "text"))][:2] == ["2", "4"]
    import json
    from dataclasses import replace

    lower = []
    for one in made:
        scores = json.loads(one.row.scores_json)
        scores["text"]["metric"] = "bits_per_byte"
        lower.append(replace(one, row=replace(one.row, scores_json=json.dumps(scores))))
    folder = store(tmp_path / "lower", *lower, tasks=("text",))
    assert [row["rank"] for row in rows(chosen(folder, "cell,text", "text"))][:2] == ["4", "2"]


@pytest.mark.parametrize(
    ("columns", "sort", "parts"),
    [
        (
            "cell,peek",
            None,
            ["--columns: unknown column 'peek'; did you mean 'peak_train_memory'? allowed: cell, describe"],
        ),
        ("cell", "forgeting", ["--sort: unknown column 'forgeting';"]),
        ("cell", "scroe", ["--sort: unknown column 'scroe'; did you mean 'score'?", "a number in results/README.md"]),
        ("suite", None, ["--columns: unknown column 'suite'"]),
        ("cell,,n", None, ["--columns: given 'cell,,n'; allowed: names of columns with commas between them"]),
        ("", None, ["--columns: given ''"]),
        ("n,cell,n", None, ["--columns: 'n' is given twice"]),
    ],
)
def test_a_wrong_column_is_refused_with_the_nearest_name(grid, columns, sort, parts, tmp_path):
    with pytest.raises(UserError) as raised:
        chosen(grid, columns, sort)
    assert all(part in str(raised.value) for part in parts), raised.value
    target = tmp_path / "page.html"
    with pytest.raises(UserError):
        publish(grid, target, "html", Choice(read_columns(columns), sort))
    assert not target.exists()


@pytest.mark.parametrize(
    ("form", "choice", "notes", "part"),
    [
        ("ranks", Choice(sort="peak"), False, "--columns and --sort: allowed with any format but ranks"),
        ("csv", None, True, "--notes: allowed with any format that has notes; csv has none"),
        ("ranks", None, True, "ranks has none"),
    ],
)
def test_an_option_that_a_format_has_no_use_for_is_refused(grid, form, choice, notes, part):
    with pytest.raises(UserError, match=part):
        table(grid, form, choice, notes)


def test_all_notes_stand_under_the_short_table_where_they_are_asked_for(grid):
    short, long = table(grid, "brief"), table(grid, "brief", all_notes=True)
    text = " ".join(table(grid, "text").split())
    last = " ".join(long.split("─")[-1].split())
    assert len(last) > 2 * len(short.split("─")[-1])
    assert last[:200] in text


def test_names_are_those_of_readers_and_raw_values_are_exact(grid):
    for form in ("text", "md", "tex"):
        text = table(grid, form)
        assert "LoRA r=8 bf16" in text
        assert "lora r=8" not in text.replace("qlora", "")
        assert "QLoRA r=8 nf4" not in text, "nf4 is all there is, and what QLoRA means"
        assert "prompt tuning r=20" in text
    cells = [row["cell"] for row in rows(table(grid, "csv"))]
    assert "prompt_tuning r=20 fp32" in cells
    assert "qlora r=8 nf4" in cells


def test_a_precision_is_named_where_a_method_has_several_or_not_its_default(tmp_path):
    def names(*cells: str) -> list[str]:
        made = [make_result(c, c.split()[0], c.split()[-1], 8 if "r=8" in c else None) for c in cells]
        found = collect.collect(store(tmp_path / str(len(list(tmp_path.iterdir()))), *made))
        return [display_names(found.cells)[cell] for cell in cells]

    assert names("lora r=8 fp32", "full fp32") == ["LoRA r=8", "full fine-tuning"]
    assert names("lora r=8 fp32", "lora r=8 bf16", "full fp32") == [
        "LoRA r=8 fp32",
        "LoRA r=8 bf16",
        "full fine-tuning",
    ]
    assert names("lora r=8 bf16", "qlora r=8 nf4") == ["LoRA r=8 bf16", "QLoRA r=8"]
    assert names("lora r=8 dropout=0.1 lr=0.01 fp32") == ["LoRA r=8 dropout=0.1 lr=0.01"]
    assert names("peft VERA r=8 fp32") == ["peft VERA r=8"]
    assert names("mine r=8 fp32") == ["mine r=8 fp32"], "a method that is not installed keeps its name and precision"


def test_names_in_sentences_are_replaced_as_wholes():
    names = {"lora r=8 fp32": "LoRA r=8", "lora r=8 fp32-x": "x", "qlora r=8 fp32": "Q", "full fp32": "full fp32"}
    assert renamed("lora r=8 fp32 and (lora r=8 fp32), qlora r=8 fp32.", names) == "LoRA r=8 and (LoRA r=8), Q."
    assert renamed("lora r=8 fp32-x, xlora r=8 fp32, lora r=8 fp32s", names) == "x, xlora r=8 fp32, lora r=8 fp32s"
    assert renamed("full fp32", {}) == "full fp32"


def test_what_makes_numbers_void_comes_first_in_one_line_each(tmp_path):
    busy = {"train_waiting_seconds": 1.0, "train_seconds": 1.0, "threads": 2}
    made = [
        make_result("full fp32", "full", rank=None, scores={"judge": 0.25}, examples=4, **busy),
        make_result("lora r=8 fp32", scores={"judge": 0.75}, examples=4, **busy),
    ]
    folder = store(tmp_path / "r", *made)
    lines = table(folder, "brief").splitlines()
    assert lines[:2] == [
        "Warning: busy machine, the times of 2 of 2 trials are unreliable (up to 50 % waiting for a CPU).",
        "Warning: judge, not above majority (28.0): full fine-tuning (25.0).",
    ]
    assert lines[2].split()[0] == "cell"
    worse = store(
        tmp_path / "w", make_result(scores={"judge": 0.2}), make_result("full fp32", "full", scores={"judge": 0.1})
    )
    assert voids.warnings(collect.collect(worse)) == (
        "Warning: judge: no cell is above majority (28.0); the best, LoRA r=8, has 20.0.",
    )
    many = [make_result(f"lora r={rank} fp32", rank=rank, scores={"judge": 0.2}) for rank in range(1, 40)]
    found = voids.warnings(collect.collect(store(tmp_path / "m", *many, make_result("full fp32", "full", rank=None))))
    assert found[0].startswith("Warning: judge, not above majority (28.0): LoRA r=1 (20.0), ")
    assert found[0].endswith(" more.")
    assert len(found[0]) <= 100


def test_a_good_table_has_no_warning(tmp_path):
    assert voids.warnings(collect.collect(store(tmp_path / "r", make_result()))) == ()


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0"), (1e-5, "<1"), (0.0099, "<1"), (0.01, "1"), (0.744, "74"), (0.99, "99"), (0.996, ">99"), (1.0, "100")],
)
def test_a_probability_is_written_as_on_the_page(share, text):
    assert units.chance(share) == text
