"""Notes on the score after deployment: under its own table, and on the cells whose score falls under the main one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.methods import deployed_forms
from peftbench.records.wording import abridged, agreeing, series
from peftbench.report.collect import Results
from peftbench.report.derived.deployed import Deployed, deployed

_MOST = 8
"""Forms that are named before the others are only counted."""


def falls(results: Results) -> Iterable[str]:
    """Yield the cells whose score falls significantly when they are deployed in a form."""
    found = sorted((one for one in deployed(results) if one.falls), key=_value)
    if found:
        named = abridged([_with_change(one) for one in found], _MOST)
        yield (
            f"The score falls after deployment, significantly after Holm's correction for all forms: {named}. See the "
            "table of the score after deployment."
        )


def notes(found: Sequence[Deployed]) -> Iterable[str]:
    """Yield what the table shows, what is missing in it and why."""
    yield (
        "Score after deployment: the tuned model saved, loaded by plain transformers and peft, and scored on the same "
        "examples. Change: deployed minus scored, paired by seed and example; ±: half of the 95 % interval"
        f"{_scope(found)}; ↓: significantly lower after Holm's correction for all rows. Worse, better: share of the "
        "examples with a lower or a higher outcome. Loss: on the examples' targets. On disk: the form's own files, of "
        "an adapter without its base model."
    )
    merged = {one.form: one.numbers.dtype for one in found if one.numbers and one.form == "merged"}
    if "float32" in merged.values():
        yield "Merged weights are fp32 in cells whose precision is fp32."
    yield from _engines(found)
    for remark in dict.fromkeys(one.remark for one in found if one.remark and one.numbers):
        cells = dict.fromkeys(one.cell.name for one in found if one.remark == remark and one.numbers)
        forms = dict.fromkeys(one.form for one in found if one.remark == remark and one.numbers)
        yield f"{series(list(forms))} of {abridged(list(cells), _MOST)}: {remark}."
    absent = [(one.cell.name, one.form, message) for one in found for message in one.refused]
    failed = [(one.cell.name, one.form, why) for one in found for why in one.messages if why not in one.refused]
    for sentence in (*deployed_forms.sentences(absent), *deployed_forms.sentences(failed, "failed")):
        yield f"{sentence[0].upper()}{sentence[1:]}."


def _engines(found: Sequence[Deployed]) -> Iterable[str]:
    """Yield which forms another engine scored, and how far its numbers are from the trained model's."""
    beside = [(one.form, one.numbers.beside) for one in found if one.numbers and one.numbers.beside]
    for words in dict.fromkeys(each.engines for _, each in beside):
        mine = [(form, each) for form, each in beside if each.engines == words]
        texts, equal = (sum(getattr(each, name) for _, each in mine) for name in ("texts", "equal_texts"))
        decoded = f", and {equal:,} of {texts:,} decoded texts are the same" if texts else ""
        forms = list(dict.fromkeys(form for form, _ in mine))
        yield (
            f"{series(forms)} {agreeing(len(forms), 'is', 'are')} loaded and scored by {series(list(words))} with the "
            f"same tokens. Of {sum(each.logprobs for _, each in mine):,} log-probabilities of choices and targets none "
            f"differs by more than {max(each.logprob_difference for _, each in mine):.2g} nats from the trained "
            f"model's{decoded}."
        )


def _scope(found: Sequence[Deployed]) -> str:
    scopes = sorted({one.change.scope for one in found if one.change})
    return f" for {' or for '.join(scopes)}" if scopes else ""


def _value(one: Deployed) -> float:
    return one.change.value if one.change else 0.0


def _with_change(one: Deployed) -> str:
    numbers = one.numbers
    assert numbers is not None
    return f"{one.cell.name} as {one.form} ({100 * numbers.scored:.1f} to {100 * numbers.score:.1f})"
