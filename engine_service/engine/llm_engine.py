"""LLMEngine: scheduler and model runner joined; requests in, CompletionOutputs out, step by step.

Synchronous and single-threaded. AsyncEngine drives it for the service, LLM drives it in-process.

With a runner that overlaps, it is one step ahead whenever possible:

    launch n+1 ─▶ read n ─▶ update ─▶ launch n+2 ─▶ read n+1 ─▶ …

So the device always has its next step, and the host's work costs no time of its own. With any other
runner, each step is read before the next is planned.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from engine_service.config import EngineConfig
from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.outputs import (
    LaunchedStep,
    ModelRunner,
    OverlappingRunner,
    SchedulerOutput,
    SequenceOutput,
)
from engine_service.core.request import Branch, Request, RequestStatus
from engine_service.core.scheduler import Scheduler
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.spec_decode.speculator import Speculator
from engine_service.core.token_matcher import TokenMatcher
from engine_service.core.waiting.scheduling_policy import SchedulingPolicy
from engine_service.engine.admission import check_lengths
from engine_service.engine.completion_outputs import completion_output, request_info
from engine_service.engine.continued.matchers import matchers_after
from engine_service.engine.delivery.step_outputs import StepOutputs
from engine_service.engine.failures import FailureJudge, RequestFailure, request_failure
from engine_service.engine.parent_requests import ParentRequests
from engine_service.engine.score_requests import ScoreRequest
from engine_service.structured_output.grammar_compiler import GrammarCompiler
from engine_service.structured_output.refusals import no_grammars
from folovllm.errors import (
    ConfigError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    ServerError,
)
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams

# A priority before those of all requests, which are int32.
_FIRST = -(2**31) - 1


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy the engine is after its latest step."""

    num_running: int = 0
    num_waiting: int = 0
    num_queued_tokens: int = 0
    kv_cache_usage: float = 0.0
    num_free_kv_blocks: int = 0


