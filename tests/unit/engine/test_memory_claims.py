"""Engines on one host see what the others have planned, and nothing of those that have ended."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine_service import memory_claims
from engine_service.memory_claims import Claim, planning

MIB = 2**20
NO_PID = 2**31 - 1
"""Of no process."""
OWN, OTHER = 1, 2

CLAIMANT = """
import os, pathlib, socket, sys
from engine_service.memory_claims import planning
with planning(pathlib.Path(sys.argv[1]), os.getpid()) as plan:
    claim = plan.claim(200 * 2**20)
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
input()
taken = b"x" * (80 * 2**20)
print(flush=True)
input()
"""


def others(folder: Path, owner: int = OWN) -> tuple[Claim, ...]:
    """What an engine sees that plans now."""
    with planning(folder, owner) as plan:
        return plan.others


@contextmanager
def claim_file(folder: Path, text: str) -> Iterator[Path]:
    """A claim of this content, which this process keeps locked."""
    path = folder / "1.claim"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        yield path


def test_another_process_claims_until_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMANT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            (claim,) = others(tmp_path)
            assert claim.pid == process.pid
            assert 190 * MIB < claim.untouched <= 200 * MIB
            assert str(claim) == f"another engine (pid {process.pid}, port {port})"

            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
            (claim,) = others(tmp_path)
            assert 110 * MIB < claim.untouched <= 120 * MIB
        finally:
            process.kill()
        process.wait()
    assert others(tmp_path) == ()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_who_plans_waits_for_the_claim_of_who_plans_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()
    seen: list[Claim] = []
    monkeypatch.setattr(time, "sleep", lambda _: waits.set())
    monkeypatch.setattr(memory_claims, "_LOCK_SECONDS", 60.0)
    second = threading.Thread(target=lambda: seen.extend(others(tmp_path, OTHER)))
    with planning(tmp_path, OWN) as plan:
        second.start()
        assert waits.wait(10)
        claim = plan.claim(5000 * MIB)
    second.join()
    assert claim is not None
    assert [each.pid for each in seen] == [os.getpid()]
    claim.release()


def test_engines_of_one_owner_do_not_see_each_other(tmp_path: Path) -> None:
    with planning(tmp_path, OWN) as plan:
        claims = [plan.claim(MIB), plan.claim(MIB)]
    assert others(tmp_path, OWN) == ()
    assert len(others(tmp_path, OTHER)) == 2
    for claim in claims:
        assert claim is not None
        claim.release()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_fork_does_not_release_its_parents_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with planning(tmp_path, OWN) as plan:
        claim = plan.claim(MIB)
    assert claim is not None
    monkeypatch.setattr(os, "getpid", lambda: NO_PID)
    claim.release()
    assert len(list(tmp_path.glob("*.claim"))) == 1


def test_a_claim_that_nobody_locks_is_removed(tmp_path: Path) -> None:
    with claim_file(tmp_path, "{}") as path:
        pass
    assert others(tmp_path) == () and not path.exists()


@pytest.mark.parametrize("text", ["", '{"pid": 12', "[]", "7", "{}", '{"pid": null}', "\0\0"])
def test_a_torn_claim_is_ignored(text: str, tmp_path: Path) -> None:
    with claim_file(tmp_path, text) as path:
        assert others(tmp_path) == () and path.exists()


def test_a_process_that_has_ended_claims_nothing_though_its_fork_keeps_the_lock(
    tmp_path: Path,
) -> None:
    fields = {"pid": NO_PID, "owner": OTHER, "planned": MIB, "resident": 0}
    with claim_file(tmp_path, json.dumps(fields)):
        assert others(tmp_path) == ()


def test_a_claim_is_used_up_once_its_process_has_grown_by_as_much(tmp_path: Path) -> None:
    fields = {"pid": os.getpid(), "owner": OTHER, "planned": MIB, "resident": 0}
    with claim_file(tmp_path, json.dumps(fields)):
        assert others(tmp_path) == ()
    with claim_file(tmp_path, json.dumps({**fields, "resident": 2**50})):  # it has shrunk since
        assert others(tmp_path) == (Claim(os.getpid(), MIB),)


def test_planning_goes_on_where_claims_cannot_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with planning(tmp_path / "file" / "memory", OWN) as plan:
        assert plan.others == () and plan.claim(MIB) is None
    assert len(caplog.messages) == 1 and "Not a directory" in caplog.text


def test_planning_goes_on_where_a_stopped_engine_keeps_the_lock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_claims, "_LOCK_SECONDS", 0.0)
    with planning(tmp_path, OTHER) as stopped:
        claim = stopped.claim(MIB)
        assert claim is not None
        with planning(tmp_path, OWN) as plan:
            assert plan.others == () and plan.claim(MIB) is None
        claim.release()
    assert len(caplog.messages) == 1 and "keeps" in caplog.text


def test_a_claim_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with planning(tmp_path, OWN) as plan:
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", refuse)
            assert plan.claim(MIB) is None
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "mkstemp", refuse)
            assert plan.claim(MIB) is None
    assert len(caplog.messages) == 2 and "Permission denied" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
