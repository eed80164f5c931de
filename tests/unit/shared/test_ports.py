"""How many files a process may have open."""

import subprocess
import sys


def test_the_limit_on_open_files_is_raised_as_far_as_it_may_be() -> None:
    program = (
        "import resource as r; from folovllm.serving.ports import allow_open_files as allow\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, 200))\n"
        "print(*(allow(count) for count in (50, 150, 100, 300)), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["True", "True", "True", "False", "200", "200"]
