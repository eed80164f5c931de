"""OpenStreams: the streams of all requests of an engine, and what it has admitted them for.

Belongs to the event loop.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from engine_service.engine.failures import RequestFailure
from engine_service.engine.output_stream import OutputStream
from engine_service.overload.admission import Admission
from engine_service.overload.ticket import Ticket
from folovllm.errors import FolovError, QueueFullError
from folovllm.outputs import CompletionOutput


class OpenStreams(Mapping[str, OutputStream]):
    """By name, from the time the engine is told of a request to its end there."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._streams: dict[str, OutputStream] = {}
        self._tickets: dict[str, Ticket] = {}  # of the same
        self.num_opened = 0
        """Streams since the start."""
        self.num_generated_tokens = 0
        """Tokens that were generated since the start."""

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __getitem__(self, name: str) -> OutputStream:
        return self._streams[name]

    def max_length(self, name: str) -> int:
        """Tokens that a sequence of a request may come to; 0 if none of the name runs."""
        return self._tickets[name].demand.max_length if name in self._tickets else 0

    def open(self, name: str, num_outputs: int, ticket: Ticket) -> OutputStream:
        """Makes the stream of a name that is not in use."""
        stream = self._streams[name] = OutputStream(name, num_outputs)
        self._tickets[name] = ticket
        self.num_opened += 1
        return stream

    def set_scheduled(self, names: Iterable[str]) -> None:
        """A step begins that computes these."""
        for name in names:
            if (stream := self._streams.get(name)) is not None:
                stream.set_scheduled()

    def deliver(
        self, outputs: Sequence[CompletionOutput], admission: Admission, saturated: bool
    ) -> None:
        """Takes what a step led to; `saturated` is whether something waits in spite of it."""
        now, num_generated, num_prompt = self._clock(), 0, 0
        for output in outputs:
            num_generated += len(output.token_ids)
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            if not stream.started:
                num_prompt += admission.begin(self._tickets[output.request_id], now)
            stream.put(output)
            if stream.complete:
                del self._streams[output.request_id]
                admission.end(self._tickets.pop(output.request_id), now, stream.num_tokens)
        self.num_generated_tokens += num_generated
        admission.step(now, num_generated + num_prompt, saturated)

    def fail(self, failures: Iterable[RequestFailure], admission: Admission) -> None:
        """Ends streams with errors; one that has waited too long is told when to return."""
        now = self._clock()
        for failure in failures:
            stream = self._streams.pop(failure.name, None)
            if stream is None:
                continue
            ticket = self._tickets.pop(failure.name)
            admission.end(ticket, now)
            if isinstance(failure.error, QueueFullError):
                failure.error.retry_after = admission.give_up(failure.name, ticket, now)
            stream.fail(failure.error)

    def fail_all(self, error: Callable[[bool], FolovError], admission: Admission) -> None:
        """Ends every stream with `error` of whether it was scheduled."""
        now = self._clock()
        for name, stream in self._streams.items():
            admission.end(self._tickets[name], now)
            stream.fail(error(stream.scheduled))
        self._streams.clear()
        self._tickets.clear()
