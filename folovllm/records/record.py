"""Record: one request, its resolved parameters and what it gave, as one line of JSON.

docs/audit.md documents the line. Keys that this version does not know are passed over; a change
after which older readers would misread a line raises RECORD_VERSION.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from folovllm.errors import FolovError, InvalidRequestError
from folovllm.records.packed import pack_floats, pack_ids, unpack_floats, unpack_ids
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2

RECORD_VERSION = 1

_MAX_TEXT = 1024
_MAX_INDEX = 127


class RecordError(FolovError):
    """A line is no record; the message continues a sentence about the line."""


class RecordKind(StrEnum):
    """What was recorded."""

    REQUEST = "request"
    """Of Generate, Chat and what they are behind."""
    BRANCH = "branch"
    """One branch of a fork."""


class Ending(StrEnum):
    """Why an output ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    DEADLINE = "deadline"
    STOP_STRING = "stop_string"

    @property
    def is_due(self) -> bool:
        """Whether the tokens alone have ended it. Otherwise it might have gone on."""
        return self in (Ending.STOP, Ending.LENGTH)


@dataclass(frozen=True, slots=True)
class RecordedOutput:
    """One continuation. `logprobs` has one of each token, or is empty if none were asked for."""

    index: int
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    ending: Ending


@dataclass(frozen=True, slots=True)
class Origin:
    """What computed a request: the fields of ModelInfo by these names."""

    model_id: str = ""
    server_version: str = ""
    model_fingerprint: str = ""
    weights_fingerprint: str = ""
    tokenizer_fingerprint: str = ""
    numerics_fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A request that has ended.

    `sampling_params` are those of RequestInfo, everything resolved. Of a branch the last
    `num_parent_output_tokens` of the prompt are its parent's output, `branch_index` is its index in
    the fork, and it draws and is listed as index 0. `outputs` are all, but of a request that was
    resumed those that had not ended before. `time` is when it ended, in seconds since 1970.
    """

    request_id: str
    time: float
    prompt_token_ids: Sequence[int]
    sampling_params: types_pb2.SamplingParams
    outputs: Sequence[RecordedOutput]
    origin: Origin
    kind: RecordKind = RecordKind.REQUEST
    branch_index: int = 0
    num_parent_output_tokens: int = 0
    exact: bool = True
    num_moves: int = 0

    @property
    def num_tokens(self) -> int:
        """Of all outputs."""
        return sum(len(output.token_ids) for output in self.outputs)

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longest output."""
        return len(self.prompt_token_ids) + max(len(each.token_ids) for each in self.outputs)

    def to_line(self) -> str:
        """The line, with its end. The longest lists take the least time; see `packed`."""
        origin = {name: getattr(self.origin, name) for name in Origin.__slots__}
        values = {
            "record_version": RECORD_VERSION,
            "time": datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds"),
            "request_id": self.request_id,
            "kind": self.kind,
            "branch_index": self.branch_index,
            **origin,
            "sampling_params": MessageToDict(
                self.sampling_params, preserving_proto_field_name=True
            ),
            "exact": self.exact,
            "num_moves": self.num_moves,
            "num_parent_output_tokens": self.num_parent_output_tokens,
            "prompt_token_ids": pack_ids(self.prompt_token_ids),
            "outputs": [_written(output) for output in self.outputs],
        }
        return json.dumps(values, ensure_ascii=True, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> "Record":
        """Reads a line. Raises RecordError."""
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            raise RecordError("is no JSON; the file may be cut off, or no record") from None
        if not isinstance(values, dict) or not _is_int(values.get("record_version")):
            raise RecordError("is no record: it has no record_version")
        version = values["record_version"]
        if version != RECORD_VERSION:
            raise RecordError(
                f"is of record_version {version}, this folovllm reads {RECORD_VERSION}; "
                "replay it with the version that wrote it, or a later one"
            )
        reader = _Reader(values)
        try:
            return reader.record()
        except InvalidRequestError as error:
            raise RecordError(f"has invalid parameters: {error}") from None


def _written(output: RecordedOutput) -> dict[str, object]:
    written: dict[str, object] = {
        "index": output.index,
        "finish_reason": output.ending,
        "token_ids": pack_ids(output.token_ids),
    }
    if output.logprobs:
        written["logprobs"] = pack_floats(output.logprobs)
    return written


@dataclass(frozen=True, slots=True)
class _Reader:
    """The values of a line, or of one of its outputs, at `path`."""

    values: Mapping[str, Any]
    path: str = ""

    def record(self) -> Record:
        params = self._params()
        outputs = self._outputs(params.n)
        prompt = self._ids("prompt_token_ids")
        if not prompt:
            raise RecordError("has no prompt_token_ids")
        num_parent_tokens = self._count("num_parent_output_tokens", len(prompt) - 1)
        return Record(
            request_id=self._text("request_id"),
            time=self._time(),
            prompt_token_ids=prompt,
            sampling_params=params,
            outputs=outputs,
            origin=Origin(**{name: self._text(name) for name in Origin.__slots__}),
            kind=RecordKind(self._one_of("kind", RecordKind)),
            branch_index=self._count("branch_index", _MAX_INDEX),
            num_parent_output_tokens=num_parent_tokens,
            exact=self._bool("exact"),
            num_moves=self._count("num_moves", 2**32 - 1),
        )

    def output(self) -> RecordedOutput:
        token_ids = self._ids("token_ids")
        logprobs: Sequence[float] = ()
        if "logprobs" in self.values:
            with_text = self._packed("logprobs")
            try:
                logprobs = unpack_floats(with_text)
            except ValueError as error:
                raise self._wrong("logprobs", str(error)) from None
            if len(logprobs) != len(token_ids):
                raise self._wrong("logprobs", f"has {len(logprobs)} for {len(token_ids)} token_ids")
        index = self._count("index", _MAX_INDEX)
        ending = Ending(self._one_of("finish_reason", Ending))
        return RecordedOutput(index, token_ids, logprobs, ending)

    def _outputs(self, n: int) -> tuple[RecordedOutput, ...]:
        given = self._get("outputs", list, "a list")
        outputs = []
        for number, each in enumerate(given):
            path = f"outputs[{number}]"
            if not isinstance(each, dict):
                raise RecordError(f"has {path}, which is no object")
            outputs.append(_Reader(each, f"{path}.").output())
        indexes = {output.index for output in outputs}
        if not indexes or len(indexes) != len(outputs) or max(indexes) >= n:
            raise RecordError(f"has outputs that are not of different indexes below n = {n}")
        return tuple(sorted(outputs, key=lambda output: output.index))

    def _params(self) -> types_pb2.SamplingParams:
        given = self._get("sampling_params", dict, "an object")
        try:
            message = ParseDict(given, types_pb2.SamplingParams())
        except (ParseError, RecursionError) as error:
            raise self._wrong("sampling_params", f"cannot be read: {error!s:.200}") from None
        params = SamplingParams.from_proto(message)  # checks all ranges
        for name in ("seed", "max_tokens"):
            if not message.HasField(name):
                raise self._wrong(f"sampling_params.{name}", "is missing, so it cannot be repeated")
        message.n = params.n
        return message

    def _ids(self, name: str) -> Sequence[int]:
        try:
            return unpack_ids(self._packed(name))
        except ValueError as error:
            raise self._wrong(name, str(error)) from None

    def _packed(self, name: str) -> str:
        text: str = self._get(name, str, "base64")
        return text

    def _text(self, name: str) -> str:
        text: str = self._get(name, str, "a text")
        if len(text) > _MAX_TEXT:
            raise self._wrong(name, f"has {len(text)} characters, over {_MAX_TEXT}")
        return text

    def _time(self) -> float:
        try:
            return datetime.fromisoformat(self._text("time")).timestamp()
        except (ValueError, OverflowError):
            raise self._wrong("time", "is no time as ISO 8601 has it") from None

    def _bool(self, name: str) -> bool:
        value: bool = self._get(name, bool, "true or false")
        return value

    def _count(self, name: str, most: int) -> int:
        value = self.values.get(name)
        if not _is_int(value) or not 0 <= value <= most:  # type: ignore[operator]
            raise self._wrong(name, f"must be a whole number from 0 to {most}")
        return int(value)  # type: ignore[arg-type]

    def _one_of(self, name: str, kinds: type[StrEnum]) -> str:
        value = self._text(name)
        if value not in {*kinds}:
            raise self._wrong(name, f"must be one of {', '.join(kinds)}")
        return value

    def _get(self, name: str, kind: type, what: str) -> Any:
        if name not in self.values:
            raise RecordError(f"has no {self.path}{name}")
        value = self.values[name]
        if not isinstance(value, kind):
            raise self._wrong(name, f"must be {what}")
        return value

    def _wrong(self, name: str, problem: str) -> RecordError:
        return RecordError(f"has a wrong {self.path}{name}: it {problem}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
