"""``peftbench list``: methods, tasks, precisions, suites and model shapes as text, read from their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from peftbench import suite
from peftbench.commands.terminal import WIDTH, aligned, hanging, wrapped
from peftbench.errors import UserError, nearest, unknown
from peftbench.measure import device
from peftbench.methods import METHODS, Method, method_of, peft_fields, profiles, strategies
from peftbench.methods.record import Setting, shown
from peftbench.methods.support import why_unsupported
from peftbench.models import builtin, find
from peftbench.models.precision import PRECISIONS
from peftbench.records import OPTIMIZERS, STRATEGIES, Base
from peftbench.suite.wording import describe_type
from peftbench.tasks import TASKS
from peftbench.tasks.templates import TEMPLATES

KINDS = ("methods", "tasks", "precisions", "optimizers", "suites", "shapes")
_LABEL = 13
"""Width of the labels of facts."""


def text(what: str) -> str:
    """Return the list of one of ``KINDS``: a block of lines per method, and one line per entry of the others."""
    if what == "methods":
        here = device.resolve("auto")
        return "\n".join(_block(method, here) for method in METHODS.values())
    return aligned(_TABLES[what]())


def method(name: str) -> str:
    """Return the details of one method: its facts, and each setting with its default, meaning and allowed values.

    Args:
        name: the name of a method, or of one of peft's tuners.

    Raises:
        UserError: if no method has this name; the message names the nearest one.
    """
    record = METHODS[name] if name in METHODS else _tuner(name)
    if record.variants and not record.variant:
        more = [*hanging(f"  {peft_fields.TYPE}  ", ", ".join(peft_fields.tuners())), ""]
        more += ["  For the fields of a tuner's config: peftbench list methods TUNER", ""]
    else:
        more = [_setting(key, setting) for key, setting in record.options.items() if key != peft_fields.TYPE]
    published = [
        line
        for profile in profiles.RECIPES
        if (recipe := profiles.recipe(profile, name))
        for line in hanging(f"  profile {profile}  ", profiles.describe(recipe))
    ]
    block = _block(record, device.resolve("auto"), settings=False)
    return "\n".join([block, *more, *published]).rstrip("\n") + "\n"


def optimizer(name: str) -> str:
    """Return the details of one optimizer: source, state, what it trains and excludes, rates, devices, departures.

    Raises:
        UserError: if no optimizer has this name; the message names the nearest one.
    """
    if name not in OPTIMIZERS:
        raise UserError("list optimizers: " + unknown("optimizer", name, OPTIMIZERS))
    o = OPTIMIZERS[name]
    only, why = o.only_schedule
    sizes = " and ".join(f"{o.bytes_per_value(width):.3g} ({kind})" for width, kind in ((4, "fp32"), (2, "bf16-true")))
    facts = {
        "source": o.source,
        "made by": o.made_by,
        "extra": f"pip install 'peftbench[{o.extra}]'" if o.extra else "",
        "state": f"{o.state} (bytes of a tensor of n values of b bytes)" if o.bytes_per_value() else o.state,
        "per value": f"{sizes} bytes of a 4096 x 4096 matrix" if o.bytes_per_value() else "",
        "trains": f"only whole models: {o.only_full}" if o.only_full else "every method",
        "schedule": f"{only} alone: {why}" if only else "",
        "needs": "clip_norm: null, and no micro-batches: each gradient is freed once used" if o.in_backward else "",
        "rates": o.rate,
        "devices": ", ".join(["one", *(s for s in STRATEGIES if strategies.divides(s, o))]),
        "differs": o.departs,
    }
    lines = wrapped(f"{o.name}: {o.title}", WIDTH, "  ")
    for label, fact in facts.items():
        lines += hanging(f"  {label:{_LABEL}}", fact) if fact else []
    return "\n".join(lines) + "\n"


def _tuner(name: str) -> Method:
    """Return the record of one of peft's tuners."""
    tuners = peft_fields.tuners()
    tuner = peft_fields.tuner_like(name)
    if tuner is None:
        raise UserError(
            "list methods: " + unknown("method", name, [*METHODS, *tuners] if _like_a_tuner(name, tuners) else METHODS)
        )
    return method_of("peft", {peft_fields.TYPE: tuner})


def _like_a_tuner(name: str, tuners: Iterable[str]) -> bool:
    """Whether a name resembles that of a tuner and not that of a method."""
    return nearest(name, METHODS) is None and nearest(name, tuners) is not None


