"""Work for lanes: what a job does stands in its payload."""

import os

from folovllm.serving.lanes.work import Job


def prepare(setup: bytes) -> Job:
    """`setup` comes before everything that is echoed."""

    def do(payload: bytes) -> bytes:
        match payload.split(b" "):
            case [b"echo", *words]:
                return b" ".join([setup, *words])
            case [b"pid"]:
                return str(os.getpid()).encode()
            case [b"spin", kind]:
                return _spin(kind)
            case [b"fill", size]:
                return str(len(bytearray(int(size)))).encode()
            case [b"print"]:
                print("in between", flush=True)
                return b"printed"
            case [b"exit", status]:
                os._exit(int(status))
        raise ValueError(payload.decode())

    return do


def _spin(kind: bytes) -> bytes:
    """Takes for ever, and does not mind what an Exception would say."""
    while True:
        try:
            if kind == b"deaf":  # seconds in one call, in which no handler runs
                pow(7, 10_000_000)
        except Exception:
            pass
