"""How results folders at a URL are called: no user, password or query in messages or in files."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from peftbench import cli
from peftbench.commands import dated_folder
from peftbench.errors import UserError
from peftbench.results import remote, remote_names
from tests.support.remote_runs import run_trials, seeds_at

SECRET = "http://me:p@ss/word@host/r?token=tok-123456&X-Amz-Signature=sig%2F98765"
PASSWORDS = {
    "sftp://me:hunter2@host/r@x": ("hunter2",),
    "https://me:hunter2@host/r?sig=a@b.c1": ("hunter2", "a@b.c1"),
    "sftp://me:12/34@host/r": ("12/34", "34"),
    "sftp://me:p@ss/word@host/r": ("p@ss/word", "ss/word", "word"),
    "sftp://me:pass%2Fword@host/r": ("pass%2Fword", "pass/word"),
    "sftp://me:12?34@host/r": ("12?34", "34"),
    "https://host/r?tok-123456&x=1": ("tok-123456",),
    SECRET: ("p@ss", "word", "tok-123456", "sig/98765", "sig%2F98765"),
}
"""URLs with what no output may show of them."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(UserError) as raised:
        remote.fetched("ftpp://me:secret@host/r")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("s3://bucket/a@b?x#c@d", "s3://bucket/a@b"),
        ("sftp://host:22/r", "sftp://host:22/r"),
        ("sftp://[::1]:22/r?x=1", "sftp://[::1]:22/r"),
        ("sftp://me:p@ss@host/r", "sftp://host/r"),
        ("sftp://me:p?ss@host/r", "sftp://host/r"),
        ("sftp://me@host/r@x", "sftp://host/r@x"),
        ("https://host/r?sig=abc#x", "https://host/r"),
        ("https://host?sig=a@b/c", "https://host"),
        ("https://me:hunter2@host/r?sig=a@b.c1", "https://host/r"),
        ("sftp://me:pa/ss@host/r", "sftp://host/r"),
        ("sftp://me:12/34@host/r", "sftp://host/r"),
        ("sftp://me:p@ss/word@host/r", "sftp://host/r"),
        ("sftp://me@corp:12/34@host/r", "sftp://host/r"),
        ("sftp://me:hunter2@host/r@x", "sftp://x"),  # as a password with an @ and a slash
        ("sftp://me:12?34@host/r", "sftp://***"),  # or a port and a query
        ("sftp://me:p@a?b@host/r", "sftp://***"),
        (SECRET, "http://host/r"),
    ],
)
def test_user_password_and_query_of_a_url_are_not_shown(url: str, shown: str) -> None:
    assert remote_names.without_secrets(url) == shown


@pytest.mark.parametrize("url", PASSWORDS)
def test_a_librarys_message_is_shown_without_the_secrets_of_the_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("me", *PASSWORDS[url])

    def broken(given: str, **more: object) -> None:
        whole = given.partition("://")[2].rpartition("@")[0]
        raise RuntimeError(
            f"{given} failed for {whole}, {url.upper()}: login {' '.join(secrets)} refused at {url}/trials"
        )

    monkeypatch.setattr(fsspec.core, "url_to_fs", broken)
    with pytest.raises(UserError) as raised:
        remote.fetched(url)
    said = str(raised.value)
    shown = remote_names.without_secrets(url)
    assert said.startswith(f"{shown} cannot be used: RuntimeError: {shown} failed for")
    assert "refused at" in said
    assert not [secret for secret in PASSWORDS[url] if secret in said]
    if "me:" in url:
        assert "login *** ***" in said


def test_a_short_user_does_not_garble_a_message() -> None:
    error = OSError("cannot read a file at sftp://a@host/r")
    assert remote_names.reason(error, "sftp://a@host/r") == "OSError: cannot read *** file at sftp://host/r"


def test_another_url_in_a_message_has_no_secrets() -> None:
    error = RuntimeError("moved to https://you:pa/ss@other/r?sig=abc now")
    assert remote_names.reason(error, "https://host/r") == "RuntimeError: moved to https://other/r now"


@pytest.mark.parametrize(
    "secret_part", ["me:hunter2@bucket/r@x", "me:12/34@bucket/r", "me:p@ss/word@bucket/r", "me:hunter2@bucket"]
)
def test_no_file_of_results_or_of_their_copy_has_a_password(
    secret_part: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, system = f"memory://{secret_part}", fsspec.filesystem("memory")
    system.store.clear()
    run_trials(url, range(1), monkeypatch)
    assert seeds_at(url) == [0]
    noted = [
        (place / ".url").read_text() for use in ("run", "read") for place in cache.glob(f"peftbench/results/{use}/*/*")
    ]
    assert noted == [remote_names.without_secrets(url)] * 2
    written = {path.name: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    written |= {str(number): each.getvalue() for number, each in enumerate(system.store.values())}
    user_info = remote_names.split(url).user_info
    password = user_info.partition(":")[2]
    for text in (user_info, f"{password}@", f"{password.rpartition('/')[2]}@"):
        assert not [name for name, content in written.items() if text.encode() in content]
        assert not [path for path in cache.rglob("*") if text in str(path)]
    assert not [path for path in cache.rglob("*") if "hunter2" in str(path)]
    system.store.clear()


def test_a_copys_folder_is_not_named_by_a_query(cache: Path) -> None:
    assert remote.copy_of("https://host/nights?token=tok-123456", "run").name == "nights"
    assert remote.copy_of("sftp://me:hunter2@host", "run").name == "host"
    assert remote.copy_of("sftp://me:12?34@host/r", "run").name == "___"


def test_a_name_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote_names.note(tmp_path, "sftp://host/old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written: No space left on device"):
        remote_names.note(tmp_path, "sftp://host/new")
    assert remote_names.name_of(tmp_path) == "sftp://host/old"
    assert [path.name for path in tmp_path.iterdir()] == [".url"]


@pytest.mark.parametrize(
    ("url", "root", "night"),
    [
        ("s3://bucket/nights/", "bucket/nights", "s3://bucket/nights/n"),
        ("sftp://me:p?ss@host/nights", "/nights", "sftp://me:p?ss@host/nights/n"),
        ("sftp://host/nights?x=1", "/nights", "sftp://host/nights/n?x=1"),
        ("https://host/nights/?sig=abc", "https://host/nights/?sig=abc", "https://host/nights/n?sig=abc"),
        ("file:///data/nights?1", "/data/nights?1", "file:///data/nights?1/n"),
    ],
)
def test_a_nights_name_comes_before_the_query(url: str, root: str, night: str) -> None:
    assert remote_names.inside(url, "n", root) == night


def test_what_refuses_a_url_does_not_repeat_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="results 'sftp:/host/r': did you mean 'sftp://host/r'"):
        remote.named("sftp:/me:hunter2@host/r")
    with pytest.raises(UserError, match=r"--results sftp://host/r-\{day\}: \{day\} stands for nothing"):
        dated_folder.results_folder("sftp://me:hunter2@host/r-{day}")
    assert cli.main(["import", "hf-method-comparison", "x.csv", "-o", "sftp://me:hunter2@host/r"]) == 2
    assert "import sftp://host/r: files and -o are on this machine" in capsys.readouterr().err
