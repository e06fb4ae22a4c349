"""The cache: finished steps are reused, failures and damage are not, and a killed run leaves nothing behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

import hub as api
from hub._store import Store, key_of
from hub._tasks import Failure, TaskResult
from hub.spec import StoreError
from hub_toy.files import read as read_toy

Hub = Callable[..., Any]
Faults = Callable[..., None]


def steps(ran: Any) -> dict[str, bool]:
    """Edge -> whether it came from the cache."""
    return {step["edge"]: step["cached"] for step in ran.json["steps"]}


def convert(hub: Hub, toy: Path, *more: str | Path) -> Any:
    """Convert to fp16 in two steps."""
    output = toy.with_name("out.toybin")
    ran = hub("convert", toy, "--to", "toybin", "--fp16", "-o", output, "--force", "--json", *more)
    assert ran.status == 0, ran.out + ran.err
    return ran


def test_a_second_run_takes_every_step_from_the_cache(hub: Hub, toy: Path, cache: Path) -> None:
    first = convert(hub, toy)
    results = {path: path.stat().st_mtime_ns for path in cache.glob("objects/*/*/result.json")}
    again = convert(hub, toy)
    assert steps(first) == {"toy.bin": False, "toy.fp16": False}
    assert steps(again) == {"toy.bin": True, "toy.fp16": True}
    assert again.json["result"]["sha256"] == first.json["result"]["sha256"]
    assert again.json["parity"] == first.json["parity"]
    assert {path: path.stat().st_mtime_ns for path in cache.glob("objects/*/*/result.json")} == results
    assert not list(cache.glob("scratch/*"))


def repeated(ran: Any) -> bool:
    """Whether the conversion as a whole came from the cache."""
    return "done before" in ran.err


def test_a_repeated_conversion_is_delivered_as_it_was(hub: Hub, toy: Path) -> None:
    first, again = convert(hub, toy), convert(hub, toy)
    assert (repeated(first), repeated(again)) == (False, True)
    before, after = first.json, again.json
    for receipt in (before, after):
        receipt.pop("created")
        receipt.pop("digest")
        receipt["steps"] = [step | {"cached": None} for step in receipt["steps"]]
        receipt["speed"] |= {"cached": None}
    assert after == before
    written = toy.with_name("out.toybin")
    assert hashlib.sha256(written.read_bytes()).hexdigest() == after["result"]["sha256"]
    assert hub("verify", toy, written, "--json").status == 0


def test_a_conversion_to_another_name_is_repeated_under_that_name(hub: Hub, toy: Path) -> None:
    """Its steps come from the cache, under the name that they had the first time."""
    convert(hub, toy)
    other = toy.with_name("other.toybin")
    for _ in range(2):
        ran = hub("convert", toy, "--to", "toybin", "--fp16", "-o", other, "--force", "--json")
        assert ran.status == 0, ran.err
        assert ran.json["result"]["path"] == str(other)
        assert hashlib.sha256(other.read_bytes()).hexdigest() == ran.json["result"]["sha256"]


def test_a_repeated_conversion_imports_no_plugin(hub: Hub, toy: Path) -> None:
    convert(hub, toy)
    words = ["convert", str(toy), "--to", "toybin", "--fp16", "-o", str(toy.with_name("out.toybin")), "--force"]
    code = (
        f"import sys\nfrom hub.cli import main\ntry: main({words!r})\nexcept SystemExit as end: assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "done before" in done.stderr
    imported = done.stderr.splitlines()[-1].split()
    assert not {"numpy", "hub._engine", "hub._api"} & set(imported)
    assert not [name for name in imported if name.startswith("hub_")]


@pytest.mark.parametrize("what", ["name", "gate", "variable", "installed", "speed", "tool"])
def test_what_a_conversion_hangs_on_is_not_repeated_when_it_changes(
    hub: Hub, install: Callable[..., Path], toy: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    convert(hub, toy)
    output, more = toy.with_name("out.toybin"), []
    if what == "name":
        output = toy.with_name("other.toybin")
    elif what == "gate":
        more = ["--min-cosine", "0.5"]
    elif what == "speed":
        more = ["--require-speedup", "0.0001"]
    elif what == "variable":
        monkeypatch.setenv("HUB_ANYTHING", "1")
    elif what == "installed":
        install("silent", "plugin_silent", '"""Offers nothing."""\n')
    else:
        from hub import _requirements

        known = _requirements.version_of
        monkeypatch.setattr(_requirements, "version_of", lambda name: "99.0" if name == "numpy" else known(name))
    ran = hub("convert", toy, "--to", "toybin", "--fp16", "-o", output, "--force", "--json", *more)
    assert ran.status == 0, ran.err
    assert not repeated(ran)


def test_a_repeated_conversion_respects_what_is_at_the_output(hub: Hub, toy: Path) -> None:
    convert(hub, toy)
    ran = hub("convert", toy, "--to", "toybin", "--fp16", "-o", toy.with_name("out.toybin"), "--json")
    assert ran.error["code"] == "output-exists"


def test_a_conversion_on_whose_way_something_failed_is_tried_again(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("raise")
    first, again = convert(hub, toy), convert(hub, toy)
    assert first.json["failed_attempts"]
    assert not repeated(again)


def test_another_target_reuses_the_steps_that_both_have(hub: Hub, toy: Path, samples: Path) -> None:
    convert(hub, toy, "--calibration", samples)
    output = toy.with_name("out.toybin")
    words = ("--int8", "--calibration", samples, "-o", output, "--force", "--json")
    assert steps(hub("convert", toy, "--to", "toybin", *words)) == {"toy.bin": True, "toy.int8": False}


def test_no_cache_runs_every_step_again_and_keeps_the_new_result(hub: Hub, toy: Path) -> None:
    convert(hub, toy)
    assert steps(convert(hub, toy, "--no-cache")) == {"toy.bin": False, "toy.fp16": False}
    assert steps(convert(hub, toy)) == {"toy.bin": True, "toy.fp16": True}


def test_a_changed_model_is_another_model(hub: Hub, toy: Path) -> None:
    convert(hub, toy)
    content = json.loads(toy.read_text())
    content["layers"][0]["b"][0] += 0.5
    toy.write_text(json.dumps(content))
    assert steps(convert(hub, toy)) == {"toy.bin": False, "toy.fp16": False}


def test_a_copied_model_is_the_same_model(hub: Hub, toy: Path) -> None:
    convert(hub, toy)
    copy = toy.with_name("copy.toy")
    copy.write_bytes(toy.read_bytes())
    assert steps(convert(hub, copy)) == {"toy.bin": True, "toy.fp16": True}


def test_another_version_of_a_tool_is_another_step(hub: Hub, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(hub, toy)
    from hub import _requirements

    known = _requirements.version_of
    monkeypatch.setattr(_requirements, "version_of", lambda name: "99.0" if name == "numpy" else known(name))
    assert steps(convert(hub, toy)) == {"toy.bin": True, "toy.fp16": False}  # only toy.fp16 requires numpy


def test_another_calibration_is_another_step(hub: Hub, toy: Path, samples: Path) -> None:
    import numpy as np

    other = samples.with_name("other.npz")
    np.savez(other, x=np.random.default_rng(6).standard_normal((40, 6)).astype(np.float32))
    output = toy.with_name("out.toybin")
    words = ("convert", toy, "--to", "toybin", "--int8", "-o", output, "--force", "--json", "--calibration")
    assert steps(hub(*words, samples)) == {"toy.bin": False, "toy.int8": False}
    assert steps(hub(*words, other)) == {"toy.bin": True, "toy.int8": False}
    assert steps(hub(*words, samples)) == {"toy.bin": True, "toy.int8": True}


def test_a_damaged_entry_counts_as_absent(hub: Hub, toy: Path, cache: Path) -> None:
    convert(hub, toy)
    for result in cache.glob("objects/*/*/result.json"):
        result.write_bytes(result.read_bytes()[:10])
    assert steps(convert(hub, toy)) == {"toy.bin": False, "toy.fp16": False}


@pytest.mark.parametrize("damage", ["emptied", "removed", "altered"])
def test_a_damaged_artifact_in_the_cache_is_never_delivered(hub: Hub, toy: Path, cache: Path, damage: str) -> None:
    wanted = convert(hub, toy).json["result"]["sha256"]
    for artifact in cache.glob("objects/*/*/out/*.toybin"):
        if damage == "removed":
            artifact.unlink()
        else:
            content = bytearray(artifact.read_bytes())
            content[-200] ^= 0xFF
            artifact.write_bytes(b"" if damage == "emptied" else bytes(content))
    again = convert(hub, toy)
    assert again.json["result"]["sha256"] == wanted
    assert steps(again) == {"toy.bin": False, "toy.fp16": False}


def test_a_store_keeps_successes_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    good = TaskResult(seconds=1.0, peak_memory_bytes=2, value="x")
    bad = msgspec.structs.replace(good, failure=Failure(code="step-failed", message="m", hint="h", traceback="t"))
    for number, (result, found) in enumerate(((good, good), (bad, None))):
        with store.scratch() as scratch:
            folder = scratch / "001"
            folder.mkdir()
            (folder / "result.json").write_bytes(msgspec.json.encode(result))
            store.keep(folder, key_of(number))
        assert store.find(key_of(number)) == found


def kept(store: Store, text: str, *, replace: bool = False) -> Path:
    with store.scratch() as scratch:
        folder = scratch / "001"
        (folder / "out").mkdir(parents=True)
        (folder / "out/model").write_text(text)
        (folder / "result.json").write_bytes(msgspec.json.encode(TaskResult(seconds=1.0, peak_memory_bytes=2)))
        return store.keep(folder, key_of("a step"), replace=replace)


def test_what_a_run_reads_stays_while_another_replaces_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    place = kept(store, "first")
    assert kept(store, "slower") == place
    assert (place / "out/model").read_text() == "first"
    kept(store, "anew", replace=True)
    assert (place / "out/model").read_text() == "anew"
    (place / "out/model").write_text("damaged")
    assert store.find(key_of("a step")) is None
    assert place.exists()  # what looks damaged may be what another run puts there
    kept(store, "whole")
    assert (place / "out/model").read_text() == "whole"
    store.forget(key_of("a step"))
    assert not place.exists()
    assert not list((tmp_path / "cache/scratch").iterdir())


def test_a_cache_that_cannot_be_made_is_a_store_error(hub: Hub, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_CACHE_DIR", str(toy / "below-a-file"))
    ran = hub("convert", toy, "--to", "toybin", "--json")
    assert ran.status == 7
    assert ran.error["code"] == "store"
    assert "HUB_CACHE_DIR" in ran.error["hint"]
    with pytest.raises(StoreError):
        Store(toy / "below-a-file")


def test_the_scratch_of_a_run_that_lives_is_not_swept(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    with store.scratch() as scratch:
        dead = [scratch.with_name(name) for name in ("999999999.0-x", f"{os.getpid()}.12.00-x")]
        for folder in dead:
            folder.mkdir()
        Store(tmp_path / "cache")
        assert scratch.exists()
        assert not any(folder.exists() for folder in dead)


def _heed_interrupts() -> None:
    """A shell's background job ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(toy: Path, output: Path, mark: Path, *more: str) -> "subprocess.Popen[str]":
    """Start the real command on a route whose second step hangs, and wait until it does."""
    command = [sys.executable, "-m", "hub", "convert", toy, "--to", "toybin", "--fp16", "-o", output, *more]
    run = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"HUB_FAULTS_MARK": str(mark)}, start_new_session=True,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 - this process has no threads that matter to the child
    )  # fmt: skip
    wait(lambda: mark.exists() and bool(mark.read_text()), run)
    return run


