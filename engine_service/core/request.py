"""Request, its Sequences, and the states that they pass through.

    WAITING ─▶ RUNNING ─▶ FINISHED_*
                 │ ▲
                 ▼ │
              PREEMPTED        any state but FINISHED_* ─▶ FINISHED_ABORTED

A request owns n sequences. The first computes the prompt; when that is done the others fork from
it, and from then on each runs on its own.
"""

import time
from collections.abc import Sequence as SequenceOf
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine_service.core.token_matcher import TokenMatcher
    from folovllm.outputs import PositionLogprobs
    from folovllm.sampling_params import SamplingParams


_NO_POSITIONS = range(0)


class RequestStatus(IntEnum):
    """Where a sequence stands. Everything after PREEMPTED is finished."""

    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2
    FINISHED_STOPPED = 3
    FINISHED_LENGTH = 4
    FINISHED_ABORTED = 5

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self > RequestStatus.PREEMPTED


class Sequence:
    """One continuation of a prompt: its tokens, and how far their KV is computed."""

    __slots__ = (
        "block_hashes",
        "block_table",
        "cumulative_logprob",
        "finish_time",
        "first_token_time",
        "index",
        "matcher",
        "num_computed_tokens",
        "num_preemptions",
        "request",
        "seq_id",
        "status",
        "token_ids",
    )

    def __init__(self, request: "Request", index: int, token_ids: SequenceOf[int]) -> None:
        self.request = request
        self.index = index
        self.token_ids = list(token_ids)
        """Prompt and output."""
        self.seq_id = -1
        """Given by the scheduler; unique in its life."""
        self.status = RequestStatus.WAITING
        self.num_computed_tokens = 0
        """Tokens from the start whose KV is in the cache."""
        self.block_table: list[int] = []
        """Block ids that hold the KV, in order. Only the KV cache manager changes it."""
        self.block_hashes: list[bytes] = []
        """Hash chain over the full blocks seen so far. Only the KV cache manager changes it."""
        self.cumulative_logprob = 0.0
        """Sum of the log-probabilities of the output, where the request asks for them."""
        self.matcher: TokenMatcher | None = None
        """Where the output stands in the grammar that it must follow, if there is one."""
        self.num_preemptions = 0
        self.first_token_time: float | None = None
        self.finish_time: float | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - len(self.request.prompt_token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens whose KV is still to be computed; 1 for a sequence that decodes."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def output_token_ids(self) -> list[int]:
        """Tokens generated so far."""
        return self.token_ids[len(self.request.prompt_token_ids) :]

    @property
    def order(self) -> tuple[int, int, int]:
        """The lowest runs first and is preempted last: by priority, arrival, index."""
        return self.request.priority, self.request.arrival_order, self.index

    def fork(self, index: int) -> "Sequence":
        """A new sequence of the same request with the same tokens, to go its own way from here.

        It holds no KV until `KVCacheManager.fork` lets it share its parent's full blocks by
        reference count and copies the last, partial one.
        """
        child = Sequence(self.request, index, self.token_ids)
        child.block_hashes = list(self.block_hashes)
        child.first_token_time = self.first_token_time
        child.matcher = None if self.matcher is None else self.matcher.copy()
        return child


class Request:
    """What one caller asked for."""

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: SequenceOf[int],
        sampling_params: "SamplingParams",
        *,
        seed: int = 0,
        priority: int = 0,
        cache_salt: str = "",
        arrival_time: float | None = None,
        matcher: "TokenMatcher | None" = None,
        num_parent_output_tokens: int = 0,
        scored_from: int | None = None,
    ) -> None:
        """`num_parent_output_tokens` makes a branch: so many of the prompt's last tokens are what
        its parent generated. `scored_from` makes a request that generates nothing and gives the
        log-probabilities of the prompt's tokens from that place on, which is at least 1.
        """
        self.request_id = request_id
        self.prompt_token_ids = tuple(prompt_token_ids)
        self.sampling_params = sampling_params
        self.seed = seed if sampling_params.seed is None else sampling_params.seed
        self.priority = priority
        self.cache_salt = cache_salt
        self.arrival_time = time.monotonic() if arrival_time is None else arrival_time
        self.num_parent_output_tokens = num_parent_output_tokens
        self.scored_from = scored_from
        self.arrival_order = -1
        """Given by the scheduler: its place in the order of arrival."""
        self.first_scheduled_time: float | None = None
        self.num_cached_tokens = 0
        """Tokens of the prompt that the prefix cache, or a branch's parent, gave when it first
        ran."""
        self.prompt_logprobs: list[PositionLogprobs] = []
        """Of the prompt's tokens after the first, or from scored_from on, as far as they are
        computed; never twice."""
        self.forked = sampling_params.n == 1
        """Whether every sequence runs on its own."""
        self.looks_back = sampling_params.looks_back
        """Whether what may be drawn, or how, depends on which tokens came before."""
        # Nothing comes after the last token that is scored, so it needs no KV.
        computed = self.prompt_token_ids if scored_from is None else self.prompt_token_ids[:-1]
        first = Sequence(self, 0, computed)
        first.matcher = matcher
        self._seqs = [first, *(first.fork(index) for index in range(1, sampling_params.n))]

    @property
    def parent_output_token_ids(self) -> tuple[int, ...]:
        """Of a branch: the end of its prompt that its parent generated."""
        return self.prompt_token_ids[len(self.prompt_token_ids) - self.num_parent_output_tokens :]

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of the prompt are wanted and not all computed."""
        if self.sampling_params.prompt_logprobs is None:
            return False
        num_wanted = len(self.prompt_token_ids) - 1 - self._first_logprob_position
        return len(self.prompt_logprobs) < num_wanted

    @property
    def most_cached_tokens(self) -> int | None:
        """Tokens from the start that the prefix cache may give; None is all that it has.

        Log-probabilities of the prompt come from computing it, from where they are wanted on.
        """
        return self._first_logprob_position if self.lacks_prompt_logprobs else None

    def prompt_logprob_positions(self, start: int, end: int) -> range:
        """The positions from `start` to before `end` whose next prompt token lacks its own."""
        if not self.lacks_prompt_logprobs:
            return _NO_POSITIONS
        first = max(start, self._first_logprob_position + len(self.prompt_logprobs))
        return range(first, max(first, min(end, len(self.prompt_token_ids) - 1)))

    @property
    def _first_logprob_position(self) -> int:
        """The first position after which a log-probability may be wanted."""
        return 0 if self.scored_from is None else self.scored_from - 1

    def get_seqs(self) -> list[Sequence]:
        """The n sequences, by index."""
        return list(self._seqs)

    def get_unfinished_seqs(self) -> list[Sequence]:
        """Those that have not ended, by index."""
        return [seq for seq in self._seqs if not seq.status.finished]

    @property
    def finished(self) -> bool:
        """Whether every sequence has ended."""
        return all(seq.status.finished for seq in self._seqs)

