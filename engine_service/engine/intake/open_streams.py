"""OpenStreams: the requests that an engine has admitted, and their streams.

Belongs to the event loop.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from engine_service.engine.commands import Fork, StreamCommand
from engine_service.engine.delivery.row_routes import RowRoutes
from engine_service.engine.delivery.step_outputs import StepOutputs, row_output
from engine_service.engine.failures import RequestFailure
from engine_service.engine.intake.command_demands import arrival_of, demand_of
from engine_service.engine.output_stream import OutputStream
from engine_service.overload.admission import Admission
from engine_service.overload.queue_limits import UNLIMITED
from engine_service.overload.ticket import Ticket
from folovllm.errors import FolovError, InvalidRequestError, QueueFullError
from folovllm.model_info import ModelInfo


class OpenStreams(Mapping[str, OutputStream]):
    """By name, from the time the engine is told of a request to its end there."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.admission = Admission(UNLIMITED)
        """Decides what is admitted."""
        self._streams: dict[str, OutputStream] = {}
        self._routes = RowRoutes()
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

    def admit(self, command: StreamCommand, info: ModelInfo) -> Ticket:
        """Admits a command that is to be opened, or withdrawn.

        Raises QueueFullError, and InvalidRequestError if the name is in use.
        """
        self._check_unused(command)
        parent = command.parent if isinstance(command, Fork) else ""
        length = self._tickets[parent].demand.max_length if parent in self._tickets else 0
        demand = demand_of(command, length, info)
        arrival_time, now = arrival_of(command), self._clock()
        return self.admission.admit(command.name, demand, arrival_time, now, moved=command.moved)

    def withdraw(self, ticket: Ticket) -> None:
        """Gives back what was admitted and is not going to be opened."""
        self.admission.end(ticket, self._clock())

    def open(self, command: StreamCommand, ticket: Ticket) -> OutputStream:
        """The stream of a command. Raises InvalidRequestError if the name is in use."""
        self._check_unused(command)
        ticket.submitted = True
        name = command.name
        stream = self._streams[name] = OutputStream(name, command.num_outputs, self._routes)
        self._tickets[name] = ticket
        self.num_opened += 1
        return stream

    def set_scheduled(self, names: Iterable[str]) -> None:
        """A step begins that computes these."""
        for name in names:
            if (stream := self._streams.get(name)) is not None:
                stream.set_scheduled()

    def deliver(self, step: StepOutputs, saturated: bool) -> None:
        """Takes what a step led to; `saturated` is whether something waits in spite of it."""
        now, num_generated, num_prompt = self._clock(), sum(map(len, step.token_ids)), 0
        for address, token_ids in self._routes.send(step.addresses, step.token_ids):
            if (stream := self._streams.get(address[0])) is not None:
                stream.put(row_output(address, token_ids))
        for output in step.outputs:
            num_generated += len(output.token_ids)
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            if not stream.started:
                num_prompt += self.admission.begin(self._tickets[output.request_id], now)
            stream.put(output)
            if stream.complete:
                del self._streams[output.request_id]
                self.admission.end(self._tickets.pop(output.request_id), now, stream.num_tokens)
        self.num_generated_tokens += num_generated
        self.admission.step(now, num_generated + num_prompt, saturated)

    def fail(self, failures: Iterable[RequestFailure]) -> None:
        """Ends streams with errors; one that has waited too long is told when to return."""
        now = self._clock()
        for failure in failures:
            stream = self._streams.pop(failure.name, None)
            if stream is None:
                continue
            ticket = self._tickets.pop(failure.name)
            self.admission.end(ticket, now)
            if isinstance(failure.error, QueueFullError):
                failure.error.retry_after = self.admission.give_up(failure.name, ticket, now)
            stream.fail(failure.error)

    def fail_all(self, error: Callable[[bool], FolovError]) -> None:
        """Ends every stream with `error` of whether it was scheduled."""
        now = self._clock()
        for name, stream in self._streams.items():
            self.admission.end(self._tickets[name], now)
            stream.fail(error(stream.scheduled))
        self._streams.clear()
        self._tickets.clear()

    def _check_unused(self, command: StreamCommand) -> None:
        if command.name in self._streams:
            raise InvalidRequestError(command.name_field, f"{command.name} is running already")
