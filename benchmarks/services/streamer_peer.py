"""transformers' TextIteratorStreamer in a process of its own, turning ids into text on demand."""

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np


@dataclass(frozen=True, slots=True)
class Streaming:
    """Deltas of many streams at once."""

    way: str
    deltas: int
    messages: int
    wall_s: float
    cpu_s: float

    @property
    def per_core(self) -> float:
        """Deltas a second of processor time."""
        return self.deltas / self.cpu_s


class StreamerPeer:
    """The process, until the block ends. One call at a time."""

    def __init__(self, folder: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(folder, other), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.join()

    def prompt_token_ids(self, question: str) -> list[int]:
        """A conversation of one question, rendered and encoded."""
        ids: list[int] = self._call("prompt_token_ids", question)
        return ids

    def stream(self, ids: list[int], num_streams: int) -> Streaming:
        """The ids of many streams, one of each in turn."""
        streaming: Streaming = self._call("stream", ids, num_streams)
        return streaming

    def first_texts(self, question: str, repeats: int) -> list[float]:
        """Milliseconds of template, encoding, and the text of one id, each time."""
        times: list[float] = self._call("first_texts", question, repeats)
        return times

    def _call(self, name: str, *arguments: object) -> Any:
        self._connection.send((name, arguments))
        return self._connection.recv()


def _serve(folder: str, connection: Connection) -> None:
    streamer = _Streamer(folder)
    while True:
        name, arguments = connection.recv()
        connection.send(getattr(streamer, name)(*arguments))


class _Streamer:
    """What the process does."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    def prompt_token_ids(self, question: str) -> list[int]:
        messages = [{"role": "user", "content": question}]
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def stream(self, ids: list[int], num_streams: int) -> Streaming:
        from transformers import TextIteratorStreamer

        streamers = [TextIteratorStreamer(self._tokenizer) for _ in range(num_streams)]
        started, started_cpu = time.perf_counter(), time.process_time()
        for token_id in ids:
            value = np.array([token_id])
            for streamer in streamers:
                streamer.put(value)
        for streamer in streamers:
            streamer.end()
            _ = "".join(streamer)
        wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
        deltas = len(ids) * num_streams
        return Streaming("TextIteratorStreamer", deltas, deltas, wall, cpu)

    def first_texts(self, question: str, repeats: int) -> list[float]:
        from transformers import TextIteratorStreamer

        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            streamer = TextIteratorStreamer(self._tokenizer)
            streamer.put(np.array(self.prompt_token_ids(question)[:1]))
            streamer.end()
            _ = "".join(streamer)
            times.append((time.perf_counter() - started) * 1e3)
        return times
