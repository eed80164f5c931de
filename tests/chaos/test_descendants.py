"""What a run has started is gone after it, also what is stopped or has lost its parent."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

HARNESS = """
import subprocess, sys, time
from chaos.processes.descendants import no_process_left

PARENT = '''
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
os.kill(child.pid, signal.SIGSTOP)
print(child.pid, flush=True)
if sys.argv[1] == "stays":
    signal.pause()
'''
with no_process_left():
    for manner in ("stays", "goes"):
        parent = subprocess.Popen([sys.executable, "-c", PARENT, manner], stdout=subprocess.PIPE)
        print(parent.pid, parent.stdout.readline().decode(), flush=True)
    parent.wait()
    print("ready", flush=True)
    while sys.argv[1] == "told":
        time.sleep(60)
    raise SystemExit(7)
"""


@pytest.mark.parametrize(("way", "status"), [("by itself", 7), ("told", -2)])
def test_nothing_is_left_however_a_run_ends(way: str, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HARNESS, way],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        text=True,
    ) as harness:
        assert harness.stdout is not None
        lines = [*itertools.takewhile("ready\n".__ne__, harness.stdout)]  # or until it has ended
        pids = [int(word) for line in lines for word in line.split()]
        if way == "told":
            harness.terminate()
        assert harness.wait(timeout=60) == status
    assert len(pids) == 4
    assert not any(map(psutil.pid_exists, pids))
