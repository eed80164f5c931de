"""The GPU kernels compile for the GPU that they are meant for."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]


def test_kernels_compile_for_hopper(tmp_path: Path) -> None:
    """In a process of its own, since kernels are interpreted in this one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent))),
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    found = subprocess.run(
        [sys.executable, "-m", "support.processes.hopper"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == 17
