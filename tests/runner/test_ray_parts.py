"""Parts of the executor for Ray, without a cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peftbench import cli
from peftbench.errors import UserError
from peftbench.measure import environment
from peftbench.records import Base, Devices, Phase, Retention
from peftbench.runner import prepare
from peftbench.runner.executor import Event, kinds, local
from peftbench.runner.executor.ray import cluster, files, inputs, losses, worker
from peftbench.runner.executor.ray.asked import Asked
from peftbench.runner.executor.ray.spans import Spans
from peftbench.suite import trial_key
from peftbench.version import __version__
from tests.support import trials
from tests.support.exports import library
from tests.support.results_factory import make_result


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for found in (inputs.content, inputs.fingerprint):
        found.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def elsewhere(tiny: Path, tmp_path: Path) -> tuple[Any, inputs.Named]:
    """A job of a machine whose base model and data are not here, and what it reads by content."""
    base = Path(shutil.copytree(tiny, tmp_path / "there" / "tiny"))
    text = tmp_path / "there" / "text.txt"
    text.write_text("one two\n")
    job = trials.job(trials.trial(base, tmp_path / "there", retention=Retention(file=str(text))), tmp_path)
    return job, inputs.named(job)


def sent(wanted: inputs.Named) -> dict[str, list[tuple[str, bytes]]]:
    sources = [wanted.base, *wanted.data.values()]
    return {s.sha256: [(name, path.read_bytes()) for name, path in inputs.packed(s)] for s in sources}


def located(job: Any, wanted: inputs.Named, given: Any) -> Any:
    return inputs.located(job, wanted, given, lambda content: content)


def test_inputs_at_the_same_path_with_the_same_content_are_taken(elsewhere: Any) -> None:
    job, wanted = elsewhere
    assert located(job, wanted, {}) == job


def test_inputs_that_are_not_here_are_asked_for_and_those_that_were_sent_are_found(elsewhere: Any, cache: Path) -> None:
    job, wanted = elsewhere
    given = sent(wanted)
    key = trial_key.key(job.trial, job.base_sha256, job.data_sha256, "t" * 64)
    shutil.rmtree(Path(job.base_folder).parent)
    for found in (inputs.content, inputs.fingerprint):
        found.cache_clear()
    with pytest.raises(inputs.Missing) as missing:
        located(job, wanted, {})
    assert missing.value.source == wanted.base
    here = located(job, wanted, given)
    assert Path(here.base_folder) == cache / "peftbench" / "ray" / "base" / job.base_sha256 / "tiny"
    assert here.trial.base.source == here.base_folder
    assert Path(here.trial.tasks[0].files["train"]).name == "colours.jsonl"
    assert Path(here.trial.retention.file).read_text() == "one two\n"
    assert trial_key.key(here.trial, job.base_sha256, job.data_sha256, "t" * 64) == key
    assert (
        prepare.Inputs().key(dataclasses.replace(here.trial, retention=None))
        == trials.job(dataclasses.replace(here.trial, retention=None), cache).key
    )
    assert located(job, wanted, {}) == here, "they are kept"


def test_an_input_with_other_content_at_the_same_path_is_not_taken(elsewhere: Any) -> None:
    job, wanted = elsewhere
    given = sent(wanted)
    data = Path(job.trial.tasks[0].files["train"])
    data.write_text(data.read_text().replace("blue", "green"))
    inputs.content.cache_clear()
    here = located(job, wanted, given)
    assert here.base_folder == job.base_folder
    assert here.trial.tasks[0].files["train"] != str(data)
    assert "blue" in Path(here.trial.tasks[0].files["train"]).read_text()


def test_what_is_sent_and_is_not_what_was_named_is_not_taken(elsewhere: Any) -> None:
    job, wanted = elsewhere
    given = sent(wanted)
    given[wanted.base.sha256][0] = (given[wanted.base.sha256][0][0], b"{}")
    shutil.rmtree(Path(job.base_folder))
    inputs.fingerprint.cache_clear()
    with pytest.raises(inputs.Missing):
        located(job, wanted, given)


@pytest.mark.parametrize("leftover", ["damaged", "foreign"])
def test_an_input_that_was_damaged_in_the_cache_is_replaced(elsewhere: Any, leftover: str) -> None:
    job, wanted = elsewhere
    given = sent(wanted)
    shutil.rmtree(Path(job.base_folder).parent)
    here = located(job, wanted, given)
    text = Path(here.trial.retention.file)
    for file in (Path(here.base_folder) / "config.json", text):
        file.unlink() if leftover == "foreign" else file.write_text("{")
        (file.parent / "other").write_text("of someone else")
    for found in (inputs.content, inputs.fingerprint):
        found.cache_clear()
    with pytest.raises(inputs.Missing):
        located(job, wanted, {})
    assert located(job, wanted, given) == here
    assert text.read_text() == "one two\n"
    assert not list(text.parents[1].glob(f".*{text.name}*")), "nothing is left beside it"


def test_what_is_too_large_is_not_sent(elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, wanted = elsewhere
    monkeypatch.setattr(inputs, "SENT_BYTES", 1000)
    with pytest.raises(UserError, match=r"0\.0 GiB, and at most .* GiB are sent.*same path on each, or name .* hub id"):
        inputs.packed(wanted.base)
    source = dataclasses.replace(next(iter(wanted.data.values())), sendable=False)
    with pytest.raises(UserError, match="may include files beside it"):
        inputs.packed(source)


def test_a_built_in_base_is_taken_from_the_package_of_the_node(tiny: Path, tmp_path: Path) -> None:
    made = dataclasses.replace(trials.trial(tiny, tmp_path), base=Base("nano"))
    job = trials.job(made, tmp_path)
    wanted = inputs.named(job)
    assert not wanted.base_is_folder
    gone = dataclasses.replace(wanted, base=dataclasses.replace(wanted.base, path="/no/such/folder"))
    assert located(dataclasses.replace(job, base_folder="/no/such/folder"), gone, {}) == job


def order(job: Any, mark: str = "", **more: Any) -> bytes:
    wanted = inputs.Named(inputs.Source(job.base_folder, job.base_sha256, "base"), True, {})
    return pickle.dumps(worker.Order(job, wanted, mark, more.pop("environment", {}), **more))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without Ray."""
    context = SimpleNamespace(get_node_id=lambda: "n" * 56)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_runtime_context=lambda: context, get=None))


