"""The registry of published tables: it loads, comes from the shared file, and refuses files that are wrong."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from peftbench.errors import UserError
from peftbench.report.published import load
from peftbench.report.published.arrange import Printed
from peftbench.report.published.parts import PARTS, targets
from tests.support.published_results import GOLDEN
from tools import published as tool
from tools.published_protocols import LEFT_OUT, TAKEN

FOLDER = Path(load.__file__).parent


@pytest.fixture(scope="module")
def shared_file(real_data) -> Path:
    path = real_data.parent / "published_tables.yaml"
    if not path.exists():
        pytest.skip("no published_tables.yaml on this machine (set PEFTBENCH_SHARED_DATA)")
    return path


def test_every_published_table_loads_and_is_used_by_a_layout():
    used = {source.table for layout in load.layouts().values() for source in layout.published}
    assert set(load.tables()) == set(TAKEN) == used
    assert len(load.layouts()) == 12
    for name, table in load.tables().items():
        assert (FOLDER / "tables" / f"{name}.yaml").exists()
        assert table.url.startswith("https://")
        assert table.read
        assert any(row.values for row in table.rows)


def test_the_registry_is_what_the_tool_makes_of_the_shared_file(shared_file):
    made = tool.registry(shared_file)
    assert {name: (tool.TABLES / name).read_text(encoding="utf-8") for name in made} == made
    assert not {path.name for path in tool.TABLES.glob("*.yaml")} - set(made)


def test_every_table_of_the_shared_file_is_taken_or_left_out_for_a_reason(shared_file):
    given = {table["id"] for table in yaml.safe_load(shared_file.read_text(encoding="utf-8"))["tables"]}
    assert given == {*TAKEN} ^ {*LEFT_OUT}
    assert all(len(reason.split()) > 1 or reason == "second-hand" for reason in LEFT_OUT.values())


def test_recomputed_averages_are_those_that_the_shared_file_lists(shared_file):
    listed = yaml.safe_load(shared_file.read_text(encoding="utf-8"))["average_checks"]["mismatches"]
    wanted = {(one["table"], one["row"], one.get("r"), one["recomputed"]) for one in listed if one["table"] in TAKEN}
    found = {
        (table.id, one.row.label or one.row.method, one.row.settings.get("rank"), round(one.recomputed, 2))
        for table in load.tables().values()
        for one in load.mismatches(table)
    }
    assert found == wanted
    assert len(found) == 4


def test_a_printed_average_that_follows_from_its_cells_is_no_mismatch():
    assert load.mismatches(load.tables()["llm_adapters_math"]) == ()
    (first, *_) = load.mismatches(load.tables()["dora_commonsense"])
    assert first.words == "llama-7b lora rank 8: average printed as 40.7, cells give 40.76"


def test_no_row_is_labelled_with_a_key_of_the_registry():
    for layout in load.layouts().values():
        for source in layout.published:
            for row in load.tables()[source.table].rows:
                one = Printed(source, load.tables()[source.table], row, None, None, None, None, 0)
                assert "_" not in one.label, layout.name


def test_no_number_of_a_table_is_typed_into_a_layout():
    printed = {
        f"{value:g}"
        for table in load.tables().values()
        for row in table.rows
        for value in row.values.values()
        if value % 1
    }
    for layout in load.layouts().values():
        assert not printed & set(re.findall(r"\d+\.\d+", layout.note)), layout.name


def test_a_recalled_or_transcribed_row_is_marked():
    assert tool.hand("secondary: literal transcription") == "secondary"
    assert tool.hand("issue") == "secondary"
    assert tool.hand("paper text (a conversion held in a public repository)") == "conversion"
    assert tool.hand("from memory") == "memory"
    assert tool.hand("README text (stored copy)") == "primary"
    assert load.tables()["qlora2023_t3_16bit_parity"].hand == "secondary"
    rows = load.tables()["metamath100k_llama2_7b_reports"].rows
    assert any(row.from_prior_work for row in rows)
    assert {row.hand for row in rows} == {"secondary", "primary"}


def test_names_of_target_modules_are_the_same_however_they_are_spelled():
    assert targets("query,value") == targets(["q_proj", "v_proj"]) == targets(["c_attn.q", "c_attn.v"])
    assert PARTS["target_modules"].same("all linear", "q,k,v,o,gate,up,down")
    assert not PARTS["target_modules"].same("all linear", "q,v")
    assert targets("attention") == {"q", "k", "v", "o"}


def bad(change, record, tmp_path) -> str:
    """Return the message about a file of the registry with a change."""
    kind, name = record
    content = copy.deepcopy(yaml.safe_load((FOLDER / kind / f"{name}.yaml").read_text(encoding="utf-8")))
    change(content)
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        (load.table_from if kind == "tables" else load.layout_from)(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


TABLE, LAYOUT = ("tables", "lora2021_t3_e2e"), ("layouts", "lora-t3")


@pytest.mark.parametrize(
    ("record", "change", "said"),
    [
        (TABLE, lambda c: c.pop("url"), "url: Field required"),
        (TABLE, lambda c: c["rows"][0].update(lable="x"), "lable: "),
        (TABLE, lambda c: c["rows"][0]["values"].update(BLEU="high"), "rows.0.values.BLEU: Input should be"),
        (TABLE, lambda c: c["rows"][0]["values"].update(BLUE=1.0), "unknown column 'BLUE'; did you mean 'BLEU'?"),
        (TABLE, lambda c: c["rows"][0].update(method="lorra"), "unknown method 'lorra'; did you mean"),
        (TABLE, lambda c: c["rows"][0].update(base="gpt2-medum"), "unknown base model 'gpt2-medum'; did you mean"),
        (TABLE, lambda c: c["rows"][0].update(settings={"rnk": 4}), "unknown setting 'rnk'; did you mean 'rank'?"),
        (TABLE, lambda c: c["protocol"][0]["settings"].update(seed_s=3), "unknown part 'seed_s'; did you mean"),
        (TABLE, lambda c: c["protocol"][0]["of"].update(bas=3), "unknown field of a row 'bas'; did you mean 'base'?"),
        (TABLE, lambda c: c.update(average={"column": "Avg", "over": ["BLEU"]}), "average: unknown column 'Avg'"),
        (LAYOUT, lambda c: c["published"][0].update(table="lora2021_t3"), "unknown table 'lora2021_t3'; did you mean"),
        (LAYOUT, lambda c: c["published"][0].update(columns={"BLEU": "BLUE"}), "unknown printed column 'BLUE'"),
        (LAYOUT, lambda c: c["published"][0].update(scale={"X": 2.0}), "unknown column 'X'"),
        (LAYOUT, lambda c: c["columns"][0].update(mean_of=["NIST"]), "BLEU: give one of task, quantity and mean_of"),
        (LAYOUT, lambda c: c["columns"][0].update(metrics=[]), "BLEU: metrics is missing"),
        (LAYOUT, lambda c: c["columns"][0].update(needs=["lr"]), "needs: unknown part 'lr'"),
        (LAYOUT, lambda c: c["columns"].append({"key": "mean", "mean_of": ["BLUE"]}), "mean_of: unknown column 'BLUE'"),
        (LAYOUT, lambda c: c.update(rows=["bace"]), "rows.0: Input should be 'task', 'base'"),
        (LAYOUT, lambda c: c.update(rows=["base"]), "rows: given base; allowed: method and others, each once"),
        (LAYOUT, lambda c: c.update(rows=["method", "method"]), "rows: given method, method; allowed: "),
        (LAYOUT, lambda c: c["columns"].append(c["columns"][0]), "columns: BLEU is given twice"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_key(tmp_path, record, change, said):
    assert said in bad(change, record, tmp_path)


def test_a_file_that_is_no_yaml_or_is_absent_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    with pytest.raises(UserError, match=r"x\.yaml cannot be read: No such file"):
        load.layout(str(path))
    path.write_text("a: [1", encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.yaml is not YAML: "):
        load.layout(str(path))
    path.write_text("!!python/object/apply:os.system ['true']", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not YAML: could not determine a constructor"):
        load.layout(str(path))


def test_the_wheel_has_every_file_of_the_registry():
    project = tomllib.loads((Path(tool.ROOT) / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["peftbench.report.published"]
    packed = {path for pattern in patterns for path in FOLDER.glob(pattern)}
    assert packed == {path for path in FOLDER.rglob("*") if path.suffix == ".yaml"}
    assert len(packed) == len(load.tables()) + len(load.layouts()) + 1


def test_every_layout_has_a_golden_table():
    assert {path.stem for path in GOLDEN.glob("*.md")} == set(load.layouts())
