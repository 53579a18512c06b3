"""What makes a trial the trial it is: the content of its base, its data and its settings, as one key. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench import PROTOCOL, bases
from peftbench.errors import UserError, nearest, unknown
from peftbench.methods import late_defaults
from peftbench.records import Base, Job, Trial

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_CONTENT = (".safetensors", ".json", ".model", ".txt", ".jinja", ".py")
"""File types of a model folder that decide what it computes."""


def resolve_base(base: Base) -> Path:
    """Return the local folder of a base: built-in, a folder, or a hub id fetched into (or found in) the hub's cache.

    Raises:
        UserError: if there is no such folder or hub model, or it holds no config or no safetensors weights.
    """
    if base.random_weights:
        return _shape(base.source)
    path = bases.folder(base.source) if base.source in bases.BASES else Path(base.source).expanduser()
    if on_hub(base):
        path = _from_hub(base)
    problem = _why_no_model(path)
    if problem:
        raise UserError(f"base {base.source!r}: {problem}")
    return path


def config_folder(base: Base) -> Path:
    """Return a folder with a base's config; weights need not be there, and of a hub id nothing else is fetched.

    Raises:
        UserError: if there is none.
    """
    if base.random_weights:
        return _shape(base.source)
    if on_hub(base):
        return _from_hub(base, ["config.json"])
    path = bases.folder(base.source) if base.source in bases.BASES else Path(base.source).expanduser()
    if not (path / "config.json").is_file():
        raise UserError(f"base {base.source!r}: {_why_no_model(path)}")
    return path


def read_config(base: Base) -> dict[str, Any]:
    """Return what the ``config.json`` of a base says; nothing where it is not here or cannot be read."""
    path = bases.folder(base.source) if base.source in bases.BASES else Path(base.source).expanduser()
    path = bases.shape(base.source) if base.random_weights else path
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # told by what needs it
        return {}
    return found if isinstance(found, dict) else {}


def on_hub(base: Base) -> bool:
    """Return whether a base is neither built-in nor a folder, and its name could be a hub id.

    Raises:
        UserError: if it could not.
    """
    source = base.source
    if base.random_weights or source in bases.BASES or Path(source).expanduser().is_dir():
        return False
    if not _HUB_ID.fullmatch(source) or ("/" not in source and _hint(source)):  # a name near one that is here is a typo
        raise UserError(_no_base(source))
    return True


def _shape(name: str) -> Path:
    """Return the folder with a shape's config.

    Raises:
        UserError: if there is none.
    """
    path = bases.shape(name)
    if not (path / "config.json").is_file():
        raise UserError(f"base.shape: no folder with a config.json, and {unknown('shape', name, bases.SHAPES)}")
    return path


def _why_no_model(path: Path) -> str | None:
    """Return why a folder cannot be loaded as a model, as far as its files tell; None where nothing is wrong."""
    if not (path / "config.json").is_file():
        return "the folder has no config.json, so it is no Hugging Face model folder"
    gone = sorted(p.name for p in path.iterdir() if not p.exists())
    if gone:
        return f"links to nothing, as after a broken download: {', '.join(gone)}"
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"config.json or {index.name} cannot be read: {error}"
    missing = sorted(name for name in shards if not (path / name).is_file())
    if whole.is_file() or (shards and not missing):
        return None
    if missing:
        return f"weights are missing: {', '.join(missing)} (named in {index.name})"
    kinds = ", ".join(sorted({p.suffix for p in path.iterdir() if p.suffix})) or "nothing"
    return f"the folder has no weights {whole.name}, nor {index.name} (found: {kinds})"


def _no_base(source: str) -> str:
    return (
        f"base {source!r}: neither a built-in base ({', '.join(bases.BASES)}) nor an existing folder nor a hub id "
        f"like 'organisation/model' or 'gpt2'{_hint(source)}"
    )


def _hint(source: str) -> str:
    """Return the nearest folder beside the one that is not there, or built-in base, as the end of a message."""
    parent = Path(source).expanduser().parent
    siblings = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    near = nearest(Path(source).name, [*siblings, *bases.BASES])
    return f"; did you mean {near!r}?" if near else ""


def hint_of_shape(source: str) -> str:
    """Return the shape whose name is near that of a base that is not there, as the end of a message."""
    near = nearest(source, bases.SHAPES)
    return f"; a shape is written base: {{shape: {near}}}" if near else ""


def _from_hub(base: Base, files: Sequence[str] = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*files]
    if base.trust_remote_code:
        patterns.append("*.py")
    asked = f"base {base.source!r}" + (f" at revision {base.revision!r}" if base.revision else "")
    try:
        return Path(snapshot_download(base.source, revision=base.revision, allow_patterns=patterns))
    except HFValidationError:
        raise UserError(_no_base(base.source)) from None
    except LocalEntryNotFoundError:
        state = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        raise UserError(
            f"{asked}: no such folder, and not in the hub's cache ({state}); give a local folder, or "
            f"fetch it first where there is a network{_hint(base.source)}{hint_of_shape(base.source)}"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(
            f"{asked}: no such folder, and the hub refused it: {reason}{_hint(base.source)}{hint_of_shape(base.source)}"
        ) from None


def base_fingerprint(folder: Path) -> str:
    """Return the SHA-256 of a model folder's config, weights, tokenizer and code files, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _CONTENT and p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def settings(trial: Trial) -> dict[str, Any]:
    """Return every resolved setting of a trial as plain data, paths reduced to file names."""
    tasks = []
    for task in trial.tasks:
        plain = _plain(task)
        plain["files"] = {split: Path(name).name for split, name in task.files.items()}
        if task.dataset is not None:
            plain["dataset"] = _without_folders(task.dataset)
        if task.lm_eval:
            plain["lm_eval"] = Path(task.lm_eval).name
        tasks.append(plain)
    return {
        "base": {**_plain(trial.base), "source": base_name(trial.base)},
        "method": trial.method,
        "precision": trial.precision,
        "rank": trial.rank,
        "options": dict(trial.options),
        "seed": trial.seed,
        "tasks": tasks,
        "evaluate": list(trial.evaluate),
        "train": _plain(trial.training) if trial.training else None,
        "evaluation": _plain(trial.evaluation),
        "device": trial.device,
        "threads": trial.threads,
    }


