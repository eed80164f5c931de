"""Request, which never changes, and its Sequences, with the states that they pass through.

    WAITING ─▶ RUNNING ─▶ FINISHED_*
                 │ ▲
                 ▼ │
              PREEMPTED        any state but FINISHED_* ─▶ FINISHED_ABORTED, FINISHED_FAILED

A request has n sequences, each of which is made when it first runs. The first computes the prompt;
then the others fork from it, and from there each runs on its own.
"""

import time
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING

from engine_service.core.continued import Continued
from engine_service.core.sequence_data import SequenceData
from engine_service.core.sequence_parts.bad_words import BadWords
from engine_service.core.sequence_parts.runner_state import RunnerState
from engine_service.core.token_ids import SharedTokenIds, TokenIds
from folovllm.parameters.local_fields import LOCAL
from folovllm.request_id import new_request_id

if TYPE_CHECKING:
    from engine_service.core.token_matcher import TokenMatcher
    from folovllm.logprobs import PositionLogprobs
    from folovllm.sampling_params import SamplingParams


_NO_POSITIONS = range(0)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """n continuations of a prompt, or the log-probabilities of a given one."""

    request_id: str
    prompt_token_ids: SequenceOf[int]
    """Kept as TokenIds, which are shared by all that continue them."""
    sampling_params: "SamplingParams"
    seed: int = field(default=0, kw_only=True)
    """That of sampling_params, if it has one."""
    priority: int = field(default=0, kw_only=True)
    cache_salt: str = field(default="", kw_only=True)
    arrival_time: float = field(default_factory=time.monotonic, kw_only=True)
    """By time.monotonic. Of equal priorities the earliest goes first, so one that was refused and
    has come again keeps its place with the time at which it first came."""
    handicap: float = field(default=0.0, kw_only=True)
    """Seconds by which it is queued as if it had come later."""
    moved: bool = field(default=False, kw_only=True)
    """Whether another engine has had it: it is not refused for load, and may wait for as long as it
    takes."""
    is_suspect: bool = field(default=False, kw_only=True)
    """Whether that engine may have died of it: see SequenceGroup.on_trial."""
    num_parent_output_tokens: int = field(default=0, kw_only=True)
    """Of a branch: how many of the prompt's last tokens its parent generated."""
    continued: Continued | None = field(default=None, kw_only=True)
    """What it has generated before, which it goes on from."""
    scored_from: int | None = field(default=None, kw_only=True)
    """Of a request that generates nothing: the index, at least 1, of the first prompt token whose
    log-probability is wanted."""
    prompt: str | None = field(default=None, kw_only=True, metadata=LOCAL)
    """The caller's note of what the ids say. It goes nowhere and nothing here reads it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_token_ids", TokenIds.of(self.prompt_token_ids))
        if self.sampling_params.seed is not None:
            object.__setattr__(self, "seed", self.sampling_params.seed)

    @property
    def token_ids(self) -> TokenIds:
        """prompt_token_ids as what they are kept as."""
        assert isinstance(self.prompt_token_ids, TokenIds)
        return self.prompt_token_ids

    @property
    def num_outputs(self) -> int:
        """Continuations that it leads to: n, or fewer if some have ended before."""
        return self.sampling_params.n if self.continued is None else len(self.continued.outputs)

    def get_seqs(self) -> list["Sequence"]:
        """The sequences as they begin; a scheduler makes its own."""
        group = SequenceGroup(self)
        return [group.seq(index) for index in group.unfinished_indexes()]


@dataclass(frozen=True, slots=True)
class Branch:
    """One way to continue a running sequence; n is 1. `seed` is for parameters that have none."""

    sampling_params: "SamplingParams"
    seed: int = 0


class RequestStatus(IntEnum):
    """The state of a sequence. Every one after PREEMPTED is final."""

    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2
    FINISHED_STOPPED = 3
    FINISHED_LENGTH = 4
    FINISHED_ABORTED = 5
    FINISHED_FAILED = 6

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self > RequestStatus.PREEMPTED


@dataclass(slots=True, eq=False)
class Sequence:
    """One continuation of a prompt: its tokens, and how far their KV is computed."""

    group: "SequenceGroup"
    request: Request
    index: int
    seq_id: int
    """Given by the scheduler; unique in its life. Before that, the index."""
    token_ids: TokenIds
    """Prompt and output. Of a sequence that is scored, also the last one, which is not computed."""
    num_prompt_tokens: int
    """Tokens that the request came with."""
    num_tokens: int
    """Tokens of prompt and output; of a sequence that is scored, those that are computed."""
    matcher: "TokenMatcher | None" = None
    """The state of the grammar that the output must follow, if there is one."""
    status: RequestStatus = RequestStatus.WAITING
    num_computed_tokens: int = 0
    """Tokens from the start whose KV is in the cache."""
    block_table: list[int] = field(default_factory=list)
    """Block ids that hold the KV, in order. Only the KV cache manager changes it."""
    block_hashes: list[bytes] = field(default_factory=list)
    """Hash chain over the full blocks seen so far that are not all of shared tokens. Only the KV
    cache manager changes it."""
    cumulative_logprob: float = 0.0
    """Sum of the log-probabilities of the output, if the request asks for them."""
    num_preemptions: int = 0
    first_token_time: float | None = None
    finish_time: float | None = None
    runner_state: RunnerState | None = field(default_factory=RunnerState)
    """None once it has ended."""
    address: tuple[str, int] | None = None
    """The name and index by which the caller knows it, once it has been told of it."""

    def append(self, token_id: int) -> None:
        """Adds a token to the output."""
        self.token_ids.own.append(token_id)
        self.num_tokens += 1

    def get_len(self) -> int:
        """Tokens of prompt and output, as num_tokens."""
        return self.num_tokens

    @property
    def data(self) -> SequenceData:
        """The tokens as they are now."""
        return SequenceData(self.request.prompt_token_ids, self.token_ids[self.num_prompt_tokens :])

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens whose KV is still to be computed; 1 for a sequence that decodes."""
        return self.num_tokens - self.num_computed_tokens

    def branch_requests(
        self, branches: SequenceOf[Branch], arrival_time: float | None = None
    ) -> list[Request]:
        """A request for each branch, with all tokens so far as its prompt, which they share.

        So a branch draws what a new request with this prompt would. Penalties and bad words still
        treat this sequence's output as output.
        """
        token_ids = TokenIds(SharedTokenIds(self.token_ids[:]))
        arrival_time = time.monotonic() if arrival_time is None else arrival_time
        return [
            replace(
                self.request,
                request_id=new_request_id(),
                prompt_token_ids=token_ids,
                prompt=None,
                continued=None,
                moved=False,
                is_suspect=False,
                sampling_params=branch.sampling_params,
                seed=branch.seed,
                arrival_time=arrival_time,
                num_parent_output_tokens=(
                    self.request.num_parent_output_tokens + self.num_output_tokens
                ),
            )
            for branch in branches
        ]


