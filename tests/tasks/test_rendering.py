"""What is no text never becomes part of a prompt or an answer; templates draw nothing and are bounded."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import pytest

from peftbench.errors import UserError
from peftbench.records import Task
from peftbench.suite.template_check import template_problems
from peftbench.tasks import read
from peftbench.tasks.rendering import Broken, Templates
from peftbench.tasks.templates import TEMPLATES

ROW = {
    "x": None,
    "t": "text",
    "l": ["q", "z"],
    "d": {"a": 1, "b": None, "items": "I"},
    "n": 3,
    "f": 0.5,
    "Class Index": "4",
    "pos-tag": "NN",
    "row": "R",
    "loop": "L",
    "xs": [{"a": "k"}, {"a": None}],
    "raw": b"\xff",
    "inf": float("inf"),
    "price": Decimal("1.10"),
    "day": datetime(2024, 1, 2),
}


def rendered(prompt: str, row=ROW, target: str = "t") -> str:
    return Templates(Task("mine", "exact_match", prompt=prompt, target=target)).render(row).prompt


@pytest.mark.parametrize(
    "template",
    [
        *("{{ x }}", "{{ 'a' ~ x }}", "{{ x | upper }}", "{{ x | string }}", "{{ x | trim }}", "{{ '%s' % x }}"),
        *("{{ '%s' | format(x) }}", "{{ '{}'.format(x) }}", "{{ '{a}'.format(a=x) }}", "{{ [t, x] | join }}"),
        *("{{ x | replace('a', 'b') }}", "{{ x | int }}", "{{ x | float }}", "{{ x | title }}"),
        *("{{ row.x }}", "{{ row['x'] }}", "{% for i in [x] %}{{ i }}{% endfor %}", "{% set y = x %}{{ y }}"),
        "{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(x) }}",
        "{% filter upper %}{{ x }}{% endfilter %}",
    ],
)
def test_null_is_no_text_however_it_is_written(template):
    with pytest.raises(Broken, match=r"prompt: .*the field x is null, and null is no"):
        rendered(template)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ x or '' }}|", "|"),
        ("{{ x or 'none' }}", "none"),
        ("{{ x | default('-') }}", "-"),
        ("{{ x | d('-') }}", "-"),
        ("{{ nothing | default('-') }}", "-"),
        ("{% if x %}a{% else %}b{% endif %}", "b"),
        ("{% if x is none %}a{% endif %}{% if x == none %}b{% endif %}{% if x is not none %}c{% endif %}", "ab"),
        ("{% if x is defined and x %}a{% else %}b{% endif %}", "b"),
        ("{{ x | int(7) }}", "7"),
        ("{{ [t, x] | select | join }}", "text"),
        ("{{ [t, x] | map('default', '-') | join }}", "text-"),
        ("{{ d | tojson }}", '{"a": 1, "b": null, "items": "I"}'),
        ("{{ l | join(' ') }}", "q z"),
        ("{{ l | tojson }}", '["q", "z"]'),
        ("{{ '<é>' | tojson }}", '"<é>"'),
        ("{% for i in l %}{{ loop.index }}{{ i }}{% endfor %}", "1q2z"),
        ("{{ xs | map(attribute='a') | select | join }}", "k"),
        ("{{ n }} {{ f }} {{ 7 / 2 }} {{ true }}", "3 0.5 3.5 True"),
        ("{{ price }} {{ day }}", "1.10 2024-01-02 00:00:00"),
        ("{{ row['Class Index'] }} {{ row['pos-tag'] }} {{ row.row }} {{ row['loop'] }}", "4 NN R L"),
        ("{{ d['items'] }}", "I"),
        ("{{ t[:2] }}{{ t | length }}{{ t.split('x')[0] }}", "te4te"),
        ("{% set ns = namespace(c=0) %}{% for i in l %}{% set ns.c = ns.c + 1 %}{% endfor %}{{ ns.c }}", "2"),
    ],
)
def test_a_template_may_handle_what_is_no_text(template, text):
    assert rendered(template) == text


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("{{ l }}", "the field l is a list"),
        ("{{ 'a' ~ l }}", "the field l is a list"),
        ("{{ l | string }}", "the field l is a list"),
        ("{{ '%s' % [l] }}", "no text"),
        ("{{ l[:1] }}", "a list, and that is no text"),
        ("{{ (1, 2) }}", "a list, and that is no text"),
        ("{{ d }}", "the field d is a mapping"),
        ("{{ row }}", "`row`, the whole record, is a mapping"),
        ("{{ d.b }}", "the field d.b is null"),
        ("{{ xs[1].a }}", "the field xs[1].a is null"),
        ("{{ x.y }}", "the field x is null, so it has no 'y'"),
        ("{{ none }}", "null"),
        ("{{ l | map('upper') }}", "generator"),
        ("{{ t.upper }}", "a method"),
        ("{{ d.items }}", "a method"),
        ("{{ d.items | trim }}", "a method"),
        ("{{ raw }}", "bytes"),
        ("{{ inf }}", "no number"),
        ("{{ range }}", "a method"),
        ("{{ row['No Such'] }}", "the example has the fields: x, t, l, d, n, f, row['Class Index'], row['pos-tag']"),
        ("{{ l.append(1) }}", "unsafe"),
    ],
)
def test_a_container_or_an_object_is_no_text(template, part):
    with pytest.raises((Broken, UserError)) as raised:
        rendered(template)
    assert part in str(raised.value)


@pytest.mark.parametrize("template", ["{{ range(9) | random }}", "{{ l | random }}", "{{ lipsum() }}", "{{ now() }}"])
def test_a_template_draws_no_random_numbers(template):
    with pytest.raises((Broken, UserError), match=r"random|lipsum|now"):
        rendered(template)


@pytest.mark.parametrize(
    "template",
    [
        *("{{ 'x' * 10**9 }}", "{{ 10**9 * 'x' }}", "{{ [1] * 10**9 }}", "{{ 10 ** (10 ** 9) }}"),
        *("{{ '%1000000000d' % 1 }}", "{{ '%*d' % (1000000000, 1) }}", "{{ '{:1000000000}'.format(1) }}"),
        *("{{ '{:{w}}'.format(1, w=1000000000) }}", "{{ 'x'.ljust(10**9) }}", "{{ 'x' | center(1000000000) }}"),
        *("{{ range(10**9) | list }}", "{{ ('x' * 10**4).replace('x', 'y' * 10**6) }}", "{{ 'x' | indent(10**9) }}"),
        *("{{ (['x'] * 10**5) | join('y' * 10**5) }}", "{{ ('y' * 10**5).join(['x'] * 10**5) }}"),
        *("{{ ('x' * 10**5) | replace('x', 'y' * 10**5) }}", "{{ '%s%s%s' % ('x' * 10**7,) }}"),
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% for i in range(99999) | map('string') %}{% for j in range(9) %}{{ j }}{% endfor %}{% endfor %}",
        *("{{ ('\t' * 10**5).expandtabs(10**6) | length }}", "{{ (1).to_bytes(10**9, 'big') | length }}"),
        *("{{ raw.ljust(10**9) | length }}", "{{ raw.decode('idna') }}", "{{ ('a' * 10**6).encode('punycode') }}"),
        *(
            f"{{% set ns = namespace(x=1, y=1) %}}{{% for i in range(60) %}}{{% set ns.x = {built} %}}"
            f"{{% set ns.y = {built} %}}{{% endfor %}}{{{{ {used} }}}}"
            for built in (
                "[ns.x, ns.x]",
                "(ns.x, ns.x)",
                "{'a': ns.x, 'b': ns.x}",
                "[ns.x] * 2",
                "dict(a=ns.x, b=ns.x)",
            )
            for used in ("ns.x | tojson | length", "ns.x == ns.y")
        ),
        "{% macro f(n) %}{% if n %}{{ f(n - 1, varargs, varargs) }}{% else %}{{ varargs | tojson }}{% endif %}"
        "{% endmacro %}{{ f(40, 1) }}",
    ],
)
def test_a_template_is_bounded_in_size_and_time(template):
    with pytest.raises(Broken, match=r"prompt: a template failed: (it |a w|the method|Range too big)"):
        rendered(template)


def test_all_examples_of_a_task_have_a_bound_together():
    task = Task("m", "generation", prompt="{{ 'x' * 10**6 }}", target="a")
    templates = Templates(task)
    templates.render({"t": "x"})
    with pytest.raises(Broken, match="more than 10,000,000 characters for the examples so far"):
        [templates.render({"t": "x"}) for _ in range(20)]


def test_texts_of_records_are_within_the_bound_however_many_there_are():
    templates = Templates(Task("m", "generation", prompt="{% for x in l %}{{ x }}, {% endfor %}{{ t }}", target="a"))
    for _ in range(3000):
        templates.render({"t": "word " * 10, "l": ["some text"] * 100})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ [t, [1, (2, 3)], {'a': n}] | tojson }}", '["t", [1, [2, 3]], {"a": null}]'),
        ("{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}", "1234"),
        ("{% set a, b = 1, 2 %}{{ a }}{{ b }}", "12"),
        ("{{ raw.decode('latin-1') }}", "\xff"),
        ("{% macro f() %}{{ varargs | join('-') }}{% endmacro %}{{ f(1, 2) }}", "1-2"),
    ],
)
def test_lists_of_a_template_are_what_they_were(template, expected):
    assert rendered(template, {"t": "t", "n": None, "raw": b"\xff"}) == expected


def test_bounds_grow_with_the_record():
    long = {"t": "word " * 4_000_000}
    assert len(rendered("{{ t | upper | lower | trim }}", long)) == 19_999_999


@pytest.mark.parametrize(
    "template",
    ["{{ " + "(" * 500 + "1" + ")" * 500 + " }}", "{% if a %}" * 900 + "{% endif %}" * 900, "{% for i in l %}" * 30],
)
def test_a_template_that_is_nested_too_deeply_is_reported_when_the_suite_is_read(template):
    if "for" in template:
        template += "{% endfor %}" * 30
    assert template_problems(template, ())
    with pytest.raises(UserError, match="a template cannot be read"):
        rendered(template)


def test_a_template_is_checked_against_the_columns_when_the_suite_is_read():
    columns = ("Class Index", "Title")
    assert template_problems("{{ Title }} {{ row['Class Index'] }} {{ range(2) | list | join }}", columns) == []
    assert "did you mean 'Class Index'" in template_problems("{{ row['Class Indx'] }}", columns)[0]
    assert "row['Class Index']" in template_problems("{{ Class Index }}", columns)[0]
    assert "No filter named 'random'" in template_problems("{{ range(9) | random }}", ())[0]


# targets


@pytest.mark.parametrize(
    ("target", "answers"),
    [
        ("{{ l }}", ("q", "z")),
        ("{{ row.l }}\n", ("q", "z")),
        ("{{ [n, ' a ', n] }}", ("3", "a", "3")),
        ("{{ l | map('upper') | list }}", ("Q", "Z")),
        ("{{ l[0] }}", ("q",)),
    ],
)
def test_a_target_may_be_a_list_of_right_answers(target, answers):
    assert Templates(Task("mine", "exact_match", prompt="p", target=target)).render(ROW).targets == answers


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("A: {{ l }}", "the field l is a list"),
        ("{{ [] }}", "an empty list"),
        ("{{ [x] }}", "a list with null"),
        ("{{ xs }}", "a list with"),
        ("{{ d }}", "the field d is a mapping"),
    ],
)
def test_a_target_that_is_no_list_of_texts_is_refused(target, part):
    with pytest.raises(Broken, match="target: ") as raised:
        Templates(Task("mine", "exact_match", prompt="p", target=target)).render(ROW)
    assert part in str(raised.value)


def test_only_decoded_answers_have_several_right_ones(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": ["x", "y"]}\n')
    made = {"files": {"test": str(tmp_path / "a.jsonl")}, "prompt": "p", "target": "{{ a }}"}
    (example,) = read.examples(Task("m", "exact_match", **made), "test")
    assert (example.target, example.references) == ("x", ("x", "y"))
    for kind, more in (("choice", {"choices": ("x", "y")}), ("language_modelling", {})):
        with pytest.raises(UserError, match=r"line 1 .*: target: a list of right answers; allowed for the kinds"):
            read.examples(Task("m", kind, **made, **more), "test")


# ready templates


@pytest.mark.parametrize(("name", "given", "answer"), [("alpaca", "input", "output"), ("dolly", "context", "response")])
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_instructions_with_null_inputs_are_read_in_every_format(tmp_path, name, given, answer, form):
    import pandas

    rows = [{"instruction": "add", given: None, answer: "3"}, {"instruction": "add", given: "1 2", answer: "3"}]
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pandas.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    ready = TEMPLATES[name]
    one = Task("m", ready.kind, files={"test": str(path)}, prompt=ready.prompt, target=ready.target)
    without, with_ = read.examples(one, "test")
    assert "nput" not in without.prompt
    assert "None" not in without.prompt
    assert "### Input:\n1 2" in with_.prompt
    rows[1][answer] = None
    pandas.DataFrame(rows).to_parquet(tmp_path / "b.parquet")
    bad = Task("m", ready.kind, files={"test": f"{tmp_path}/b.parquet"}, prompt=ready.prompt, target=ready.target)
    with pytest.raises(UserError, match=rf"b\.parquet, example 2: target: the field {answer} is null"):
        read.examples(bad, "test")


@pytest.mark.parametrize(
    ("text", "part"),
    [("a\\ud83d", r"character 2 is half a surrogate pair \(U\+D83D\)"), ("\\u0000", "NUL")],
)
@pytest.mark.parametrize("where", ["prompt", "target"])
def test_a_text_that_cannot_be_encoded_is_refused_with_file_and_line(tmp_path, text, part, where):
    (tmp_path / "a.jsonl").write_text('{"t": "fine"}\n\n{"t": "' + text + '"}\n')
    fixed = {"prompt": "p", "target": "t"} | {where: "{{ t }}"}
    with pytest.raises(UserError, match=rf"a\.jsonl, line 3 \(example 2\): {where}: .*{part}"):
        read.examples(Task("m", "exact_match", files={"test": f"{tmp_path}/a.jsonl"}, **fixed), "test")


def test_a_field_whose_name_cannot_be_encoded_can_be_printed(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"\\ud800": null, "t": "x"}\n')
    with pytest.raises(UserError) as raised:
        read.examples(Task("m", "generation", files={"test": f"{tmp_path}/a.jsonl"}, prompt="{{ z }}"), "test")
    assert "row['\\\\ud800'], t" in str(raised.value).encode().decode()


@pytest.mark.parametrize("settings", [{"choices": ("good", "bad")}, {"labels": {"good": "+", "bad": "-"}}, {}])
@pytest.mark.parametrize(("name", "content"), [("a.csv", "x,y\na,good\nb,\n"), ("a.jsonl", '{"x": "a", "y": null}\n')])
def test_the_advice_for_an_example_without_an_answer_works(tmp_path, settings, name, content):
    (tmp_path / name).write_text(content)
    kind = "choice" if "choices" in settings else "exact_match"
    files = {"test": str(tmp_path / name)}
    made = Task("m", kind, files=files, prompt="{{ x }}", target="{{ y }}", **settings)
    if not settings and name == "a.csv":
        (note,) = read.reading(made, "test").notes
        assert note.endswith("the answer is empty in 1 of 2 examples, so the right answer there is no text at all")
        return
    with pytest.raises(UserError, match="leave the example out of the data, or give it an answer") as raised:
        read.examples(made, "test")
    advice = re.search(r'target: "(.*?)"', str(raised.value))[1]
    assert advice == f"{{{{ y or '{'good' if settings else 'none'}' }}}}"
    found = read.examples(replace(made, target=advice), "test")
    assert found[-1].target == (settings.get("labels", {}).get("good") or ("good" if settings else "none"))
