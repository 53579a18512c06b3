"""Task files: five formats, templates over their fields, a reproducible validation split."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from peftbench.errors import UserError
from peftbench.records import Task
from peftbench.tasks import read

ROWS = [{"text": f"question {n}", "label": "yes" if n % 3 else "no"} for n in range(30)]
SPLITS = ("train", "validation", "test")


def task(files: Path | dict[str, str], **changes) -> Task:
    settings = {"kind": "exact_match", "prompt": "{{ text }} ?", "target": "{{ label }}", **changes}
    return Task("mine", files=files if isinstance(files, dict) else {"test": str(files)}, **settings)


def separated(rows: list[dict], between: str, header: bool = True) -> str:
    lines = [list(rows[0])] if header else []
    return "".join(between.join(line) + "\n" for line in [*lines, *(list(row.values()) for row in rows)])


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path."""

    def file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return file


@pytest.fixture
def refused(write):
    """The error message of reading a file."""

    def message(name: str, content: str | bytes, **changes) -> str:
        path = write(name, content)
        with pytest.raises(UserError) as raised:
            read.examples(task(path, **changes), "test")
        text = str(raised.value)
        assert name in text
        assert "'mine'" in text
        return text

    return message


def pairs(examples) -> list[tuple[str, str]]:
    return [(e.prompt, e.target) for e in examples]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet"])
def test_every_format_gives_the_same_examples(tmp_path, write, name):
    content = {
        "a.csv": separated(ROWS, ","),
        "a.tsv": separated(ROWS, "\t"),
        "a.json": json.dumps(ROWS),
        "a.jsonl": "\n".join(json.dumps(row) for row in ROWS),
        "a.parquet": b"",
    }
    path = write(name, content[name])
    if name == "a.parquet":
        import pandas

        pandas.DataFrame(ROWS).to_parquet(path)
    found = read.examples(task(path), "test")
    assert pairs(found) == [(f"{row['text']} ?", row["label"]) for row in ROWS]
    assert [e.references for e in found] == [(row["label"],) for row in ROWS]


def test_a_file_without_header_takes_the_columns_of_the_suite(write, refused):
    for name, between in (("a.csv", ","), ("a.tsv", "\t")):
        path = write(name, separated(ROWS, between, header=False))
        assert len(read.examples(task(path, columns=("text", "label")), "test")) == 30
    message = refused("a.csv", separated(ROWS, ","), columns=("text", "label"))
    assert "has a header line; leave 'columns' out" in message


def test_unpaired_quotes_in_a_tsv_are_text(write):
    path = write("a.tsv", 'text\tlabel\n"so he said\tyes\n5\' 10" tall\tno\n""\tyes\n')
    prompts = [e.prompt for e in read.examples(task(path), "test")]
    assert prompts == ['"so he said ?', "5' 10\" tall ?", '"" ?']


def test_quoted_commas_quotes_and_line_ends_in_a_csv_are_text(write):
    path = write("a.csv", 'text,label\r\n"a, ""b""\nc",yes\r\n\r\nd,no\r\n')
    assert pairs(read.examples(task(path), "test")) == [('a, "b"\nc ?', "yes"), ("d ?", "no")]


def test_a_byte_order_mark_is_not_part_of_the_first_field(write):
    for name, content in (
        ("a.csv", "text,label\nx,yes\n"),
        ("a.jsonl", '{"text": "x", "label": "yes"}\n'),
        ("a.json", '[{"text": "x", "label": "yes"}]'),
    ):
        path = write(name, b"\xef\xbb\xbf" + content.encode())
        assert pairs(read.examples(task(path), "test")) == [("x ?", "yes")]


