"""Data files as people have them: compressed, encoded, delimited and quoted in many ways, with nulls of each format."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from peftbench.errors import UserError
from peftbench.records import Task
from peftbench.tasks import files, read
from peftbench.tasks.formats.records import Records
from peftbench.tasks.formats.whole_numbers import restored

CSV = "text,label\nx,a\ny,b\n"
ROWS = [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]


@pytest.fixture
def found(tmp_path):
    """Write a file and return what reading it gives."""

    def reading(name: str, content: str | bytes, **settings: object) -> Records:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return files.read(Task("mine", "generation", **settings), path)

    return reading


def zstd(content: bytes, path: Path) -> bytes:
    with pyarrow.CompressedOutputStream(str(path), "zstd") as out:
        out.write(content)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.CSV", "a.csv.gz", "a.Csv.GZ", "a.csv.bz2", "a.csv.xz", "a.csv.zst"])
def test_a_compressed_file_and_a_suffix_in_upper_case_are_read(found, tmp_path, name):
    how = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(Path(name).suffix.lower(), bytes)
    content = zstd(CSV.encode(), tmp_path / "z") if name.endswith(".zst") else how(CSV.encode())
    assert found(name, content) == Records(ROWS, [2, 3], ())


def test_a_compression_that_the_name_does_not_say_is_a_note(found):
    assert found("a.csv", gzip.compress(CSV.encode())).notes == (
        "compressed as gz, although its name does not end in .gz",
    )
    assert found("a.csv.gz", CSV).notes == ("not compressed, although its name ends in .gz",)
    with pytest.raises(UserError, match=r"a\.csv\.gz cannot be read as csv: Compressed file ended"):
        found("a.csv.gz", gzip.compress(CSV.encode())[:20])
    with pytest.raises(UserError, match="a zip archive"):
        found("a.csv", b"PK\x03\x04...")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_decides_the_encoding(found, encoding):
    for given in (None, "cp1252"):
        read_ = found("a.csv", "text,label\ncafé,a\n".encode(encoding), encoding=given)
        assert read_.rows == [{"text": "café", "label": "a"}]
        assert bool(read_.notes) == (encoding != "utf-8-sig" or given is not None)


def test_bytes_whose_encoding_is_not_clear_are_refused_with_the_line_and_the_key(found):
    mixed = b"text,label\nx,a\n" + "café 5 £,a\n".encode("cp1252") + "café,a\ncafé,b\n".encode()
    with pytest.raises(UserError, match=r"a\.csv, line 3: byte 0xe9 is no text in utf-8; other lines are UTF-8"):
        found("a.csv", mixed)
    with pytest.raises(
        UserError, match=r"a\.csv, line 2: byte 0x81 is no text in cp1252; the key `encoding` is for all"
    ):
        found("a.csv", b"text,label\n\x81,a\n", encoding="cp1252")
    with pytest.raises(UserError, match=r"a\.csv, line 1: byte 0x89 is no text in utf-8; give the file's own encoding"):
        found("a.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")


@pytest.mark.parametrize(
    ("words", "encoding"),
    [("Die Käuferin fragte, ob die Größe stimmt", "mac_roman"), ("naïve", "cp850"), ("ТОВАР ПРИШЁЛ БЫСТРО", "cp1251")],
)
def test_a_guess_that_does_not_read_as_text_is_none(found, words, encoding):
    with pytest.raises(UserError, match="give the file's own encoding"):
        found("a.csv", f"text,label\n{words},a\n".encode(encoding))


WORDS = {
    "cp1252": "I don’t like the café, it costs 5 £",
    "cp1250": "Zażółć gęślą jaźń i wróć do domu",
    "cp1251": "Товар пришёл быстро и всё хорошо",
    "koi8-r": "Товар пришёл быстро и всё хорошо",
    "shift_jis": "商品はとても良かったです",
    "gb18030": "这个产品非常好",
    "utf-16-le": "café and more",
    "utf-16-be": "cafe and more",
}


@pytest.mark.parametrize("encoding", WORDS)
def test_the_encoding_of_a_file_that_is_no_utf8_is_found_out_and_told(found, encoding):
    text = f"text,label\n{WORDS[encoding]},a\n".replace(", it", " it")
    read_ = found("a.csv", text.encode(encoding))
    assert read_.rows == [{"text": text.splitlines()[1][:-2], "label": "a"}]
    assert read_.notes[0].startswith(f"not UTF-8; read as {encoding}, by its bytes")
    told = read_.notes[0].partition("with words like ")[2].partition(" (")[0].strip("'")
    assert told in text
    assert found("a.csv", text.encode(encoding), encoding=encoding).rows == read_.rows


def test_files_of_a_task_may_have_different_encodings(tmp_path):
    made = {"train": "utf-8", "validation": "utf-16", "test": "cp1252"}
    for split, encoding in made.items():
        (tmp_path / f"{split}.csv").write_bytes("text,label\nthe café is nice,è\n".encode(encoding))
    files = {split: str(tmp_path / f"{split}.csv") for split in made}
    task = Task("mine", "generation", files=files, prompt="{{ text }}", target="{{ label }}")
    for split in made:
        assert [(e.prompt, e.target) for e in read.examples(task, split)] == [("the café is nice", "è")]


def test_an_encoding_that_is_probably_wrong_and_lost_characters_are_notes(found):
    note = found("a.csv", "text,label\ncafé,a\n", encoding="cp1252").notes[0]
    assert "also valid UTF-8: is that the right encoding? Without the key, each file's own is found out" in note
    assert "U+FFFD" in found("a.csv", "text,label\ncaf\ufffd,a\n").notes[0]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_cells_may_be_of_any_size_and_the_limit_of_the_csv_module_stays(found, name):
    before = csv.field_size_limit()
    big = "x " * 200_000
    assert (
        found(name, CSV.replace("x,", f"{big},").replace(",", "," if name == "a.csv" else "\t")).rows[0]["text"] == big
    )
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "content", "rows", "note"),
    [
        ("a.csv", "text;label\nhallo, du;a\n", [("hallo, du", "a")], "delimiter: semicolon"),
        ("a.csv", "text\tlabel\nx, y\ta\n", [("x, y", "a")], "delimiter: tab"),
        ("a.csv", "text|label\nx|a\n", [("x", "a")], "delimiter: bar"),
        ("a.tsv", "text,label\nx,a\n", [("x", "a")], "delimiter: comma"),
        ("a.csv", "sep=;\ntext;label\nx;a\n", [("x", "a")], "its first line names the delimiter"),
        ("a.csv", 'text, label\n"hello, you", "a"\n', [("hello, you", "a")], "spaces after a delimiter are left out"),
        ("a.csv", "text, label\nhello, a\n", [("hello", "a")], "spaces after a delimiter are left out"),
        (
            "a.csv",
            'text,label\n"say \\"hi\\", ok",a\n',
            [('say "hi", ok', "a")],
            'quotes inside fields are written \\"',
        ),
        ("a.csv", "text,label,,,\nx,a,,,\n", [("x", "a")], "3 empty columns without a name left out"),
        ("a.csv", "text,label,,\nx,a\n", [("x", "a")], "2 empty columns without a name left out"),
        ("a.csv", "text,label\nx,a,,\n", [("x", "a")], "empty fields beyond the header's are left out in 1 line"),
        ("a.csv", " text ,label\nx,a\n", [("x", "a")], "spaces around the names of columns are left out"),
    ],
)
def test_what_a_file_of_fields_is_like_is_found_out_and_noted(found, name, content, rows, note):
    read_ = found(name, content)
    assert [tuple(row.values()) for row in read_.rows] == rows
    assert list(read_.rows[0]) == ["text", "label"]
    assert read_.notes == (note,)


def test_nothing_is_noted_of_a_usual_file(found):
    assert found("a.csv", 'text,label\n"a, b",yes\nsaid ""x,no\n').notes == ()
    assert found("a.csv", "text\nhello; you\n").rows == [{"text": "hello; you"}]
    with pytest.raises(UserError, match=r"line 2: 2 fields, expected 1"):
        found("a.csv", "text\nhello, you\n")
    with pytest.raises(UserError, match=r"line 2: 4 fields, expected 2"):
        found("a.csv", "text,label\nx,a,,z\n")
    assert found("a.csv", ",text\n0,x\n").rows == [{"": "0", "text": "x"}], "an index has values"


def test_a_given_delimiter_counts(found):
    assert found("a.csv", "text:label\nx,y:a\n", delimiter=":").rows == [{"text": "x,y", "label": "a"}]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_tsv_that_pandas_writes_comes_back(found, quoting):
    frame = pandas.DataFrame({"text": ['he said "hi"', "a\tb", "c\nd", "plain", '"'], "label": [1, 2, 3, 4, 5]})
    read_ = found("a.tsv", frame.to_csv(sep="\t", index=False, quoting=quoting))
    assert [row["text"] for row in read_.rows] == list(frame["text"])
    assert read_.lines == [2, 3, 4, 6, 7]
    assert "quotes enclose fields" in read_.notes[0]


def test_quotes_of_a_tsv_corpus_are_text_and_the_suite_may_say_otherwise(found):
    corpus = 'text\tlabel\n"so he said"\tyes\n5\' 10" tall\tno\n'
    read_ = found("a.tsv", corpus)
    assert [row["text"] for row in read_.rows] == ['"so he said"', "5' 10\" tall"]
    assert read_.notes == ("quotes are read as text (`quoting: minimal` would let them enclose fields)",)
    assert found("a.tsv", corpus, quoting="minimal").rows[0]["text"] == "so he said"
    unpaired = found("a.tsv", 'text\tlabel\n"so he\tyes\n5\' 10" tall\tno\n')
    assert unpaired.notes == ("quotes are read as text",)
    assert found("a.csv", 'text,label\n"x"y,a\n', quoting="none").rows[0]["text"] == '"x"y'


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.json", '{"text": "x", "label": "a"}\n\n{"text": "y", "label": "b"}\n', [1, 3]),
        ("a.jsonl", '[{"text": "x", "label": "a"},\n{"text": "y", "label": "b"}]\n', [1, 2]),
        ("a.ndjson", '{"text": "x", "label": "a"}\n{"text": "y", "label": "b"}\n', [1, 2]),
        ("a.json", '[\n {\n  "text": "x", "label": "a"\n }, {"text": "y",\n "label": "b"}\n]', [2, 4]),
    ],
)
def test_json_is_read_as_a_list_or_as_lines_whatever_its_name_is(found, name, content, lines):
    read_ = found(name, content)
    assert (read_.rows, read_.lines) == (ROWS, lines)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.json", "[" * 100_000, "its JSON is nested too deeply"),
        ("a.jsonl", '{"a": 1}\n' + '{"a":' * 100_000, "line 2: its JSON is nested too deeply"),
        ("a.json", '[{"a": 1},\n{"a": ]', "line 2: cannot be read as json"),
        ("a.json", '[{"a": 1}]\nx', "line 2: cannot be read as json: expected nothing after the list"),
        ("a.json", '[{"a": ' + "9" * 5000 + "}]", "line 1: cannot be read as json: Exceeds the limit"),
        ("a.json", '{"data": [{"a": 1}]}', "the list itself must be the file ('data')"),
        ("a.json", '{"text": {"0": "a"}}', "to_json(orient='records')"),
        ("a.json", '{"a": 1}\n{"a":\n', "line 2: not JSON"),
    ],
)
def test_json_that_is_no_records_is_refused_with_the_line(found, name, content, part):
    with pytest.raises(UserError) as raised:
        found(name, content)
    assert part in str(raised.value)


def test_null_is_none_and_integers_stay_integers_in_every_format(found, tmp_path):
    rows = [{"n": 1, "f": 1.5, "t": "x"}, {"n": None, "f": None, "t": None}, {"n": 3, "f": 2.0, "t": ""}]
    pandas.DataFrame(rows).convert_dtypes().to_parquet(tmp_path / "typed.parquet")
    pandas.DataFrame(rows).to_parquet(tmp_path / "floats.parquet")
    typed, floats = (tmp_path / f"{name}.parquet" for name in ("typed", "floats"))
    lines = "\n".join(map(json.dumps, rows)).replace("1.5", "NaN", 1).replace("NaN", "1.5")
    restored_ = [restored(files.read(Task("m", "generation"), path)) for path in (typed, floats)]
    for read_ in (found("a.jsonl", lines), *restored_):
        assert repr(list(read_.rows)) == repr(rows)
    assert found("nan.json", '[{"f": NaN}, {"f": 1.5}]').rows == [{"f": None}, {"f": 1.5}]
    assert restored_[1].notes == ("whole numbers beside missing values are read as integers: 'n'",)
    assert found("a.csv", "n,t\n1,\n").rows == [{"n": "1", "t": ""}], "CSV has no null"


@pytest.mark.parametrize(
    ("train", "test", "expected", "note"),
    [
        ([1.0, None, 3.0], [1.0, 2.0], (["1", "0", "3"], ["1", "2"]), True),
        ([1.0, 2.0], [1.0, None], (["1", "2"], ["1", "0"]), True),
        ([1, 2], [1.0, 2.0], (["1", "2"], ["1", "2"]), True),
        ([1, 2], [1.0, None], (["1", "2"], ["1", "0"]), True),
        ([1.0, None], [1.0, 2.5], (["1.0", "0"], ["1.0", "2.5"]), False),  # these are no whole numbers
        ([1.0, None], ["1.0", "x"], (["1.0", "0"], ["1.0", "x"]), False),
        ([1.0, 2.0], [3.0, 4.0], (["1.0", "2.0"], ["3.0", "4.0"]), False),
        ([1.0, 2.0], [None, None], (["1.0", "2.0"], ["0", "0"]), False),
        ([1.0, 2.0**60], [1.0, None], (["1.0", str(2.0**60)], ["1.0", "0"]), False),
        ([True, False], [1.0, 2.0], (["True", "False"], ["1.0", "2.0"]), False),
    ],
)
def test_whole_floats_are_integers_in_all_splits_or_in_none(tmp_path, train, test, expected, note):
    paths = {"train": str(tmp_path / "train.parquet"), "test": str(tmp_path / "test.jsonl")}
    pandas.DataFrame({"q": "x", "n": train}).to_parquet(paths["train"])
    Path(paths["test"]).write_text("".join(json.dumps({"q": "x", "n": n}) + "\n" for n in test))
    task = Task("m", "generation", files=paths, prompt="{{ q }}", target="{{ 0 if n is none else n }}")
    readings = [read.reading(task, split) for split in ("train", "test")]
    assert tuple([e.target for e in reading.examples] for reading in readings) == expected
    assert any("integers" in line for reading in readings for line in reading.notes) == note


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (["1.0", "", "3.0"], ["1", "2"], (["1", "?", "3"], ["1", "2"])),  # as pandas writes them
        (["1.0", "3.0"], ["1", "2"], (["1.0", "3.0"], ["1", "2"])),
        (["1.0", ""], ["1.0", "2.0"], (["1.0", "?"], ["1.0", "2.0"])),
        (["1.0", "", "2.5"], ["1", "2"], (["1.0", "?", "2.5"], ["1", "2"])),
    ],
)
def test_whole_numbers_with_a_decimal_point_in_csv_are_those_of_the_other_split(tmp_path, train, test, expected):
    paths = {}
    for split, values in (("train", train), ("test", test)):
        paths[split] = str(tmp_path / f"{split}.csv")
        Path(paths[split]).write_text("q,n\n" + "".join(f"x,{value}\n" for value in values))
    task = Task("m", "generation", files=paths, prompt="{{ q }}", target="{{ n or '?' }}")
    assert tuple([e.target for e in read.examples(task, split)] for split in paths) == expected


def test_other_files_are_read_only_if_a_field_has_whole_floats(tmp_path):
    pandas.DataFrame({"q": ["x"], "a": ["y"]}).to_parquet(tmp_path / "train.parquet")
    files_ = {"train": str(tmp_path / "train.parquet"), "test": str(tmp_path / "missing.parquet")}
    task = Task("m", "generation", files=files_, prompt="{{ q }}", target="{{ a }}")
    assert [e.target for e in read.examples(task, "train")] == ["y"]


@pytest.mark.parametrize(
    ("written", "given"),
    [
        (r"b\n", r"b\n"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"C:\\dir", r"C:\dir"),
        (r"a\\\"b", r"a\"b"),
        (r"x\, y", r"x\, y"),
        (r"\\n", r"\n"),
    ],
)
def test_a_backslash_stays_in_a_file_whose_quotes_are_written_with_one(found, written, given):
    read_ = found("a.csv", f'text,label\n"say \\"hi\\", ok",a\n"{written}",b\n')
    assert [row["text"] for row in read_.rows] == ['say "hi", ok', given]


def test_parquet_gives_pythons_values(tmp_path):
    columns = {
        "list": [["a"], None],
        "map": pyarrow.array([[("k", None)], []], pyarrow.map_(pyarrow.string(), pyarrow.string())),
        "text": [b"caf\xc3\xa9", None],
        "image": [b"\xff", b"a"],
        "short": pyarrow.array([0.1, None], pyarrow.float32()),
        "price": [Decimal("1.10"), None],
        "day": [datetime(2024, 1, 2), None],
        "nested": [{"a": [None, 1]}, {"a": []}],
        "nan": [float("nan"), 1.5],
        "class": pyarrow.array(["a", "b"]).dictionary_encode(),
    }
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    first, second = files.read(Task("m", "generation"), path).rows
    assert first == {
        "list": ["a"],
        "map": {"k": None},
        "text": "café",
        "image": b"\xff",
        "short": 0.1,
        "price": Decimal("1.10"),
        "day": datetime(2024, 1, 2),
        "nested": {"a": [None, 1]},
        "nan": None,
        "class": "a",
    }
    assert type(first["list"]) is list
    assert [second[name] for name in ("list", "text", "short", "price", "day")] == [None] * 5


def test_a_dataset_of_the_hub_gives_the_same_values(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    pandas.DataFrame({"n": [1, None, 2], "t": ["x", None, "y"], "l": [["a"], None, []]}).to_parquet(
        folder / "test.parquet"
    )
    one = Task("m", "generation", dataset=str(folder), splits={"test": "test"}, prompt="{{ n }}", target="{{ t }}")
    with pytest.raises(UserError, match=r"set test, example 2: target: the field t is null"):
        read.reading(one, "test")
    both = Task(
        **{**one.__dict__, "prompt": "{{ n | default('none') }} {{ l or '' | join }}", "target": "{{ t or '-' }}"}
    )
    with pytest.raises(UserError, match="the field l is a list"):
        read.reading(both, "test")
    both = Task(**{**one.__dict__, "prompt": "{{ n | default('none') }}", "target": "{{ t or '-' }}"})
    found = read.reading(both, "test")
    assert [(e.prompt, e.target) for e in found.examples] == [("1", "x"), ("none", "-"), ("2", "y")]
    assert "read as integers: 'n'" in found.notes[0]


REAL = {
    "glue_cola/train.tsv": (7250, ("source", "label", "mark", "sentence")),
    "hf_method_comparison/all_results.csv": (None, ()),
    "hf_method_comparison/history.csv": (None, ()),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_whole(real_data, name):
    count, columns = REAL[name]
    read_ = files.read(Task("m", "generation", columns=columns), real_data / name)
    frame = pandas.read_csv(
        real_data / name,
        sep="\t" if name.endswith(".tsv") else ",",
        quoting=csv.QUOTE_NONE if name.endswith(".tsv") else csv.QUOTE_MINIMAL,
        header=None if columns else 0,
        dtype=str,
        keep_default_na=False,
    )
    assert len(read_.rows) == len(frame) == (count or len(frame))
    assert [list(row.values()) for row in read_.rows] == frame.to_numpy().tolist()