def worked(payload: bytes, code: str | None = None, version: str = __version__) -> list[Any]:
    messages = list(worker.work(version, code or environment.code_sha256(), payload, {}))
    assert messages[0][0] == "here"
    return messages[1:]


@pytest.mark.usefixtures("node")
def test_a_node_with_another_peftbench_refuses_without_reading_what_it_is_sent() -> None:
    ((kind, (what, why)),) = worked(b"no pickle", version="0.0.1")
    assert (kind, what) == ("refused", "")
    assert why == f"the command has peftbench 0.0.1, and it has {__version__}: install the same on every machine"
    ((_, (_, why)),) = worked(b"no pickle", code="0" * 64)
    assert "the same version from another source" in why


def local_run(monkeypatch: pytest.MonkeyPatch, status: str = "ok") -> list[Any]:
    """Let the local executor give a result at once; return the jobs that it is given."""
    given: list[Any] = []

    def run(jobs: Any, workers: int) -> Any:
        (job,) = jobs
        given.append(job)
        Path(job.log).write_text("some words")
        if job.adapter_folder:
            Path(job.adapter_folder).mkdir(parents=True)
            (Path(job.adapter_folder) / "a.safetensors").write_bytes(b"x" * 5)
        yield Event(job, Phase.START, process=1)
        for step in range(1, 101):
            yield Event(job, Phase.TRAIN, step, 100, 0.5)
        yield Event(job, Phase.TRAIN, result=make_result(key=job.key, status=status))

    monkeypatch.setattr(local, "run", run)
    return given


