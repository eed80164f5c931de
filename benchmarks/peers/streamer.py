"""transformers' TextIteratorStreamer, which turns ids into text without any service."""

import time

import numpy as np
from transformers import AutoTokenizer, TextIteratorStreamer

from benchmarks.peers.peer import PeerConfig


class Streamer:
    """Streams of one tokenizer."""

    def __init__(self, config: PeerConfig) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(config.model)

    def stream(self, token_ids: list[int], num_streams: int) -> list[float]:
        """Turns the ids into text for many streams, one id of each in turn; seconds of the clock
        and of processor time."""
        streamers = [TextIteratorStreamer(self._tokenizer) for _ in range(num_streams)]
        started, started_cpu = time.perf_counter(), time.process_time()
        for token_id in token_ids:
            value = np.array([token_id])
            for streamer in streamers:
                streamer.put(value)
        for streamer in streamers:
            streamer.end()
            _ = "".join(streamer)
        return [time.perf_counter() - started, time.process_time() - started_cpu]