class LLMEngine:
    """Runs requests to their end, many at once."""

    def __init__(
        self,
        runner: ModelRunner,
        config: EngineConfig,
        info: ModelInfo,
        default_sampling_params: SamplingParams | None = None,
        grammar_compiler: GrammarCompiler | None = None,
        *,
        policy: SchedulingPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`info` describes the runner: its number of KV blocks, block size and context.

        `policy` and `clock` are the scheduler's.
        """
        self.grammar_compiler = grammar_compiler
        """None for an engine without a vocabulary."""
        self.info = info
        self.default_sampling_params = default_sampling_params or SamplingParams()
        self._kv = KVCacheManager(
            info.num_kv_blocks, info.block_size, config.cache.enable_prefix_caching
        )
        device_type = info.device.partition(":")[0]
        limits = SchedulerLimits(
            *config.scheduler.step_size_on(device_type),
            info.max_model_len,
            frozenset(info.eos_token_ids),
        )
        speculates = config.scheduler.speculates_on(device_type)
        speculator = Speculator(self._kv, limits) if speculates else None
        self.scheduler = Scheduler(limits, self._kv, speculator, policy, clock)
        self.runner = runner
        self._overlapping = runner if isinstance(runner, OverlappingRunner) else None
        self._in_flight: tuple[SchedulerOutput, LaunchedStep] | None = None
        self._parents = ParentRequests()
        self._unannounced: set[str] = set()  # whose RequestInfo has not been sent
        self._judge = FailureJudge(self._start_probe)
        self.on_scheduled: Callable[[list[str]], None] | None = None
        """Is told the names of requests before the first step of each."""
        self.num_step_tokens = 0
        """Tokens of the step that is computed, or was the last. Other threads may read it."""

    def make_matcher(self, params: SamplingParams) -> TokenMatcher | None:
        """Compiles the grammar that `params` ask for, if any, in this process and at once.

        For callers who harm only themselves; others are served by MatcherMaker. Blocks for as long
        as that takes, and may be called on any thread. Raises InvalidRequestError if the grammar is
        wrong or too large, QueueFullError if others take too long to wait for.
        """
        if not params.follows_grammar:
            return None
        output, reasoning = params.structured_output, params.reasoning
        if self.grammar_compiler is None:
            raise no_grammars(output)
        return self.grammar_compiler.compile(output, reasoning).matcher()

    def make_matchers(self, request: Request) -> tuple[TokenMatcher | None, ...]:
        """One for the request, or if it is continued one after each of its outputs.

        Otherwise as `make_matcher`. Raises InvalidRequestError that names the output, if the
        grammar does not accept it.
        """
        matcher = self.make_matcher(request.sampling_params)
        if request.continued is None:
            return (matcher,)
        return matchers_after(matcher, request.continued)

    def add_request(self, request: Request, *matchers: TokenMatcher | None) -> None:
        """Adds a request that `admission.check_request` admits and whose id is not in use.

        If it is continued, `continued.checks.check_continued` admits it too. If it is or has moved,
        it may wait for as long as it takes. `matchers` are what `make_matchers` returned for it; if
        left out, they are made now.
        """
        self.scheduler.add_request(
            request,
            *(matchers or self.make_matchers(request)),
            # It has waited elsewhere.
            may_wait=request.moved or request.continued is not None,
        )
        self._unannounced.add(request.request_id)
        if request.continued is not None and request.continued.branch_index:
            self._parents.add_branch(request, request.continued.branch_index)

    def fork_request(
        self,
        request_id: str,
        index: int,
        fork_id: str,
        branches: Sequence[Branch],
        *,
        matchers: Sequence[TokenMatcher | None] = (),
        arrival_time: float | None = None,
    ) -> None:
        """Branches sequence `index` of a running request; `fork_id` names the outputs.

        `matchers` are what `make_matcher` returned for the branches; if left out, they are made
        now. Raises NotFoundError if the parent does not run, and InvalidRequestError if a branch
        would be too long; then none runs.
        """
        parent = self.scheduler.find_unfinished(*self._parents.child(request_id, index))
        if parent is None or parent.request.scored_from is not None:
            raise NotFoundError(f"request {request_id} has no running continuation {index}")
        for number, branch in enumerate(branches):
            try:
                check_lengths(parent.num_tokens, branch.sampling_params, self.info)
            except InvalidRequestError as error:
                raise error.within(f"branches[{number}]") from None
        matchers = matchers or [self.make_matcher(branch.sampling_params) for branch in branches]
        requests = parent.branch_requests(branches, arrival_time)
        self._parents.add(fork_id, requests)
        for request, matcher in zip(requests, matchers, strict=True):
            self._unannounced.add(request.request_id)
            self.scheduler.fork_request(parent, request, matcher)

    def add_scores(self, name: str, request: ScoreRequest) -> None:
        """Adds a request that `score_requests.check_scores` admits; outputs have the name.

        The first continuation runs ahead; when it ends the others start together, and find the
        prompt's full blocks in the prefix cache. Each leads to one output, at its index, with all
        log-probabilities.
        """
        leader, *followers = request.requests()
        self._parents.add(name, [leader, *followers], followers)
        self.scheduler.add_request(leader)

    def end_overdue(self, max_seconds: float, now: float) -> list[RequestFailure]:
        """Ends every call of which nothing has run and that was added too long before `now`.

        That is over `max_seconds` by the scheduler's clock. What has run once may wait for as long
        as it takes. Returns what ended them. Other ranks have to be told to abort them.
        """
        self._announce_started()
        overdue = self.scheduler.overdue_requests(max_seconds, now)
        names = dict.fromkeys(self._parents.name_of(each.request_id, 0)[0] for each in overdue)
        for name in names:
            self.abort_request(name)
        message = f"the request has waited in the queue for over {max_seconds:g} s"
        return [RequestFailure(name, QueueFullError(message)) for name in names]

    def abort_request(self, request_id: str, indexes: Iterable[int] = ()) -> list[CompletionOutput]:
        """Ends a request, or the named sequences of it; returns their final outputs."""
        if request_id not in self._parents:
            return [*self._outputs(self.scheduler.abort_request(request_id, indexes))]
        outputs: list[CompletionOutput] = []
        self._add_followers(self._parents.pop_followers(request_id))
        for child in self._parents.children(request_id, indexes):
            outputs += self._outputs(self.scheduler.abort_request(child))
        return outputs

    @property
    def has_step_in_flight(self) -> bool:
        """Whether a step was launched that has not been read."""
        return self._in_flight is not None

    def has_unfinished_requests(self) -> bool:
        """Whether a step would do anything, if only to read a wasted one, or to raise."""
        return (
            self.scheduler.has_unfinished_requests()
            or self.has_step_in_flight
            or len(self._judge) > 0
        )

    def drain_failures(self) -> list[RequestFailure]:
        """The requests that have failed since the last call, each alone; they have ended."""
        return self._judge.drain()

    def step(self) -> list[CompletionOutput]:
        """As `step_in_columns`; every change is an output."""
        return [*self.step_in_columns()]

    def step_in_columns(self) -> StepOutputs:
        """Reads one step, having launched the next if possible; returns what changed.

        A request may fail by itself, and then has no more outputs: see `drain_failures`. For a
        caller that does not ask, the next step raises its error. Raises ServerError if every
        request fails, whatever it is.
        """
        if self._judge:
            raise self._judge.drain()[0].error
        scheduler, runner = self.scheduler, self._overlapping
        if runner is None:
            planned = self._planned(scheduler.schedule())
            result = self.runner.execute(planned)
        else:
            if self._in_flight is None:
                planned = self._planned(scheduler.schedule())
                self._in_flight = planned, runner.launch(planned)
            planned, launched = self._in_flight
            ahead = scheduler.schedule_ahead(planned)
            self._in_flight = None
            if ahead is not None:
                self._in_flight = self._planned(ahead), runner.launch(ahead)
            result = launched.result()
        step = self._outputs(scheduler.update_from_output(planned, result))
        failures = [self._fail(*failed) for failed in scheduler.drain_failures()]
        everything_failed = len(result.failures) == len(planned.scheduled)
        step.outputs = self._judge.judge(step.outputs, failures, everything_failed)
        return step

    def warm_up(self) -> None:
        """Sends one token through every part, so that the first request is not slower.

        Also reads the vocabulary for grammars, during which no other thread gets to run. Raises
        ConfigError if the token fails.
        """
        if self.grammar_compiler is not None:
            with suppress(ConfigError):  # raised again for a request with a grammar
                self.grammar_compiler.vocabulary.load()
        self._start_probe("warm-up")
        try:
            while self.has_unfinished_requests():
                self.step()
        except ServerError as error:
            raise ConfigError(f"the model does not start: {error}") from None

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached prefixes; False, with nothing changed, while a request holds KV."""
        return self._kv.reset_prefix_cache()

    def load(self) -> EngineLoad:
        """How busy the engine is."""
        return EngineLoad(
            num_running=self.scheduler.num_running,
            num_waiting=self.scheduler.num_waiting,
            num_queued_tokens=self.scheduler.num_queued_tokens,
            kv_cache_usage=self._kv.usage,
            num_free_kv_blocks=self._kv.num_free_blocks,
        )

    def _planned(self, planned: SchedulerOutput) -> SchedulerOutput:
        """Tells of a step that is computed next."""
        self.num_step_tokens = planned.num_tokens
        self._announce_started()
        return planned

    def _announce_started(self) -> None:
        """Tells of requests that have started, and lets what is left of their calls wait."""
        started = self.scheduler.drain_started()
        if not started:
            return
        names = [self._parents.name_of(each.request_id, 0)[0] for each in started]
        for name in names:
            for child in self._parents.begin(name):
                self.scheduler.let_wait(child)
        if self.on_scheduled is not None:
            self.on_scheduled(names)

    def _outputs(self, changes: Iterable[SequenceOutput]) -> StepOutputs:
        """What changed, for callers; starts requests that waited for one that ended."""
        step, running = StepOutputs(), RequestStatus.RUNNING
        addresses, token_ids = step.addresses, step.token_ids
        for change in changes:
            seq = change.seq
            if seq.status is running and seq.address is not None and not change.logprobs:
                addresses.append(seq.address)
                token_ids.append(change.token_ids)
            elif seq.status is not RequestStatus.FINISHED_FAILED:  # later in the same step
                step.outputs.append(self._output(change))
        return step

    def _output(self, change: SequenceOutput) -> CompletionOutput:
        seq = change.seq
        request = seq.request
        name, index = seq.address = self._parents.name_of(request.request_id, seq.index)
        output = completion_output(change, name, index)
        if seq.index == seq.group.first_index and request.request_id in self._unannounced:
            self._unannounced.remove(request.request_id)
            output.info = request_info(seq.group, self.info)
        if change.finished and seq.group.finished:
            self._add_followers(self._parents.discard(request.request_id))
        return output

    def _add_followers(self, followers: Iterable[Request]) -> None:
        """Adds those that waited for the first of their call, which has begun with it."""
        for follower in followers:
            self.scheduler.add_request(follower, may_wait=True)

    def _start_probe(self, name: str) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=1)
        self.add_request(Request(name, [0], params, priority=_FIRST))

    def _fail(self, request: Request, error: Exception) -> RequestFailure:
        """Ends whatever answers the same call as a request that has failed."""
        name, _ = self._parents.name_of(request.request_id, 0)
        self._unannounced.discard(request.request_id)
        if name in self._parents:
            self._parents.pop_followers(name)
            for child in self._parents.children(name):
                self.scheduler.abort_request(child)
                self._parents.discard(child)
                self._unannounced.discard(child)
        return request_failure(name, error)
