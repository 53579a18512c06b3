"""The data of a task: templates, datasets, splits by seed, chunks of text, overlap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.records import Example, Task
from peftbench.runner import prepare
from peftbench.suite import trial_key
from peftbench.tasks import chunks, files, hub, overlap, read
from peftbench.tasks.templates import TEMPLATES

ROWS = [{"text": f"question {n}", "label": n % 2} for n in range(30)]


@pytest.fixture
def task(tmp_path):
    """Load a suite with one task and return the task; ``FILE`` in the block is a file with the given content."""

    def load(block: str, content: str = "", name: str = "data.jsonl", **options) -> Task:
        (tmp_path / name).write_text(content)
        text = f"base: nano\nmethods: [lora]\ntasks:\n  mine: {{{block.replace('FILE', name)}}}\n"
        (tmp_path / "x.yaml").write_text(text)
        return suite.load(tmp_path / "x.yaml", **options).tasks[0]

    return load


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    """A folder that the ``datasets`` library reads, with splits train and dev."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "questions"
    folder.mkdir()
    for name, rows in (("train", ROWS), ("validation", ROWS[:4])):
        (folder / f"{name}.jsonl").write_text(jsonl(rows))
    return folder


def jsonl(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pairs(examples) -> list[tuple[str, str]]:
    return [(e.prompt, e.target) for e in examples]


# templates


def test_a_template_provides_keys_that_the_block_omits(task):
    rows = [{"sentence": "so good ", "label": 1}, {"sentence": "bad", "label": "0"}]
    one = task("template: sst2, train: FILE, test: FILE", jsonl(rows))
    assert (one.kind, one.choices) == ("choice", ("negative", "positive"))
    assert pairs(read.examples(one, "test")) == [
        ("Review: so good\nSentiment:", "positive"),
        ("Review: bad\nSentiment:", "negative"),
    ]
    mine = task('template: sst2, train: FILE, test: FILE, prompt: "{{ sentence }} =", labels: {"0": no, "1": yes}')
    assert (mine.prompt, mine.choices) == ("{{ sentence }} =", ("no", "yes"))
    assert task("template: sst2, kind: exact_match, train: FILE, test: FILE").choices == ()


def test_a_label_without_a_word_is_refused(task):
    one = task("template: sst2, train: FILE, test: FILE", jsonl([{"sentence": "x", "label": -1}]))
    with pytest.raises(
        UserError, match=r"data.jsonl, line 1 \(example 1\): unknown label '-1'; did you mean '1'. allowed: 0, 1"
    ):
        read.examples(one, "test")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "who was he", "label": "2"},
        {"text": "who was he", "label_coarse_original": "HUM", "label": 9},
        {"text": "who was he", "coarse_label": 3, "fine_label": 9},
    ],
)
def test_trec_is_read_in_each_of_its_forms(task, row):
    one = task("template: trec, train: FILE, test: FILE", jsonl([row]))
    assert pairs(read.examples(one, "test")) == [("Question: who was he\nType:", "human")]
    assert one.choices == ("description", "entity", "human", "number", "location", "abbreviation")


@pytest.mark.parametrize(
    ("template", "given", "answer"), [("alpaca", "input", "output"), ("dolly", "context", "response")]
)
def test_an_instruction_has_an_input_or_none(task, template, given, answer):
    rows = [{"instruction": "add", given: "1 2", answer: " 3\n4 "}, {"instruction": "sing", given: "", answer: "la"}]
    one = task(f"template: {template}, train: FILE, test: FILE", jsonl([*rows, {"instruction": "sing", answer: "la"}]))
    first, empty, absent = read.examples(one, "test")
    assert "paired with an input" in first.prompt
    assert first.prompt.endswith("### Instruction:\nadd\n\n### Input:\n1 2\n\n### Response:")
    assert first.target == "3\n4"
    assert empty.prompt == absent.prompt
    assert "nput" not in empty.prompt
    assert empty.prompt.endswith("\n\n### Instruction:\nsing\n\n### Response:")
    assert first.content.split() == ["add", "1", "2"]


def test_e2e_scores_against_all_references_of_a_meaning_and_trains_on_each_pair(task):
    lines = "name : A | food : B||A has B .\nname : C||C is there .\nname : A | food : B||At A , try B .\n"
    one = task("template: e2e, train: FILE, test: FILE", lines, "e2e.txt")
    columns = [
        dict(zip(("meaning_representation", "human_reference"), line.split("||"), strict=True))
        for line in lines.splitlines()
    ]
    of_the_hub = task("template: e2e, train: FILE, test: FILE", jsonl(columns))
    assert pairs(read.examples(one, "train")) == pairs(read.examples(of_the_hub, "train"))
    assert len(read.examples(one, "train")) == 3
    first, second = read.examples(one, "test")
    assert (first.prompt, first.target) == ("name : A | food : B\nText:", "A has B .")
    assert first.references == ("A has B .", "At A , try B .")
    assert second.references == ("C is there .",)


