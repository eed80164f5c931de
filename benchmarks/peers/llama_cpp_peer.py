"""llama.cpp through the low-level interface of llama-cpp-python, greedy."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import llama_cpp
import numpy as np

from benchmarks.harness.batch_clock import BatchClock
from benchmarks.peers.gguf_checkpoint import gguf_file
from benchmarks.peers.peer import PeerConfig

_MAX_NUM_BATCHED_TOKENS = 2048  # llama.cpp's default, and our engine's


class _Token(NamedTuple):
    sequence: int
    position: int
    token_id: int
    is_last: bool
    """Whether the next token is drawn after this one."""


class LlamaCpp:
    """A context of llama.cpp, each sequence with a KV cache of its own."""

    version = llama_cpp.__version__

    def __init__(self, config: PeerConfig) -> None:
        path = gguf_file(Path(config.model), config.weight_format, Path(config.cache) / "llama_cpp")
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = config.max_num_seqs * config.max_model_len
        params.n_batch = _MAX_NUM_BATCHED_TOKENS
        params.n_seq_max = config.max_num_seqs
        params.n_threads = params.n_threads_batch = config.threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp made no context")
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)
        self._batch = llama_cpp.llama_batch_init(_MAX_NUM_BATCHED_TOKENS, 0, 1)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """See Peer."""
        clock = BatchClock(len(prompts))
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        tokens = [
            _Token(sequence, position, token_id, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token_id in enumerate(prompt)
        ]
        latest: list[_Token] = []
        for begin in range(0, len(tokens), _MAX_NUM_BATCHED_TOKENS):
            latest += self._decode(tokens[begin : begin + _MAX_NUM_BATCHED_TOKENS], clock)
        for _ in range(new_tokens - 1):
            latest = self._decode(latest, clock)
        return clock

    def close(self) -> None:
        """Frees the model."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _decode(self, tokens: Sequence[_Token], clock: BatchClock) -> list[_Token]:
        """Computes tokens; returns those that were drawn."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row] = token.token_id
            batch.pos[row] = token.position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = token.sequence
            batch.logits[row] = token.is_last
        if code := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        drawn = []
        for row, token in enumerate(tokens):
            if token.is_last:
                drawn.append(
                    _Token(token.sequence, token.position + 1, self._argmax(row), is_last=True)
                )
                clock.add(token.sequence)
        return drawn

    def _argmax(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(address, shape=(self._vocab_size,)).argmax())
