"""A builder: a worker that builds one grammar, and tells what that took.

It shares the vocabulary that the process has read from which it is forked.
"""

import json
import time
from pathlib import Path

from engine_service.structured_output.grammar_source import grammar_sources
from engine_service.structured_output.grammar_spec import GrammarSpec
from engine_service.structured_output.library import (
    GrammarError,
    build,
    is_panic,
    read_tokenizer,
    seconds_a_token,
)
from engine_service.structured_output.rehearsal.messages import Outcome, Setting, encode
from folovllm.serving.lanes.work import Job
from folovllm.serving.lanes.worker import memory_used

_MAX_REFUSAL = 400


def prepare_builds(setup: bytes) -> Job:
    """Reads the vocabulary of a Setting; what is returned makes an Outcome of a GrammarSpec."""
    setting = Setting(**json.loads(setup))
    eos_token_ids = setting.eos_token_ids
    tokenizer = read_tokenizer(Path(setting.vocabulary_path), setting.vocab_size, eos_token_ids)

    def rehearse(payload: bytes) -> bytes:
        _, before = memory_used()
        try:
            sources = grammar_sources(GrammarSpec.decode(payload.decode()), eos_token_ids)
            built = [build(tokenizer, source, eos_token_ids) for source in sources]
            if seconds_a_token(built[-1], eos_token_ids) > setting.token_seconds:
                most = f"{setting.token_seconds * 1e3:g} ms of processor time"
                raise GrammarError(f"takes more than {most} a token")
        except GrammarError as error:
            return encode(Outcome(str(error)[:_MAX_REFUSAL]))
        except BaseException as error:
            if not is_panic(error):
                raise
            return encode(Outcome(f"its compiler fails: {error}"[:_MAX_REFUSAL]))
        taken = memory_used()[1] - before
        del built
        return encode(Outcome(seconds=time.process_time(), num_bytes=max(0, taken)))

    return rehearse
