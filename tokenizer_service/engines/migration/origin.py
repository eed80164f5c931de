"""Origin: what a stream was asked for with, which is where its continuations begin."""

from array import array
from collections.abc import Sequence

from folovllm.v1 import engine_service_pb2, types_pb2
from tokenizer_service.engines.migration.progress import Progress, ReceivedInfo

Command = engine_service_pb2.SessionCommand


class Origin:
    """A generate command. It must not be changed afterwards."""

    def __init__(self, command: Command, arrival: float) -> None:
        """`arrival` is by the event loop's clock."""
        self.command = command
        self.arrival = arrival
        request = command.generate
        self.name = request.request_id
        self.prompt_token_ids: Sequence[int] = request.prompt_token_ids
        """The prompt; of a fork that of the request that it stems from."""
        self.priority, self.cache_salt = request.priority, request.cache_salt

    @property
    def is_fork(self) -> bool:
        """Whether its continuations are branches."""
        return False

    @property
    def goes_on(self) -> bool:
        """Whether it begins with output that its reader has."""
        return self.command.generate.HasField("continued")

    def new_progress(self) -> list[Progress]:
        """Of each continuation, where it begins."""
        n, has_logprobs = self._n, self.command.generate.sampling_params.HasField("logprobs")
        progress = [Progress(has_logprobs=has_logprobs, is_over=self.goes_on) for _ in range(n)]
        for output in self.command.generate.continued.outputs:
            if output.index < n:  # the engine refuses others
                progress[output.index] = Progress(
                    output.token_ids, output.logprobs, has_logprobs=has_logprobs
                )
        return progress

    def new_infos(self) -> list[ReceivedInfo]:
        """What has come of the RequestInfo of each continuation; they have one in common."""
        return [ReceivedInfo()] * self._n

    @property
    def _n(self) -> int:
        params = self.command.generate.sampling_params
        return params.n if params.HasField("n") else 1

    def inherited(self, infos: Sequence[ReceivedInfo]) -> Sequence[int]:
        """What was generated before, that its continuations begin with beyond the prompt."""
        return ()

    def params(self, index: int) -> types_pb2.SamplingParams:
        """What a continuation was asked for with; what is not set is the model's default."""
        return self.command.generate.sampling_params


class ForkOrigin(Origin):
    """A fork command, of a parent whose output is known as far as it was sent."""

    def __init__(
        self,
        command: Command,
        arrival: float,
        parent: Origin,
        inherited: Sequence[int],
        output: Progress,
    ) -> None:
        """`inherited` is what the parent began with beyond the prompt, `output` what follows."""
        super().__init__(parent.command, arrival)
        self.command, self.name = command, command.fork.fork_id
        self.priority, self.cache_salt = parent.priority, parent.cache_salt
        self.prompt_token_ids = parent.prompt_token_ids
        self._inherited, self._output = array("I", inherited), output
        self._num_parent_tokens = len(inherited) + len(output.token_ids)
        self._received = array("I")

    @property
    def is_fork(self) -> bool:
        """Whether its continuations are branches."""
        return True

    @property
    def goes_on(self) -> bool:
        """Whether it begins with output that its reader has."""
        return False

    def new_progress(self) -> list[Progress]:
        """Of each branch, where it begins."""
        return [
            Progress(has_logprobs=branch.HasField("logprobs"))
            for branch in self.command.fork.branches
        ]

    def new_infos(self) -> list[ReceivedInfo]:
        """What has come of the RequestInfo of each branch."""
        return [ReceivedInfo(self._received) for _ in self.command.fork.branches]

    def params(self, index: int) -> types_pb2.SamplingParams:
        """What a branch was asked for with; what is not set is the model's default."""
        return self.command.fork.branches[index]

    def inherited(self, infos: Sequence[ReceivedInfo]) -> Sequence[int]:
        """What was generated before, that its branches begin with, as far as it is known."""
        known = self.parent_token_ids(infos)
        return self._inherited + self._output.token_ids if known is None else known

    def parent_token_ids(self, infos: Sequence[ReceivedInfo]) -> Sequence[int] | None:
        """What its parents generated that all branches go on with.

        The engine that began one of them has said how much that is. Where none has, it is what had
        come when the fork was asked for. None if it is not known to the end.
        """
        known = next((each.info for each in infos if each.info is not None), None)
        number = self._num_parent_tokens
        if known is not None:
            number = known.prompt_tokens - len(self.prompt_token_ids)
        if len(self._received) >= number:
            return self._received[:number]
        so_far = self._inherited + self._output.token_ids
        return so_far[:number] if len(so_far) >= number else None