def test_every_template_makes_a_task_and_documents_its_fields(task):
    assert len(TEMPLATES) >= 8
    for name, template in TEMPLATES.items():
        labels = ", labels: {a: b, c: d}" if name == "classification" else ""
        one = task(f"template: {name}, train: FILE, test: FILE{labels}")
        assert one.kind == template.kind
        assert template.reads
        assert template.doc


# plain text


def test_text_is_cut_at_blank_lines_and_short_paragraphs_are_joined():
    assert chunks.chunks(["a b\n \nc\n\n\nd"], None, 6) == ["a b\n\nc", "d"]
    assert chunks.chunks(["one", "", "two"], None, 100) == ["one\n\ntwo"]
    assert chunks.chunks(["aa bb cc dd"], None, 5) == ["aa bb", "cc dd"]
    assert chunks.chunks(["abcdefgh"], None, 3) == ["abc", "def", "gh"]
    assert chunks.chunks([" \n\n "], None, 3) == []


def test_documents_are_not_joined():
    text = "first\n\nparagraph\n<|end|>\nsecond\n<|end|>\n"
    assert chunks.chunks([text, "third"], "<|end|>", 100) == ["first\n\nparagraph", "second", "third"]


def test_no_word_is_lost_or_cut_if_white_space_allows():
    text = " ".join(f"word{n}" for n in range(500))
    found = chunks.chunks([text], None, 64)
    assert max(map(len, found)) <= 64
    assert " ".join(found).split() == text.split()


def test_plain_text_is_a_task_without_prompt(task):
    one = task("template: text, train: FILE, test_fraction: 0.5, chunk_characters: 8", "a b c\n\nd e f\n", "t.txt")
    (train,), (test,) = read.examples(one, "train"), read.examples(one, "test")
    assert {train.target, test.target} == {"a b c", "d e f"}
    assert (train.prompt, train.join) == ("", "")


# splits


def test_test_and_validation_are_split_off_without_overlap(task):
    content = jsonl(ROWS)
    more = 'kind: exact_match, prompt: "{{ text }}", target: "{{ label }}", train: FILE'
    both = task(f"{more}, validation_fraction: 0.2, test_fraction: 0.1", content)
    found = {split: read.examples(both, split) for split in read.splits(both)}
    assert {split: len(examples) for split, examples in found.items()} == {"train": 21, "validation": 6, "test": 3}
    assert sorted(e.prompt for examples in found.values() for e in examples) == sorted(row["text"] for row in ROWS)
    alone = task(f"{more}, test: FILE, validation_fraction: 0.2", content)
    assert read.examples(alone, "validation") == found["validation"], "a test split must not move validation"
    other = task(f"{more}, validation_fraction: 0.2, test_fraction: 0.1, split_seed: 1", content)
    assert read.examples(other, "validation") != found["validation"]
    assert read.fingerprint([other]) != read.fingerprint([both])


def test_splitting_keeps_the_references_of_a_prompt_together(task):
    rows = [{"text": f"name : {n % 10}||sentence {n}"} for n in range(40)]
    one = task("template: e2e, train: FILE, test_fraction: 0.3", jsonl(rows))
    train, test = read.examples(one, "train"), read.examples(one, "test")
    assert (len(train), len(test)) == (28, 3)
    assert {e.prompt for e in train}.isdisjoint(e.prompt for e in test)
    assert all(len(e.references) == 4 for e in test)


# datasets

HUB = 'template: classification, labels: {"0": even, "1": odd}, dataset: ./questions, '


def test_a_dataset_gives_its_splits(task, dataset):
    one = task(HUB + "splits: {train: train, test: validation}")
    assert read.splits(one) == ("train", "test")
    assert [len(read.examples(one, split)) for split in ("train", "test")] == [30, 4]
    assert pairs(read.examples(one, "test"))[1] == ("Text: question 1\nClass:", "odd")
    assert not hub.is_remote(one)


def test_the_fingerprint_of_a_dataset_depends_on_its_content(task, dataset, tmp_path):
    one = task(HUB + "splits: {train: train, test: validation}")
    for name, rows in (("train", ROWS), ("test", ROWS[:4])):
        (tmp_path / f"{name}.jsonl").write_text(jsonl(rows))
    local = ["tasks.mine.train=train.jsonl", "tasks.mine.test=test.jsonl"]
    moved = task(
        HUB + "splits: {train: train, test: validation}",
        overrides=[text.replace("=", f"={tmp_path}/") for text in local],
    )
    assert set(moved.files) == {"train", "test"}
    assert read.fingerprint([one]) == read.fingerprint([moved])


