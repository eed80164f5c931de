"""Finished: a request that has ended, or one branch of a fork, as its engines have sent it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from folovllm.records.packed import id_array
from folovllm.records.record import Ending, Origin, Record, RecordedOutput, RecordKind
from folovllm.v1 import types_pb2
from tokenizer_service.engines.migration.origin import ForkOrigin
from tokenizer_service.engines.migration.progress import Progress
from tokenizer_service.engines.stream import EngineStream

_ENDINGS = {
    types_pb2.FINISH_REASON_STOP: Ending.STOP,
    types_pb2.FINISH_REASON_LENGTH: Ending.LENGTH,
    types_pb2.FINISH_REASON_ABORT: Ending.ABORT,
    types_pb2.FINISH_REASON_DEADLINE: Ending.DEADLINE,
}


@dataclass(frozen=True, slots=True)
class Finished:
    """It shares the lists of its stream, which change no more; nothing is copied."""

    request_id: str
    info: types_pb2.RequestInfo
    served: types_pb2.ModelInfo
    """By the engines, all of which are replicas of each other."""
    prompt_token_ids: Sequence[int]
    parent_token_ids: Sequence[int]
    """Of a branch: what its parents generated and it goes on with."""
    branch_index: int | None
    """Of a branch: the index by which its caller knows it; it draws as index 0."""
    progress: dict[int, Progress]
    """By index."""
    cache_salt: str
    addresses: tuple[str, ...]
    """The engines that it was sent to, in that order."""

    @property
    def num_tokens(self) -> int:
        """Of the prompt and all outputs."""
        num_output_tokens = sum(len(each.token_ids) for each in self.progress.values())
        return len(self.prompt_token_ids) + len(self.parent_token_ids) + num_output_tokens

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longest output."""
        longest = max(len(each.token_ids) for each in self.progress.values())
        return len(self.prompt_token_ids) + len(self.parent_token_ids) + longest

    @property
    def exact(self) -> bool:
        """Whether it is what an undisturbed run would have given."""
        return all(each.final is not None and each.final.exact for each in self.progress.values())

    def record(self, time: float) -> Record:
        """What is written of it; `time` is when it ended. In proportion to its tokens."""
        finals = [each.final for each in self.progress.values() if each.final is not None]
        is_branch = self.branch_index is not None
        return Record(
            request_id=self.request_id,
            time=time,
            prompt_token_ids=id_array(self.prompt_token_ids, self.parent_token_ids),
            sampling_params=self.info.sampling_params,
            outputs=self.recorded_outputs(),
            origin=Origin(
                model_id=self.served.model_id,
                server_version=self.served.server_version,
                model_fingerprint=self.info.model_fingerprint,
                weights_fingerprint=self.served.weights_fingerprint,
                tokenizer_fingerprint=self.info.tokenizer_fingerprint,
                numerics_fingerprint=self.info.numerics_fingerprint,
            ),
            kind=RecordKind.BRANCH if is_branch else RecordKind.REQUEST,
            branch_index=self.branch_index or 0,
            num_parent_output_tokens=len(self.parent_token_ids),
            exact=self.exact,
            num_moves=max((final.num_moves for final in finals), default=0),
        )

    def recorded_outputs(self) -> list[RecordedOutput]:
        """Its outputs; of one that was resumed those that are known."""
        return [
            RecordedOutput(index, progress.token_ids, progress.logprobs, ending)
            for index, progress in self.progress.items()
            if (ending := ending_of(progress)) is not None
        ]


def ending_of(progress: Progress) -> Ending | None:
    """Why a continuation has ended at its engine; None if it runs."""
    return None if progress.final is None else _ENDINGS[progress.final.finish_reason]


def finished_requests(stream: EngineStream, served: types_pb2.ModelInfo) -> Iterator[Finished]:
    """The request of a stream that has ended, or the branches of a fork.

    Without those of which it is not known what they began with.
    """
    origin = stream.origin
    is_fork = isinstance(origin, ForkOrigin)
    parent_ids = origin.parent_token_ids(stream.infos) if isinstance(origin, ForkOrigin) else ()
    known = {index: each for index, each in enumerate(stream.progress) if each.final is not None}
    groups = [{index: each} for index, each in known.items()] if is_fork else [known]
    for group in groups:
        if not group:
            continue
        index = next(iter(group))
        info = stream.infos[index].info
        if info is None or parent_ids is None:
            continue
        yield Finished(
            request_id=stream.name,
            info=info,
            served=served,
            prompt_token_ids=origin.prompt_token_ids,
            parent_token_ids=parent_ids,
            branch_index=index if is_fork else None,
            progress={0: group[index]} if is_fork else group,
            cache_salt=origin.cache_salt,
            addresses=tuple(stream.addresses),
        )