def markdown(what: str) -> str:
    """Return ``methods``, ``settings`` or ``precisions`` as a Markdown table.

    Methods of other packages are left out, so that the table is the same on every machine.
    """
    head, *rows = {"methods": _methods, "settings": _settings, "precisions": _precisions}[what]()
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _block(m: Method, here: str, settings: bool = True) -> str:
    """Return the facts of a method: paper, size, precisions on a device, training settings and options."""
    absent: dict[str, list[str]] = {}
    for precision in PRECISIONS:
        message = why_unsupported(m, precision, here)
        if message:
            absent.setdefault(_reason(m, precision, message), []).append(precision)
    present = [p for p in PRECISIONS if why_unsupported(m, p, here) is None]
    facts = {
        "paper": m.paper,
        "size": f"{m.rank_key}={_default_rank(m)}: {m.rank_meaning}" if m.rank_meaning else "",
        f"on {here}": " ".join(p if p != m.default_precision else f"{p} (default)" for p in present),
        "unsupported": "; ".join(f"{' '.join(names)}: {reason}" for reason, names in absent.items()),
        "training": ", ".join(f"{key}={shown(value)}" for key, value in m.training.items()),
        "without": f"gradient checkpointing: {m.why_no_checkpointing}" if m.why_no_checkpointing else "",
        "settings": _in_short(m.options) if settings else "",
    }
    name = " ".join(filter(None, (m.name, m.variant)))
    lines = [f"{name}: {m.title}"]
    for label, fact in facts.items():
        lines += hanging(f"  {label:{_LABEL}}", fact) if fact else []
    return "\n".join(lines) + "\n"


def _reason(m: Method, precision: str, message: str) -> str:
    """Return why a precision is unsupported without naming it, so that precisions can be grouped by reason."""
    if precision not in m.precisions:
        return m.why_not or message
    return f"only on {', '.join(PRECISIONS[precision].devices)}"


def _default_rank(m: Method) -> str:
    return "–" if m.default_rank is None else str(m.default_rank)


def _in_short(options: Mapping[str, Setting]) -> str:
    return ", ".join(f"{name}={_default(setting)}" for name, setting in options.items())


def _default(setting: Setting) -> str:
    """Return a default as a suite file would give it."""
    if setting.default is None or setting.default == {}:
        return setting.shown or ("null" if setting.default is None else "{}")
    return setting.shown or shown(setting.default)


def _setting(name: str, setting: Setting) -> str:
    """Return one setting: its default, its meaning and its allowed values."""
    lines = [f"  {name}={_default(setting)}"]
    for text in (setting.doc, f"allowed: {_allowed(setting)}"):
        lines += hanging("      ", text) if text else []
    return "\n".join(lines) + ("\n" if setting.doc else "")


def _allowed(setting: Setting) -> str:
    only = f"; only with {setting.only_with[0]}: {setting.only_with[1]}" if setting.only_with else ""
    return describe_type(setting.type) + only


def _methods() -> list[list[str]]:
    """Return a row per method, with the precisions that it supports on any device."""
    rows = [["method", "description", "meaning of rank", "default", "precisions", "paper"]]
    for m in METHODS.own.values():
        precisions = "all" if set(m.precisions) == set(PRECISIONS) else " ".join(m.precisions)
        rows.append([m.name, m.title, m.rank_meaning or "–", _default_rank(m), precisions, m.paper or "–"])
    return rows


def _settings() -> list[list[str]]:
    """Return a row per setting; methods with the same setting share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for m in METHODS.own.values():
        for name, setting in m.options.items():
            row = (f"`{name}`", _default(setting), _allowed(setting), setting.doc)
            rows.setdefault(row, []).append(m.name)
    return [
        ["method", "setting", "default", "allowed", "description"],
        *([", ".join(methods), *row] for row, methods in rows.items()),
    ]


def _tasks() -> list[list[str]]:
    """Return a row per built-in task, then a row per template for the user's own data."""
    built_in = [[t.name, t.kind, t.doc] for t in TASKS.values()]
    templates = [[f"template: {t.name}", t.kind, f"{t.doc}; reads {t.reads}"] for t in TEMPLATES.values()]
    return [["task", "kind", "description"], *built_in, *templates]


def _precisions() -> list[list[str]]:
    return [
        ["precision", "devices", "description"],
        *([p.name, " ".join(p.devices), p.doc] for p in PRECISIONS.values()),
    ]


def _optimizers() -> list[list[str]]:
    """Return a row per optimizer, with the state that it keeps of a large matrix in fp32."""
    return [
        ["optimizer", "bytes/parameter", "extra", "description"],
        *([o.name, f"{o.bytes_per_value():.3g}", o.extra or "–", o.title] for o in OPTIMIZERS.values()),
    ]


def _suites() -> list[list[str]]:
    import yaml

    described = ((name, yaml.safe_load(suite.find(name).read_text(encoding="utf-8"))) for name in suite.names())
    return [["suite", "description"], *([name, str(content.get("description", "–"))] for name, content in described)]


def _shapes() -> list[list[str]]:
    rows = [["shape", "family", "experts", "layers", "width"]]
    for name in builtin.SHAPES:
        config = find.read_config(Base(name, random_weights=True))
        sizes = [config.get(key) or config.get(other, "–") for key, other in _SIZES]
        rows.append([name, config["model_type"], *map(str, sizes)])
    return rows


_SIZES = (("num_local_experts", ""), ("num_hidden_layers", "n_layer"), ("hidden_size", "n_embd"))
"""Keys of the sizes in configs, and what some families call them instead."""
_TABLES = {"tasks": _tasks, "precisions": _precisions, "optimizers": _optimizers, "suites": _suites, "shapes": _shapes}