def wait(done: Callable[[], bool], run: "subprocess.Popen[str] | None" = None) -> None:
    """Wait, at most a minute."""
    for _ in range(600):
        if done():
            return
        if run is not None and run.poll() is not None:
            pytest.fail(f"ended early with {run.returncode}: {run.communicate()}")
        time.sleep(0.1)
    pytest.fail("waited in vain")


@pytest.mark.parametrize("fault", ["slow", "slow-with-the-lock"])
def test_kill_leaves_nothing_and_the_next_run_reuses_what_was_finished(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    faults(fault)
    output, mark = tmp_path / "out" / "out.toybin", tmp_path / "mark"
    run = start(toy, output, mark)
    workers = [psutil.Process(int(word)) for word in mark.read_text().split()]
    others = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.communicate(timeout=60)  # closes its pipes
    wait(lambda: not any(alive(process) for process in (*workers, *others)))
    assert not output.parent.exists()
    monkeypatch.setenv("HUB_FAULTS", "")
    assert steps(hub("convert", toy, "--to", "toybin", "--fp16", "-o", output, "--json"))["toy.bin"] is True
    assert [path.name for path in output.parent.iterdir() if path.name.startswith(".")] == []
    assert not list((tmp_path / "cache" / "scratch").iterdir())


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
def test_an_interrupt_ends_with_130_and_leaves_nothing(
    faults: Faults, toy: Path, tmp_path: Path, cache: Path, *, as_json: bool
) -> None:
    faults("slow")
    output, mark = tmp_path / "out" / "out.toybin", tmp_path / "mark"
    run = start(toy, output, mark, *(["--json"] * as_json))
    worker = psutil.Process(int(mark.read_text().split()[0]))
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "interrupted" in (json.loads(out)["error"]["code"] if as_json else err)
    assert as_json or out == ""
    assert "Traceback" not in err
    wait(lambda: not alive(worker))
    assert not output.parent.exists()
    assert not list((cache / "scratch").iterdir())


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_an_interrupted_search_gives_the_best_so_far_and_a_second_interrupt_nothing(
    faults: Faults, toy: Path, tmp_path: Path, *, times: int
) -> None:
    faults("search")
    output, mark = tmp_path / "out.toybin", tmp_path / "mark"
    run = start(toy, output, mark, "--json", "-v")
    if times == 2:  # the second one before the step can answer the first
        worker = psutil.Process(int(mark.read_text()))
        worker.suspend()
        run.send_signal(signal.SIGINT)
        time.sleep(1)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    said = json.loads(out)
    assert "interrupted: ending with the best so far" in err
    if times == 2:
        assert (run.returncode, said["error"]["code"]) == (130, "interrupted")
        assert not output.exists()
        return
    assert run.returncode == 0
    assert said["parity"]["passed"]
    assert {"warning": "search-ended-early"} in [{item["kind"]: item["code"]} for item in said["remarks"]]
    assert read_toy(output).arrays.keys() == read_toy(toy).arrays.keys()


def test_an_interrupted_search_whose_best_is_wrong_leaves_nothing_and_tries_no_other_route(
    faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("search-badly")
    output, mark = tmp_path / "out" / "out.toybin", tmp_path / "mark"
    run = start(toy, output, mark, "--json")
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert (run.returncode, json.loads(out)["error"]["code"]) == (130, "interrupted")
    assert "planted fault: search-badly: the result is not the source's" in err
    assert not output.parent.exists()


def test_a_search_ends_with_the_best_so_far_when_its_time_is_over_and_is_not_kept(
    faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("search")
    for _ in range(2):
        receipt = api.convert(
            toy, "toybin", precision="fp16", output=tmp_path / "out.toybin", search_budget=0.3, force=True
        )
        warning = next(item for item in receipt.remarks if item.code == "search-ended-early")
        assert "after 0.3 s" in warning.text
        assert not receipt.steps[-1].cached
