"""The faults that are known and not mended: by a pattern of names of checks, why they fail.

Whoever mends one takes its line out; the harness fails until then.
"""

from chaos.matrix.scene import STATES


def _in_all_states(fault: str, why: str) -> dict[str, str]:
    return {f"matrix: {fault}: {state}": why for state in STATES}


_NOT_NOTICED = "a silent peer is noticed after 38 to 60 s"
_LOG_RAISES = "writing a log line raises in the call"
_LOG_BLOCKS = "writing a log line blocks the event loop"
_NAMES_ONLY = "the fingerprint covers samples of the weights files, not the tensors"
_MALFORMED = "bytes that do not parse are gRPC's UNKNOWN, or an unexpected error of ours"

KNOWN_FAILING: dict[str, str] = {
    **_in_all_states("stopped", _NOT_NOTICED),
    "logs: full disk: *": _LOG_RAISES,
    "logs: dead reader: *": _LOG_RAISES,
    "logs: blocked reader: *": _LOG_BLOCKS,
    "logs: supervisor killed": "the drain's own log line raises",
    "silence: engine stopped while idle: *": _NOT_NOTICED,
    "silence: packets dropped while idle: *": _NOT_NOTICED,
    "silence: dropped while streaming: new requests": _NOT_NOTICED,
    "silence: dropped while streaming: streams": _NOT_NOTICED,
    "silence: one worker of four stopped": "only a worker that has ended is replaced",
    "identity: other weights: *": _NAMES_ONLY,
    "malformed: *": _MALFORMED,
    "session writer: new requests": "the writer ends in silence, the session looks open",
    "session writer: afterwards": "the writer ends in silence, the session looks open",
}
