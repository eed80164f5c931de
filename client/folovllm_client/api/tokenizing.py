"""What Client and AsyncClient share for tokenizing: texts and token ids to messages and back."""

from collections.abc import Iterable
from dataclasses import dataclass

from folovllm.errors import ServerError
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm_client.api.requests import carried_by

Texts = list[str] | tuple[str, ...]
"""Several texts; a str is never several."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What ids of a growing sequence brought."""

    text: str
    """New text that is certain, perhaps none."""
    num_token_ids: int
    """Ids taken so far; after a stop string, those up to the one that completed it."""
    stop_string: str | None = None
    """The stop string that ended the text."""
    finished: bool = False
    """Nothing follows."""


def tokenize_request(
    text: str | Texts, add_special_tokens: bool
) -> tuple[messages.TokenizeRequest, bool]:
    """The message that asks for the token ids of texts, and whether it is one text by itself."""
    single = isinstance(text, str)
    with carried_by("texts"):
        request = messages.TokenizeRequest(
            texts=[text] if isinstance(text, str) else text, add_special_tokens=add_special_tokens
        )
    return request, single


def detokenize_request(
    ids: Iterable[int] | Iterable[Iterable[int]], skip_special_tokens: bool
) -> tuple[messages.DetokenizeRequest, bool]:
    """The message that asks for the texts of ids, and whether they are one sequence by itself."""
    request = messages.DetokenizeRequest(skip_special_tokens=skip_special_tokens)
    given = list(ids)
    single = not (given and isinstance(given[0], Iterable))
    for place, sequence in enumerate([given] if single else given):
        with carried_by(f"sequences[{place}]"):
            request.sequences.add(ids=sequence)
    return request, single


def count_tokens_request(text: str) -> messages.CountTokensRequest:
    """The message that asks how many tokens a text has."""
    with carried_by("text"):
        return messages.CountTokensRequest(text=text)


def detokenize_options(
    sampling_params: SamplingParams | None, preceding_token_ids: Iterable[int]
) -> messages.StreamDetokenizeRequest:
    """The first message of a growing sequence."""
    params = sampling_params or SamplingParams()
    with carried_by("options"):
        options = messages.DetokenizeOptions(
            skip_special_tokens=params.skip_special_tokens,
            stop=params.stop,
            include_stop_str_in_output=params.include_stop_str_in_output,
            min_tokens=params.min_tokens,
            preceding_token_ids=preceding_token_ids,
        )
    return messages.StreamDetokenizeRequest(options=options)


def more_token_ids(ids: Iterable[int]) -> messages.StreamDetokenizeRequest:
    """A later message of a growing sequence."""
    with carried_by("token_ids"):
        return messages.StreamDetokenizeRequest(token_ids=messages.TokenIds(ids=ids))


def read_delta(answer: object) -> TextDelta:
    """The delta of an answer about a growing sequence; anything else is the end of the call.

    Raises ServerError for an end, since the last answer comes before it.
    """
    if not isinstance(answer, messages.StreamDetokenizeResponse):
        raise ServerError("the server ended the text without its last message")
    stop = answer.stop_string if answer.HasField("stop_string") else None
    return TextDelta(answer.text, answer.num_token_ids, stop, answer.finished)