def test_unusual_line_ends_inside_json_text_do_not_end_the_line(write):
    path = write("a.jsonl", json.dumps({"text": "one\u2028two\x85", "label": "yes"}, ensure_ascii=False) + "\r\n")
    assert pairs(read.examples(task(path), "test")) == [("one\u2028two\x85 ?", "yes")]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", "text,label\nx,yes\ny\n", ["line 3: 1 fields, expected 2", "text"]),
        ("a.csv", "text,label\nx,yes,no\n", ["line 2: 3 fields, expected 2"]),
        ("a.csv", 'text,label\nx,yes\n"y,no\nz,no\n', ["line 4", "quote left open"]),
        ("a.csv", 'text,label\n"x"y,yes\n', ["line 2", "quote left open"]),
        ("a.csv", "text,text\nx,yes\n", ["two columns have the same name: text, text"]),
        ("a.csv", "", ["holds no examples"]),
        ("a.csv", "text,label\n", ["holds no examples"]),
        ("a.csv", b"text,label\n\x81\xfe,yes\n", ["line 2: byte 0x81 is no text in utf-8", "encoding"]),
        ("a.jsonl", "", ["holds no examples"]),
        ("a.jsonl", "\n\n", ["holds no examples"]),
        ("a.jsonl", '{"text": "x", "label": "yes"}\n{"text": "y", \n', ["line 2: not JSON", "column"]),
        (
            "a.jsonl",
            '{"text": "x", "label": "yes"}\n\n[1]\n',
            ["line 3 (example 2): expected an object with fields, got list"],
        ),
        ("a.jsonl", "5\n", ["line 1 (example 1): expected an object with fields, got int"]),
        ("a.json", '{"text": "x"}', ["expected a JSON list of objects, got dict"]),
        ("a.json", "[]", ["holds no examples"]),
        ("a.json", "[", ["cannot be read as json"]),
        ("a.parquet", b"PAR1 half", ["cannot be read as parquet"]),
        ("a.parquet", b"", ["cannot be read as parquet"]),
        ("a.doc", "x", ["unknown file type '.doc'", ".jsonl"]),
        ("a.cvs", "x", ["unknown file type '.cvs'", "did you mean '.csv'?", ".gz"]),
        ("data", "x", ["unknown file type ''", ".tsv"]),
    ],
)
def test_an_unreadable_file_is_reported_with_the_position(refused, name, content, parts):
    message = refused(name, content)
    for part in parts:
        assert part in message, message


def test_a_missing_file_is_reported_with_the_nearest_name(write, tmp_path):
    write("train.jsonl", "")
    with pytest.raises(UserError, match=r"task 'mine': no such file: .*/trian.jsonl; did you mean 'train.jsonl'\?"):
        read.examples(task(tmp_path / "trian.jsonl"), "test")
    with pytest.raises(UserError, match=r"no such file: /nowhere/at/all.csv$"):
        read.examples(task({"test": "/nowhere/at/all.csv"}), "test")


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("{{ txet }}", ["example 1", "'txet' is undefined", "the example has the fields: text, label"]),
        ("{{ text.nothing }}", ["no attribute 'nothing'"]),
        ("{{ ['a', 'b'][9] }}", ["no element 9"]),
        ("{{ text + 1 }}", ["a template failed", "the example has the fields: text, label"]),
        ("{{ 1 / 0 }}", ["a template failed", "zero"]),
        ("{{ text | nothing }}", ["a template cannot be read", "nothing"]),
        ("{{ text ", ["a template cannot be read"]),
    ],
)
def test_a_template_that_fails_names_example_and_fields(write, template, parts):
    path = write("a.csv", separated(ROWS, ","))
    for changes in ({"prompt": template}, {"target": template}):
        with pytest.raises(UserError) as raised:
            read.examples(task(path, **changes), "test")
        for part in ["task 'mine'", *parts]:
            assert part in str(raised.value), str(raised.value)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ text.__class__.__mro__[1].__subclasses__() }}",
        "{{ text['__class__'] }}",
        "{{ text | attr('__class__') | attr('__mro__') }}",
        "{{ '{0.__class__.__mro__}'.format(text) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{% for i in range(999999999) %}{% endfor %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(write, template):
    path = write("a.csv", separated(ROWS, ","))
    with pytest.raises(
        UserError, match=r"task 'mine': a\.csv, line 2 \(example 1\): .*the file has no header: give its columns"
    ):
        read.examples(task(path, prompt=template), "test")


def test_an_answer_must_be_one_of_the_choices(refused):
    text = separated([*ROWS, {"text": "last", "label": "yess"}], ",")
    message = refused("a.csv", text, kind="choice", choices=("yes", "no"))
    assert (
        message
        == "task 'mine': a.csv, line 32 (example 31): unknown answer 'yess'; did you mean 'yes'? allowed: no, yes"
    )


def test_prompts_have_no_trailing_space_and_answers_no_surrounding_space(write):
    path = write("a.tsv", "text\tlabel\n x \t yes \n")
    assert pairs(read.examples(task(path, prompt="{{ text }}\n"), "test")) == [(" x", "yes")]


def test_validation_is_split_off_reproducibly_and_disjoint_from_training(write, tmp_path):
    one = task({"train": str(write("a.csv", separated(ROWS, ",")))}, validation_fraction=0.2)
    assert read.splits(one) == ("train", "validation")
    train, held_out = read.examples(one, "train"), read.examples(one, "validation")
    assert (len(train), len(held_out)) == (24, 6)
    assert {e.prompt for e in train} | {e.prompt for e in held_out} == {f"{row['text']} ?" for row in ROWS}
    cut = [int(e.prompt.split()[1]) for e in held_out]
    assert cut == [18, 24, 26, 27, 28, 29], "another cut moves every score: raise PROTOCOL"
    other = task({"train": str(write("b.jsonl", "\n".join(json.dumps(row) for row in ROWS)))}, validation_fraction=0.2)
    assert read.examples(other, "validation") == held_out
    assert read.examples(one, "train") == train