def _plain(record: Any) -> dict[str, Any]:
    """Return a record's fields; late ones at their default left out, so that older rows have the same settings."""
    plain = dataclasses.asdict(record)
    for each in dataclasses.fields(record):
        factory = each.default_factory
        default = each.default if factory is dataclasses.MISSING else factory()
        if each.metadata.get("late") and plain[each.name] == default:
            del plain[each.name]
    return plain


def base_name(base: Base) -> str:
    """Return a base's name without the path of a machine: the last part of a folder, or the hub id."""
    return _without_folders(base.source)


def _without_folders(source: str) -> str:
    path = Path(source).expanduser()
    return path.resolve().name if path.is_dir() else source


LOG = "; log: "
"""In a message, before the name of the log file."""


def told(job: Job, message: str, failed: bool) -> str:
    """Return a message as it is stored: without paths of this machine; that of a failure names the log.

    Args:
        job: whose message it is.
        message: what happened.
        failed: whether the log has more to tell.
    """
    log = f"{LOG}logs/{Path(job.log).name}" if failed and job.log else ""
    return without_paths(message) + log


_FOLDER = r"[^\s/=,'\"]+/"
_ABSOLUTE = re.compile(rf"(?<![\w./~])(?:/(?!/)(?:{_FOLDER})+|~/(?:{_FOLDER})*)")
"""The folders of an absolute path, or of one in the home folder; not the host of an address."""


def without_paths(text: str) -> str:
    """Return a text with every absolute path cut to its last part: no path of a machine is stored."""
    for place in sorted({str(Path.home()), str(Path.cwd())} - {"/"}, key=len, reverse=True):
        text = text.replace(f"{place}/", "")
    return _ABSOLUTE.sub("", text)


def key(trial: Trial, base_sha256: str, data_sha256: str) -> str:
    """Return the trial's key: 16 hexadecimal digits over everything that decides its numbers.

    Names of files, folders and revisions do not enter, their content does; nor do the suite's name and the time limit,
    nor a setting at its default that stored results are older than.
    """
    plain = settings(trial)
    late = late_defaults(trial.method)
    plain["options"] = {n: value for n, value in trial.options.items() if n not in late or value != late[n]}
    plain["base"] = {k: v for k, v in plain["base"].items() if k in ("trust_remote_code", "random_weights")}
    for task in plain["tasks"]:
        for where in ("files", "dataset", "config", "revision", "splits", "lm_eval"):
            task.pop(where, None)  # the content is in the data's hash
    everything: Mapping[str, Any] = {
        **plain,
        "base_sha256": base_sha256,
        "data_sha256": data_sha256,
        "protocol": PROTOCOL,
    }
    text = json.dumps(everything, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe(job: Job) -> dict[str, Any]:
    """Return the columns of a trial's row that are known before it runs."""
    trial, training = job.trial, job.trial.training
    known: dict[str, Any] = {
        "key": job.key,
        "suite": trial.suite,
        "base": base_name(trial.base),
        "method": trial.method,
        "cell": trial.cell,
        "precision": trial.precision,
        "rank": trial.rank,
        "seed": trial.seed,
        "settings_json": json.dumps(settings(trial), sort_keys=True, default=list),
        "device": trial.device,
        "threads": trial.threads,
        "workers": job.workers,
        "protocol": PROTOCOL,
        "base_sha256": job.base_sha256,
        "data_sha256": job.data_sha256,
        "environment_json": job.environment_json,
        "overlap_json": job.overlap_json,
    }
    if training is not None:
        for name in ("learning_rate", "optimizer", "batch_size", "micro_batch_size", "sequence_length"):
            known[name] = getattr(training, name)
    return known
