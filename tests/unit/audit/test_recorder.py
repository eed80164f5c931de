"""The recorder writes what has ended, and whoever gives it that never waits."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from folovllm.records.reading import read_records
from folovllm.records.record import Ending, RecordKind
from folovllm.v1 import types_pb2
from support.builders.finished import ended, finished
from tokenizer_service.audit.recorder import Recorder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def names(path: Path) -> list[str]:
    return [record.request_id for _, record in read_records(path)]


def test_what_has_ended_is_written_down(path: Path) -> None:
    recorder = Recorder(path)
    aborted = ended(4, reason=types_pb2.FINISH_REASON_ABORT)
    recorder.put(finished(ended(7, 8, logprobs=(-0.5, -1.0)), aborted))
    branch = {"parent_token_ids": [3], "branch_index": 2, "request_id": "f"}
    recorder.put(finished(ended(7, exact=False), **branch))
    recorder.close()
    (_, request), (_, fork) = read_records(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (request.kind, request.exact, request.sampling_params.n) == (RecordKind.REQUEST, True, 2)
    assert [list(each.token_ids) for each in request.outputs] == [[7, 8], [4]]
    assert [each.ending for each in request.outputs] == [Ending.LENGTH, Ending.ABORT]
    assert [*request.outputs[0].logprobs] == [-0.5, -1.0]
    assert (request.origin.model_id, request.origin.numerics_fingerprint) == ("m", "n")
    assert request.time > 1.7e9
    assert (fork.kind, fork.branch_index, fork.num_parent_output_tokens) == ("branch", 2, 1)
    assert (list(fork.prompt_token_ids), fork.exact) == ([1, 2, 3], False)
    assert "cache_salt" not in path.read_text()


@pytest.mark.parametrize("limits", [{"max_requests": 3}, {"max_tokens": 17}])
def test_what_finds_no_room_is_dropped_and_told(path: Path, limits: dict[str, int]) -> None:
    with capture_logs() as logs:
        recorder = Recorder(path, **limits)
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)  # the thread waits for it, and nobody else does
            for number in range(5):
                recorder.put(finished(request_id=str(number)))
            assert recorder.num_dropped == 2
            fcntl.flock(other, fcntl.LOCK_UN)
        recorder.close()
    assert names(path) == ["0", "1", "2"]
    assert sum(each["count"] for each in logs if each["event"] == "records dropped") == 2


def test_a_request_that_is_larger_than_the_queue_is_written(path: Path) -> None:
    recorder = Recorder(path, max_tokens=1)
    recorder.put(finished())
    recorder.close()
    assert names(path) == ["r"]


def test_a_full_disk_costs_lines_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, is_full = os.write, [True]

    def maybe_write(fd: int, data: memoryview) -> int:
        if is_full.pop() if is_full else False:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", maybe_write)
    with capture_logs() as logs:
        recorder = Recorder(path)
        recorder.put(finished(request_id="lost"))
        recorder.put(finished(request_id="kept"))
        recorder.close()
    assert (names(path), recorder.num_dropped) == (["kept"], 1)
    (line,) = logs
    assert (line["event"], line["count"]) == ("records dropped", 1)
    assert "No space left" in line["reason"]


def test_a_failure_of_one_record_leaves_the_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(path)
    with capture_logs():
        recorder.put(finished(served=None))
        recorder.put(finished(request_id="kept"))
        recorder.close()
    assert (names(path), recorder.num_dropped) == (["kept"], 1)
