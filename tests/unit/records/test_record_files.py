"""Files of records: private, whole lines, and read with the number of the line."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from folovllm.errors import ConfigError
from folovllm.records.reading import check_records, read_records
from folovllm.records.record import Record
from folovllm.records.record_file import RecordFile
from support.builders.records import record, recorded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(lines))


def test_only_its_owner_may_read_it_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        RecordFile(path).close()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_one_that_others_may_read_or_write_is_refused(path: Path, mode: int) -> None:
    write(path, "")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"others \(mode {mode:04o}\); `chmod 600` it"):
        RecordFile(path)


def test_another_users_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        RecordFile(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name, problem in (
        ("pipe", "is no file"),
        ("link", "it is a symbolic link"),
        (".", "Is a directory"),
        ("none/here", "No such file or directory"),
    ):
        with pytest.raises(ConfigError, match=problem):
            RecordFile(tmp_path / name)
    assert not (tmp_path / "target").exists()


def _append_many(path: Path, name: str) -> None:
    file = RecordFile(path)
    for _ in range(50):
        file.append(_line(name))


def _line(name: str) -> bytes:
    return (name * 20_000 + "\n").encode()


def test_lines_of_several_writers_stay_whole(path: Path) -> None:
    # Each has opened the file for itself, as processes do.
    writers = [threading.Thread(target=_append_many, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = path.read_bytes().splitlines(keepends=True)
    assert sorted(lines) == [_line("a")] * 50 + [_line("b")] * 50


def test_a_file_that_was_moved_away_is_made_anew(path: Path) -> None:
    file = RecordFile(path)
    file.append(b"1\n")
    moved = path.rename(path.with_suffix(".1"))
    file.append(b"2\n")
    path.unlink()
    file.append(b"3\n")
    assert (moved.read_bytes(), path.read_bytes()) == (b"1\n", b"3\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_takes_its_place_must_be_private_too(path: Path) -> None:
    file = RecordFile(path)
    path.unlink()
    write(path, "")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="may be read"):
        file.append(b"1\n")
    path.chmod(0o600)
    file.append(b"2\n")
    assert path.read_bytes() == b"2\n"


def test_a_line_for_which_the_disk_has_no_room_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write = RecordFile(path), os.write
    file.append(b"first\n")
    room = iter([2])

    def write_little(fd: int, data: memoryview) -> int:
        for size in room:
            return write(fd, data[:size])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", write_little)
        with pytest.raises(OSError, match="No space left"):
            file.append(b"second\n")
    file.append(b"third\n")
    assert path.read_bytes() == b"first\nthird\n"


def test_a_line_that_someone_left_without_its_end_stays_by_itself(path: Path) -> None:
    file = RecordFile(path)
    path.write_bytes(b'{"cut')
    file.append(b"whole\n")
    assert path.read_bytes() == b'{"cut\nwhole\n'


def test_another_writer_is_waited_for(path: Path) -> None:
    file, started = RecordFile(path), threading.Event()
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def append() -> None:
            started.set()
            file.append(b"line\n")

        writer = threading.Thread(target=append)
        writer.start()
        started.wait()
        assert path.read_bytes() == b""
        fcntl.flock(other, fcntl.LOCK_UN)
        writer.join()
    assert path.read_bytes() == b"line\n"


def test_a_file_is_summed_up(path: Path) -> None:
    write(path, record().to_line(), record(recorded(1), recorded(2, index=1)).to_line())
    assert [(line, each.num_tokens) for line, each in read_records(path)] == [(1, 3), (2, 2)]
    summary = check_records(path, lambda _: "")
    assert (summary.num_records, summary.num_tokens) == (2, 5)
    assert summary.origins == {record().origin: 2}


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((), " is empty: there is nothing to replay"),
        (("\n",), ", line 1 is no JSON; the file may be cut off, or no record"),
        ((record().to_line(), record().to_line()[:-1]), ", line 2 is cut off: it has no end"),
        ((record().to_line(), '{"a": 1}\n'), ", line 2 is no record: it has no record_version"),
        ((record(request_id="bad").to_line(),), ", line 1 is unwanted"),
    ],
)
def test_what_is_wrong_names_the_line(path: Path, lines: tuple[str, ...], problem: str) -> None:
    def unwanted(each: Record) -> str:
        return "is unwanted" if each.request_id == "bad" else ""

    write(path, *lines)
    with pytest.raises(ConfigError) as raised:
        check_records(path, unwanted)
    assert str(raised.value) == f"{path}{problem}"


def test_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        check_records(tmp_path, lambda _: "")
