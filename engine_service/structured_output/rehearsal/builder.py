"""A builder: a process that builds one grammar, tells what that took, and ends.

It is forked from the server, whose vocabulary it shares. The kernel ends it at its limits.
"""

import os
import resource
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from llguidance import LLTokenizer

from engine_service.structured_output.grammar_source import grammar_sources
from engine_service.structured_output.grammar_spec import GrammarSpec
from engine_service.structured_output.library import (
    STACK_BYTES,
    GrammarError,
    build,
    is_panic,
    seconds_a_token,
)
from engine_service.structured_output.rehearsal.messages import Order, Outcome, Setting, encode

_STATUS = Path("/proc/self/statm")
_MAX_REFUSAL = 400


def become_builder(tokenizer: LLTokenizer, setting: Setting, order: Order, report: int) -> NoReturn:
    """Builds what is ordered, writes an Outcome to the file descriptor `report`, and ends."""
    _yield_to_others(order.niceness)

    def work() -> None:
        outcome = _rehearse(tokenizer, setting, order)
        os.write(report, encode(outcome))
        os._exit(0)

    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    os._exit(1)


def _rehearse(tokenizer: LLTokenizer, setting: Setting, order: Order) -> Outcome:
    """On a thread of its own, whose stack is there already when memory is limited."""
    assert order.spec is not None
    signal.setitimer(signal.ITIMER_PROF, order.processor_seconds)  # SIGPROF ends the process
    size, resident = _memory()
    if size:
        limit = size + setting.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        spec = GrammarSpec.decode(order.spec)
        sources = grammar_sources(spec, setting.eos_token_ids)
        built = [build(tokenizer, source, setting.eos_token_ids) for source in sources]
        if seconds_a_token(built[-1], setting.eos_token_ids) > setting.token_seconds:
            most = f"{setting.token_seconds * 1e3:g} ms of processor time"
            raise GrammarError(f"takes more than {most} a token")
    except GrammarError as error:
        return Outcome(order.number, refusal=str(error)[:_MAX_REFUSAL])
    except MemoryError:
        return Outcome(order.number, signal=signal.SIGABRT)  # as when the library needs memory
    except BaseException as error:
        if not is_panic(error):
            raise
        return Outcome(order.number, refusal=f"its compiler fails: {error}"[:_MAX_REFUSAL])
    taken = _memory()[1] - resident
    del built
    return Outcome(order.number, seconds=time.process_time(), num_bytes=max(0, taken))


def _yield_to_others(niceness: int) -> None:
    """Runs behind the engine, and is the first to go when the machine has no memory left."""
    os.nice(niceness)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # The library writes of every panic to its standard error output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _memory() -> tuple[int, int]:
    """Bytes of addresses, and of memory beside files; zeros where the system does not say."""
    try:
        size, resident, files = map(int, _STATUS.read_text().split()[:3])
    except OSError:
        return 0, 0
    page = resource.getpagesize()
    return size * page, (resident - files) * page
