"""One thing to be measured in a process of its own: calls on standard input, answers on output.

    python -m benchmarks.peers.worker NAME CONFIG

Each line is a JSON object. The first line out says that it is open; then each line in is a call of
one of its methods, answered by one line. The end of the input ends the process. Whatever else is
printed goes to standard error.
"""

import json
import os
import sys
from dataclasses import asdict
from typing import TextIO

from benchmarks.harness.batch_clock import BatchClock
from benchmarks.peers.peer import PeerConfig, open_peer


def main() -> None:
    """Serves what the command line names."""
    name, config = sys.argv[1:]
    answers = _take_standard_output()
    peer = open_peer(name, PeerConfig(**json.loads(config)))
    try:
        _write(answers, {"version": getattr(peer, "version", "")})
        for line in sys.stdin:
            call = json.loads(line)
            result = getattr(peer, call["method"])(**call["arguments"])
            _write(answers, asdict(result.timing()) if isinstance(result, BatchClock) else result)
    finally:
        getattr(peer, "close", lambda: None)()


def _take_standard_output() -> TextIO:
    """Standard output for the answers alone; libraries that print get standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _write(answers: TextIO, value: object) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
