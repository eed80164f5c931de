"""Mutants: errors that are planted in the services, each of which the simulation has to find."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from typing import Any
from unittest.mock import patch

from engine_service.core.request import SequenceGroup
from engine_service.engine.async_engine import AsyncEngine
from folovllm.outputs import CompletionOutput
from folovllm.parameters.seeds import new_seed
from simulation.runs import run_seeds
from simulation.scenario import Shape
from tokenizer_service.engines import mover
from tokenizer_service.engines.migration import continuation
from tokenizer_service.engines.migration.attempts import Attempts
from tokenizer_service.engines.part import Part
from tokenizer_service.engines.session import EngineSession
from tokenizer_service.handlers import generate
from tokenizer_service.text.output_processor import OutputProcessor

MAX_REQUESTS = 10_000
"""Within which each must be found."""

Plant = Callable[[], AbstractContextManager[Any]]


def _continued_with(change: Callable[[Any], None]) -> AbstractContextManager[Any]:
    """Changes every command with which a stream goes on."""
    go_on = continuation.go_on

    def changed(*arguments: Any) -> Any:
        command = go_on(*arguments)
        change(command.generate)
        return command

    return patch.object(mover, "go_on", changed)


def _position_is_off_by_one() -> AbstractContextManager[Any]:
    def drop_last(request: Any) -> None:
        for output in request.continued.outputs:
            del output.token_ids[-1:]
            del output.logprobs[-1:]

    return _continued_with(drop_last)


def _output_becomes_prompt() -> AbstractContextManager[Any]:
    def append(request: Any) -> None:
        if len(request.continued.outputs) == 1:
            (output,) = request.continued.outputs
            request.prompt_token_ids.extend(output.token_ids)
            del output.token_ids[:]
            del output.logprobs[:]

    return _continued_with(append)


def _penalties_are_lost() -> AbstractContextManager[Any]:
    def clear(request: Any) -> None:
        params = request.sampling_params
        params.presence_penalty = params.frequency_penalty = 0.0
        params.repetition_penalty = 1.0

    return _continued_with(clear)


def _seed_is_drawn_again() -> AbstractContextManager[Any]:
    def draw(request: Any) -> None:
        request.sampling_params.seed = new_seed()

    return _continued_with(draw)


def _logprobs_are_dropped() -> AbstractContextManager[Any]:
    def drop(request: Any) -> None:
        request.sampling_params.ClearField("logprobs")
        for output in request.continued.outputs:
            del output.logprobs[:]

    return _continued_with(drop)


def _ended_index_goes_on() -> AbstractContextManager[Any]:
    def add(request: Any) -> None:
        listed = {output.index for output in request.continued.outputs}
        for index in range(request.sampling_params.n):
            if index not in listed:
                request.continued.outputs.add(index=index)

    return _continued_with(add)


def _both_engines_are_heard() -> AbstractContextManager[Any]:
    """The session that a stream is taken away from goes on to add its outputs to the stream."""

    def cancel(self: EngineSession, part: Part) -> None:
        if self._parts.get(part.wire_name) is not part:
            return
        ghost, handles = copy(part), self._handles
        self._parts[part.wire_name] = ghost
        handles._indexes[ghost] = handles._indexes.pop(part)
        for index in handles._indexes[ghost]:
            handles._continuations[part.handle + index] = ghost, index

    return patch.object(EngineSession, "cancel", cancel)


def _cancelled_is_not_released() -> AbstractContextManager[Any]:
    return patch.object(AsyncEngine, "release", lambda self, stream: None)


def _final_is_sent_twice() -> AbstractContextManager[Any]:
    text_replies = generate.text_replies

    def twice(*arguments: Any) -> Iterator[Any]:
        for reply in text_replies(*arguments):
            yield reply
            if reply.finish_reason:
                yield reply

    return patch.object(generate, "text_replies", twice)


@contextmanager
def _stop_strings_are_forgotten() -> Iterator[None]:
    """What may become a stop string, and the text that is held for it, is lost by a move."""
    moved: set[str] = set()
    begin_at, process = Part.begin_at, OutputProcessor.process

    def begin(self: Part, *arguments: Any) -> None:
        if self.has_output:
            moved.add(self.stream.name)
        begin_at(self, *arguments)

    def forgetful(self: OutputProcessor, delta: CompletionOutput) -> Any:
        if delta.request_id in moved and self._params.stop:
            moved.discard(delta.request_id)
            self._continuations.clear()
        return process(self, delta)

    with patch.object(Part, "begin_at", begin), patch.object(OutputProcessor, "process", forgetful):
        yield


def _suspects_are_forgotten() -> AbstractContextManager[Any]:
    return patch.object(Attempts, "is_suspect", property(lambda self: False))


def _suspects_run_together() -> AbstractContextManager[Any]:
    def untried(self: SequenceGroup, *arguments: Any, **options: Any) -> None:
        make_group(self, *arguments, **options)
        self.on_trial = False

    make_group = SequenceGroup.__init__
    return patch.object(SequenceGroup, "__init__", untried)


MUTANTS: dict[str, Plant] = {
    "the position is off by one after a move": _position_is_off_by_one,
    "the output so far becomes prompt": _output_becomes_prompt,
    "penalties are lost by a move": _penalties_are_lost,
    "a seed is drawn twice": _seed_is_drawn_again,
    "log-probabilities are dropped by a move": _logprobs_are_dropped,
    "an index that has ended goes on": _ended_index_goes_on,
    "both engines are heard": _both_engines_are_heard,
    "a cancelled stream is not released": _cancelled_is_not_released,
    "the final output is sent twice": _final_is_sent_twice,
    "stop strings are forgotten": _stop_strings_are_forgotten,
    "suspects are forgotten": _suspects_are_forgotten,
    "suspects run together": _suspects_run_together,
}


def hunt(shape: Shape, first: int) -> int:
    """Plants each; prints after how many requests it was found. Returns how many were not."""
    num_missed = 0
    for name, plant in MUTANTS.items():
        num_requests, complaint = hunted(plant, shape, first)
        num_missed += not complaint
        print(f"{name}: {complaint or 'not found'}, after {num_requests} requests", flush=True)
    return num_missed


def hunted(plant: Plant, shape: Shape, first: int = 1) -> tuple[int, str]:
    """After how many requests a planted error shows, and as what; empty if it does not."""
    num_requests, seed = 0, first
    while num_requests < MAX_REQUESTS:
        with plant():
            total = run_seeds([seed], shape)
        num_requests += total.num_requests
        if total.complaints:
            return num_requests, total.complaints[0]
        seed += 1
    return num_requests, ""