@pytest.mark.usefixtures("node")
def test_steps_are_told_every_so_often_and_the_last_one_always(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_run(monkeypatch)
    messages = worked(order(trials.job(trials.trial(tiny, tmp_path), tmp_path)))
    assert [(kind, content[1]) for kind, content in messages if kind == "event"] == [
        ("event", 0),
        ("event", 1),
        ("event", 100),
    ]
    assert messages[-1][0] == "result"


@pytest.mark.usefixtures("node")
def test_a_node_that_has_the_results_folder_uses_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = local_run(monkeypatch)
    job = dataclasses.replace(trials.job(trials.trial(tiny, tmp_path), tmp_path), environment_json='{"command": "c"}')
    (tmp_path / worker.MARK).write_text("this one")
    worked(order(job, "this one"))
    assert (given[0].scratch, given[0].log) == (job.scratch, job.log)
    described = json.loads(given[0].environment_json)
    assert described["command"] == "c"
    assert described["packages"] == environment.describe()["packages"]
    assert given[0].visible_devices is None


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("status", ["ok", "error"])
def test_a_node_without_the_results_folder_sends_log_and_adapter(
    status: str, tiny: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = local_run(monkeypatch, status)
    monkeypatch.setattr(worker, "PIECE_BYTES", 2)
    results = tmp_path / "results"
    (results / "logs").mkdir(parents=True)
    job = trials.job(trials.trial(tiny, tmp_path), results)
    job = dataclasses.replace(job, adapter_folder=str(results / "adapters" / job.key), log=str(results / "logs" / "l"))
    messages = worked(order(job, "this one"))
    assert Path(given[0].scratch) == cache / "peftbench" / "ray" / "running"
    assert not list(Path(given[0].scratch).glob("*/*")), "nothing is left on the node"
    for kind, content in messages:
        if kind in ("log", "adapter"):
            files.receive(job, kind, content)
    assert not Path(job.adapter_folder).exists(), "it appears whole"
    files.finish(job, messages[-1][1][0], dict(messages)["files"])
    assert not list(results.glob(".saving-*"))
    if status == "ok":
        assert (Path(job.adapter_folder) / "a.safetensors").read_bytes() == b"x" * 5
        assert not Path(job.log).exists()
    else:
        assert Path(job.log).read_text() == "some words"
        assert not Path(job.adapter_folder).exists()


@pytest.mark.usefixtures("node")
def test_a_node_whose_hub_data_differ_refuses_the_trial(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_run(monkeypatch)
    job = trials.job(trials.trial(tiny, tmp_path), tmp_path)
    assert worked(order(job, checks_key=True))[-1][0] == "result"
    ((kind, (what, why)),) = worked(order(dataclasses.replace(job, key="0" * 16), checks_key=True))
    assert (kind, what) == ("refused", job.data_sha256)
    assert "give their revision" in why


@pytest.mark.usefixtures("node")
def test_a_node_has_the_variables_of_the_command(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_run(monkeypatch)
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "PEFTBENCH_X", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "7")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    told = dict(Asked(trials.job(trials.trial(tiny, tmp_path), tmp_path), None).order("").environment)  # type: ignore[arg-type]
    assert told["PEFTBENCH_X"] == told["OMP_NUM_THREADS"] == "7"
    assert told["PYTORCH_ALLOC_CONF"] is None
    assert not {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PEFTBENCH_RUNNER_PID"} & set(told), "no secret is sent"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "of the node")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    worked(order(trials.job(trials.trial(tiny, tmp_path), tmp_path), environment=told))
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "PYTORCH_ALLOC_CONF" not in os.environ


@pytest.mark.usefixtures("node")
def test_a_worker_of_ray_takes_back_the_priority_that_ray_has_given_up(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts its workers with a niceness of 15; only the superuser may lower it."""
    asked: list[tuple[int, ...]] = []

    def refused(*priority: int) -> None:
        asked.append(priority)
        raise PermissionError

    local_run(monkeypatch)
    monkeypatch.setattr(os, "setpriority", refused)
    assert worked(order(trials.job(trials.trial(tiny, tmp_path), tmp_path)))[-1][0] == "result"
    assert asked == [(os.PRIO_PROCESS, 0, 0)]


def test_what_ran_beside_a_trial_is_known_whatever_the_order_of_messages() -> None:
    spans = Spans()
    first, second = spans.begin("a", 10.0), spans.begin("a", 5.0)
    spans.begin("b", 10.0)
    assert spans.beside("a", first) == 1
    second.ended = 9.0
    assert spans.beside("a", first) == 0
    third = spans.begin("a", 11.0)
    fourth = spans.begin("a", 12.0)
    third.ended = 11.5
    assert spans.beside("a", first) == 1, "two others, but not at the same time"
    assert spans.beside("a", fourth) == 1
    first.ended = fourth.ended = 13.0
    spans.begin("a", 20.0)
    assert len(spans.by_node["a"]) == 1, "what is over is forgotten"


def test_losses_say_what_happened_without_addresses() -> None:
    ray = library("ray", "ray")
    errors = ray.exceptions
    made = losses.loss(errors.NodeDiedError("the node with IP 10.0.0.7 died"), 0)
    assert (made.reason, made.status, made.final) == ("its node was lost", "killed", False)
    assert losses.loss(errors.WorkerCrashedError(), 0).reason == "the process of Ray that ran it ended"
    assert losses.loss(errors.OutOfMemoryError("10.0.0.7"), 0).final
    shared = losses.loss(errors.OutOfMemoryError("10.0.0.7"), 2)
    assert (shared.status, shared.final, shared.alone) == ("killed", False, True), "another may have filled the node"
    assert "up to 2 other trials" in shared.reason
    assert losses.loss(errors.RaySystemError("x"), 0).reason == "Ray lost it (RaySystemError)"
    with pytest.raises(UserError, match="the same command continues"):
        losses.loss(errors.LocalRayletDiedError(), 0)


def test_a_trial_reserves_its_threads_whole_gpus_and_its_budget(tiny: Path, tmp_path: Path) -> None:
    made = trials.trial(tiny, tmp_path, threads=3)
    job = dataclasses.replace(trials.job(made, tmp_path), budget_bytes=2**30)
    assert cluster.needs(job) == {"CPU": 3.0, "GPU": 0.0, "memory": 2.0**30}
    on_gpu = cluster.needs(dataclasses.replace(job, trial=dataclasses.replace(made, device="cuda")))
    assert on_gpu == {"CPU": 3.0, "GPU": 1.0, "memory": 0.0}
    several = dataclasses.replace(made, devices=Devices("fsdp2", 4))
    assert cluster.reserved(several)["CPU"] == 12.0
    assert cluster.reserved(dataclasses.replace(several, device="cuda"))["GPU"] == 4.0
    placed = dataclasses.replace(several, device="cuda", devices=Devices("device_map", 4))
    assert (cluster.reserved(placed)["CPU"], cluster.reserved(placed)["GPU"]) == (3.0, 4.0), "one process"
    node = cluster.Node("a", {"CPU": 8.0, "GPU": 4.0, "memory": 10.0 * 2**30})
    assert node.trials(on_gpu) == 2
    assert node.trials(cluster.reserved(made)) == 2
    assert cluster.Node("b", {"CPU": 8.0}).trials(on_gpu) == 0
    assert cluster.shown(on_gpu) == "3 CPUs, 1 GPUs"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--executor", "rey"], "unknown executor 'rey'; did you mean 'ray'? allowed: local, ray"),
        (["--address", "auto"], "--address auto is of a cluster of Ray: add --executor ray"),
        (["--executor", "ray", "--address", "ray://head:10001"], "Ray's client (ray://) does not pass on results"),
    ],
)
def test_a_wrong_executor_or_address_is_told(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "quickstart", "-o", str(tmp_path / "r"), *options]) == 2
    assert said in capsys.readouterr().err


def test_without_ray_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'peftbench\[ray\]'"), kinds.opened("ray"):
        pass


def test_the_source_that_nodes_must_have_is_the_whole_package() -> None:
    import peftbench
    from peftbench.measure import environment

    assert Path(str(peftbench.__file__)).parent == environment._PACKAGE


def test_ray_is_imported_only_if_it_is_asked_for(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys\nfrom peftbench import cli\nfrom peftbench.runner.executor import kinds\n"
        "from peftbench.runner.executor.ray import driver, worker\n"
        "with kinds.opened('local'):\n    print('ray' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_trial_with_visible_sees_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(environment, "_output", lambda *command: asked.append(command) or "A100, 80 GiB, 570, 400 W")
    assert environment._gpus("3") == [
        {"name": "A100", "memory.total": "80 GiB", "driver_version": "570", "power.limit": "400 W"}
    ]
    assert "--id=3" in asked[0]
    assert environment.visible("3") == {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