class SequenceGroup:
    """The sequences of one request, and what they have in common."""

    def __init__(
        self,
        request: Request,
        matchers: SequenceOf["TokenMatcher | None"] = (),
        arrival_order: int = 0,
        first_seq_id: int = 0,
    ) -> None:
        """`matchers` has one at the start of the grammar that the outputs must follow, if there is
        one; of a continued request one for each of its outputs, which is after it.

        The scheduler counts requests by `arrival_order`; its sequences are numbered from
        `first_seq_id` on.
        """
        self.request = request
        self.arrival_order = arrival_order
        self.first_seq_id = first_seq_id
        self.first_scheduled_time: float | None = None
        self.num_cached_tokens = 0
        """Prompt tokens that the prefix cache or a branch's parent provided at the first start."""
        self.prompt_logprobs: list[PositionLogprobs] = []
        """Of the prompt's tokens after the first, or from scored_from on, as far as they are
        computed; never twice."""
        params = request.sampling_params
        outputs = () if request.continued is None else request.continued.outputs
        self._given = {output.index: output for output in outputs}
        self.first_index = min(self._given, default=0)
        """The lowest of those that have not ended at the start."""
        self.forked = request.num_outputs == 1
        """Whether every sequence runs on its own."""
        self.looks_back = params.looks_back
        self.on_trial = request.is_suspect
        """Whether the request may end the engine, and has no new token yet. No other such request
        is computed meanwhile, so that an engine's end tells which one it was."""
        # They go with the first tokens of index 0, and are not computed again.
        first = self._given.get(0)
        self.wants_prompt_logprobs = params.prompt_logprobs is not None and (
            request.continued is None or (first is not None and not first.token_ids)
        )
        """Whether log-probabilities of the prompt are computed."""
        self._num_prompt_tokens = len(request.prompt_token_ids)
        # Nothing comes after the last token that is scored, so it needs no KV.
        self._num_first_tokens = self._num_prompt_tokens - (request.scored_from is not None)
        self._matchers = matchers
        self._made: dict[int, Sequence] = {}  # those that have not ended, by index
        self._ended: set[int] = set()
        if request.continued is not None:
            self._ended.update(set(range(params.n)) - self._given.keys())
        self._bad_words: BadWords | None = None

    @property
    def bad_words(self) -> BadWords:
        """Those of its parameters; made when they are first asked for, so not while it waits."""
        if self._bad_words is None:
            self._bad_words = BadWords(self.request.sampling_params.bad_words_token_ids)
        return self._bad_words

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of the prompt are wanted and not all computed."""
        if not self.wants_prompt_logprobs:
            return False
        num_wanted = self._num_prompt_tokens - 1 - self._first_logprob_position
        return len(self.prompt_logprobs) < num_wanted

    @property
    def max_cached_tokens(self) -> int | None:
        """Tokens from the start that the prefix cache may provide; None means no limit.

        Log-probabilities of the prompt come from computing it, from where they are wanted on.
        """
        return self._first_logprob_position if self.lacks_prompt_logprobs else None

    def prompt_logprob_positions(self, start: int, end: int) -> range:
        """The positions from `start` to before `end` whose next prompt token lacks its own."""
        if not (self.wants_prompt_logprobs and self.lacks_prompt_logprobs):
            return _NO_POSITIONS
        first = max(start, self._first_logprob_position + len(self.prompt_logprobs))
        return range(first, max(first, min(end, self._num_prompt_tokens - 1)))

    @property
    def _first_logprob_position(self) -> int:
        """The first position after which a log-probability may be wanted."""
        return 0 if self.request.scored_from is None else self.request.scored_from - 1

    def seq(self, index: int) -> Sequence:
        """A sequence that has not ended, made now if it was not."""
        if index not in self._made:
            self._made[index] = self._make(index, self._own_matcher(index))
        return self._made[index]

    def num_shared_tokens(self, parent: Sequence, child: Sequence) -> int:
        """The computed tokens of `parent` that `child`, of this group, begins with."""
        if not self._given:
            return parent.num_computed_tokens
        # At least one is left to compute, since a token is drawn after it.
        num_tokens = min(self._num_prompt_tokens, child.num_tokens - 1)
        return min(parent.num_computed_tokens, num_tokens)

    def num_uncomputed_tokens(self, index: int) -> int:
        """Those of a sequence that has not ended, without making it."""
        seq = self._made.get(index)
        if seq is not None:
            return seq.num_uncomputed_tokens
        given = self._given.get(index)
        return self._num_first_tokens + (0 if given is None else len(given.token_ids))

    def unfinished_indexes(self) -> list[int]:
        """Of the sequences that have not ended."""
        ended = self._ended
        return [index for index in range(self.request.sampling_params.n) if index not in ended]

    def made_seqs(self) -> list[Sequence]:
        """Those that were made and have not ended."""
        return list(self._made.values())

    def unfinished_seqs(self) -> list[Sequence]:
        """Those that have not ended, by index, in order to end them.

        One that was not made before has no grammar, and cannot run.
        """
        return [
            self._made.get(index) or self._make(index, None) for index in self.unfinished_indexes()
        ]

    def end(self, index: int) -> None:
        """Forgets a sequence that has ended."""
        self._made.pop(index, None)
        self._ended.add(index)

    @property
    def finished(self) -> bool:
        """Whether every sequence has ended."""
        return len(self._ended) == self.request.sampling_params.n

    def _own_matcher(self, index: int) -> "TokenMatcher | None":
        if self._given:
            return dict(zip(self._given, self._matchers, strict=False)).get(index)
        matcher = self._matchers[0] if self._matchers else None
        # The last one that is made could have the original, but which it is is not known.
        if matcher is not None and self.request.sampling_params.n > 1:
            matcher = matcher.copy()
        return matcher

    def _make(self, index: int, matcher: "TokenMatcher | None") -> Sequence:
        request = self.request
        token_ids = request.token_ids
        if request.scored_from is None:  # and so has an output
            token_ids = TokenIds(token_ids.shared, token_ids.own)
        seq = Sequence(
            group=self,
            request=request,
            index=index,
            seq_id=self.first_seq_id + index,
            token_ids=token_ids,
            num_prompt_tokens=self._num_prompt_tokens,
            num_tokens=self._num_first_tokens,
            matcher=matcher,
        )
        given = self._given.get(index)
        if given is not None:
            token_ids.own.extend(given.token_ids)
            seq.num_tokens += len(given.token_ids)
            seq.cumulative_logprob = given.cumulative_logprob
        return seq