def test_a_small_fraction_splits_off_at_least_one_example(write):
    one = task({"train": str(write("a.csv", separated(ROWS, ",")))}, validation_fraction=0.001)
    assert [len(read.examples(one, split)) for split in ("train", "validation")] == [29, 1]


def test_a_validation_file_is_used_completely(write):
    path = write("a.csv", separated(ROWS, ","))
    one = task({"train": str(path), "validation": str(path)})
    assert [len(read.examples(one, split)) for split in ("train", "validation")] == [30, 30]
    with pytest.raises(UserError, match="unknown split 'test'; allowed: train, validation"):
        read.examples(one, "test")


def test_a_limit_applies_to_scored_splits_but_not_to_training(write):
    path = str(write("a.csv", separated(ROWS, ",")))
    one = task(dict.fromkeys(SPLITS, path), limit=4)
    assert [len(read.examples(one, split)) for split in SPLITS] == [30, 4, 4]
    drawn, whole = (pairs(read.examples(each, "test")) for each in (one, replace(one, limit=None)))
    assert drawn == [pair for pair in whole if pair in drawn]
    assert drawn != whole[:4], "a sorted file would be scored on one class"
    assert set(drawn) < set(pairs(read.examples(replace(one, limit=9), "test")))
    assert pairs(read.examples(replace(one, limit=99), "test")) == whole


def test_the_fingerprint_covers_content_but_not_names_and_formats(write):
    one = task({"train": str(write("a.csv", separated(ROWS, ",")))})
    moved = task({"train": str(write("elsewhere.jsonl", "\n".join(json.dumps(row) for row in ROWS)))})
    assert read.fingerprint([one]) == read.fingerprint([moved])


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "{{ text }}!"},
        {"target": "{{ label }}!"},
        {"validation_fraction": 0.2},
        {"kind": "generation"},
        {"max_new_tokens": 5},
        {"kind": "choice", "choices": ("yes", "no")},
    ],
)
def test_the_fingerprint_changes_with_content_and_scoring(write, changes):
    files = {"train": str(write("a.csv", separated(ROWS, ",")))}
    assert read.fingerprint([task(files)]) != read.fingerprint([task(files, **changes)])


def test_the_fingerprint_changes_with_one_example_its_order_and_its_split(write):
    def of(rows, split="train"):
        return read.fingerprint([task({split: str(write("a.csv", separated(rows, ",")))})])

    found = {of(ROWS), of(ROWS[::-1]), of(ROWS[1:]), of(ROWS, "test"), of([{**ROWS[0], "label": "no."}, *ROWS[1:]])}
    assert len(found) == 5


TREC = ("description", "entity", "human", "number", "location", "abbreviation")


def test_all_trec_questions_are_read(real_data):
    one = task(
        {split: str(real_data / "trec" / f"{split}.csv") for split in ("train", "test")},
        kind="choice",
        columns=("label", "question"),
        prompt="Question: {{ question }}\nType:",
        target=f"{{{{ {list(TREC)}[label | int] }}}}",
        choices=TREC,
    )
    train, test = read.examples(one, "train"), read.examples(one, "test")
    assert (len(train), len(test)) == (5452, 500)
    assert train[0].prompt == "Question: how did serfdom develop in and then leave russia\nType:"
    assert Counter(e.target for e in train) == dict(zip(TREC, (1162, 1250, 1223, 896, 835, 86), strict=True))


def test_all_sst2_phrases_are_read(real_data):
    files = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
    one = task(
        {split: str(real_data / "sst2" / name) for split, name in files.items()},
        prompt="{{ sentence }}",
    )
    found = {split: read.examples(one, split) for split in files}
    assert {split: len(examples) for split, examples in found.items()} == {
        "train": 60614,
        "validation": 6735,
        "test": 872,
    }
    assert Counter(e.target for e in found["test"]) == {"1": 444, "0": 428}


def test_all_of_gsm8k_is_read(real_data):
    one = task(
        {split: str(real_data / "gsm8k" / f"{split}.jsonl") for split in ("train", "test")},
        prompt="{{ question }}",
        target="{{ answer.split('####')[1] }}",
    )
    assert [len(read.examples(one, split)) for split in ("train", "test")] == [7473, 1319]
    assert read.examples(one, "train")[0].target == "72"