def test_a_local_file_replaces_a_split_of_the_hub(task, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "rows", lambda *_: pytest.fail("the hub was asked"))
    (tmp_path / "mine.jsonl").write_text(jsonl(ROWS))
    text = HUB.replace("./questions", "nobody/nothing") + "splits: {train: train, validation: dev, test: test}"
    given = [f"tasks.mine.{split}={tmp_path}/mine.jsonl" for split in ("train", "test")]
    one = task(text, overrides=[*given, "tasks.mine.splits.validation=null"])
    assert read.splits(one) == ("train", "test")
    assert len(read.examples(one, "train")) == 30
    assert not hub.is_remote(one)


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        ("splits: {train: trian}", ["split 'trian'", "questions"]),
        ("splits: {train: train}, config: large", ["config 'large'"]),
    ],
)
def test_missing_parts_of_a_dataset_are_reported(task, dataset, block, parts):
    with pytest.raises(UserError) as raised:
        read.examples(task(HUB + block + ", test: FILE"), "train")
    for part in ["task 'mine': dataset ", *parts]:
        assert part in str(raised.value), str(raised.value)


def test_a_dataset_with_unreadable_files_is_reported(task, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train.jsonl").write_text('{"sentence": "x", "label": 0}\n{"sentence": \n')
    (broken / "test.jsonl").write_text('{"sentence": "x", "label": 0}\n')
    one = task(f"template: sst2, dataset: {broken}, splits: {{train: train, test: test}}")
    with pytest.raises(UserError, match=r"task 'mine': dataset .*split 'train': .*JSON"):
        read.examples(one, "train")


@pytest.mark.parametrize("kind", ["template: text", "template: sst2"])
def test_only_generation_tasks_have_several_references(task, kind):
    with pytest.raises(UserError, match="several_references: only a generation task has several references"):
        task(f"{kind}, train: FILE, test: FILE, several_references: true")


def test_an_unreachable_dataset_is_reported_with_a_remedy(task, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    one = task("template: sst2, dataset: nobody/nothing, revision: v1, splits: {train: train, test: test}")
    with pytest.raises(UserError) as raised:
        read.examples(one, "test")
    message = str(raised.value)
    for part in (
        "task 'mine': dataset 'nobody/nothing' at revision 'v1', split 'test'",
        "HF_HUB_OFFLINE is set",
        "--set tasks.mine.train=FILE",
    ):
        assert part in message, message
    assert "\n" not in message


def test_a_dataset_script_is_not_run(task, monkeypatch):
    import datasets

    def refuse(*_, **__):
        raise RuntimeError("Dataset scripts are no longer supported, but found x.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    one = task("template: sst2, dataset: a/b, splits: {train: train, test: test}")
    with pytest.raises(UserError, match="scripts are not run; try revision: refs/convert/parquet"):
        read.examples(one, "test")


def test_a_plan_downloads_no_dataset_and_states_it(task, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "rows", lambda *_: pytest.fail("the hub was asked"))
    task("template: sst2, dataset: a/b, splits: {train: train, test: test}")
    trials = suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")
    assert prepare.check(trials) == ("dataset 'a/b': no such folder here, so the run takes it for a hub id",)


def test_settings_contain_no_folder_of_this_machine(task, dataset, tmp_path):
    task(HUB + "splits: {train: train, test: validation}")
    trial = suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")[0]
    assert trial_key.settings(trial)["tasks"][0]["dataset"] == "questions"
    assert str(tmp_path) not in json.dumps(trial_key.settings(trial), default=list)


# overlap


def of(*texts: str) -> list[Example]:
    return [Example(f"Text: {text}", "yes", content=text) for text in texts]


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_a_training_prompt_is_counted_regardless_of_case_and_punctuation():
    found = overlap.measure(of("Who was he ?", "what"), of("who was  he", "who was she", "what !"))
    assert (found.examples, found.exact, found.ngram) == (3, 2, 2)


def test_thirteen_words_in_a_row_are_shared_and_twelve_are_not():
    words = LONG.split()
    train = of("zero " + LONG + " fifteen")
    assert overlap.measure(train, of(" ".join(words[:13]))).ngram == 1
    assert overlap.measure(train, of("x " + " ".join(words[1:14]))).ngram == 1
    assert overlap.measure(train, of("x " + " ".join(words[:12]) + " y")).ngram == 0
    assert overlap.measure(train, of(" ".join(words[:12]))).ngram == 0
    assert overlap.measure(of("zero " + LONG), of("x " + LONG)).exact == 0


def test_the_templates_own_words_do_not_count_as_overlap(task):
    rows = [{"instruction": f"say {n}", "output": "x"} for n in "ab"]
    one = task("template: alpaca, train: FILE, test: FILE", jsonl(rows[:1]))
    two = task("template: alpaca, train: FILE, test: FILE", jsonl(rows[1:]), "b.jsonl")
    assert len(read.examples(two, "test")[0].prompt.split()) > overlap.WORDS
    assert overlap.measure(read.examples(one, "train"), read.examples(two, "test")).ngram == 0


# real data

REAL = {
    "trec": ("columns: [label, question], train: DIR/trec/train.csv, test: DIR/trec/test.csv", (5452, 500)),
    "sst2": ("train: DIR/sst2/dev.tsv, test: DIR/sst2/test.tsv", (6735, 872)),
    "e2e": ("train: DIR/e2e_nlg/valid.txt, test: DIR/e2e_nlg/test.txt", (4672, 630)),
    "gsm8k": ("train: DIR/gsm8k/train.jsonl, test: DIR/gsm8k/test.jsonl", (7473, 1319)),
    "alpaca": ("train: DIR/instruction_data_rasbt/instruction-data.json, test_fraction: 0.1", (990, 110)),
}


@pytest.mark.parametrize("name", REAL)
def test_a_template_reads_all_of_the_real_data(task, real_data, name):
    block, counts = REAL[name]
    one = task(f"template: {name}, " + block.replace("DIR", str(real_data)))
    train, test = read.examples(one, "train"), read.examples(one, "test")
    assert (len(train), len(test)) == counts
    assert all(e.prompt and e.target for e in [*train, *test])
    if name == "e2e":
        assert sum(len(e.references) for e in test) > 4500
    if name == "gsm8k":
        assert all("\n#### " in e.target for e in test)
    if name == "trec":
        assert overlap.measure(train, test).exact == 11, "SOURCES.md has counted 11 too"


LOCAL = {
    "trec": {"train": "trec/train.csv", "test": "trec/test.csv", "columns": "[label, question]"},
    "sst2": {"train": "sst2/dev.tsv", "test": "sst2/test.tsv"},
    "e2e": {"train": "e2e_nlg/valid.txt", "test": "e2e_nlg/test.txt"},
    "gsm8k": {"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"},
    "alpaca": {"train": "instruction_data_rasbt/instruction-data.json"},
}
"""Options that give the suites of hub datasets local files."""


@pytest.mark.parametrize("name", LOCAL)
def test_a_suite_of_a_hub_dataset_names_one_and_can_be_pointed_at_files(real_data, name):
    (task,) = suite.load(name).tasks
    assert task.dataset
    assert hub.is_remote(task)
    assert {"train", "validation", "test"} == set(read.splits(task))
    places = {key: value if key == "columns" else real_data / value for key, value in LOCAL[name].items()}
    loaded = suite.load(name, overrides=[f"tasks.{name}.{key}={value}" for key, value in places.items()])
    assert all(trial.unsupported is None for trial in suite.expand(loaded, "cpu"))
    assert not hub.is_remote(loaded.tasks[0])
    for split in ("validation", "test"):
        assert read.examples(loaded.tasks[0], split)
    first = (suite.find(name).read_text().split("\n\n")[0]).replace("\n# ", " ")
    assert all(f"--set tasks.{name}.{key}=" in first or f"--set 'tasks.{name}.{key}=" in first for key in places)


def test_real_text_is_cut_into_stories_and_paragraphs(task, real_data):
    stories = task(
        f"template: text, separator: <|endoftext|>, train: {real_data}/tinystories/tinystories_sample_cased.txt, "
        f"test: {real_data}/wikitext2/test.txt, chunk_characters: 100000"
    )
    assert len(read.examples(stories, "train")) == 2317, "2,316 stories and one that is cut"
    wiki = task(f"template: text, train: {real_data}/wikitext2/valid.txt, test: {real_data}/wikitext2/test.txt")
    whole = (real_data / "wikitext2" / "test.txt").read_text()
    assert " ".join(e.target for e in read.examples(wiki, "test")).split() == whole.split()


def test_a_text_file_has_one_record_per_line_except_for_language_modelling(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a\n\n b\n")
    assert files.rows(Task("mine", "generation"), path) == [{"text": "a"}, {"text": " b"}]
    assert files.rows(Task("mine", "language_modelling"), path) == [{"text": "a\n\n b\n"}]
