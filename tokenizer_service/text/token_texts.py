"""The text of each token by itself, for log-probabilities that are read where the tokenizer is."""

from collections.abc import Sequence
from dataclasses import replace

from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.outputs import CompletionOutput
from tokenizer_service.text.tokenizer import Tokenizer


def add_token_texts(output: CompletionOutput, tokenizer: Tokenizer) -> None:
    """Fills in the decoded_token of all log-probabilities of an output, special tokens included.

    Bytes of an incomplete character become U+FFFD.
    """
    output.logprobs = _with_texts(output.logprobs, tokenizer)
    if output.info is not None and output.info.prompt_logprobs:
        positions = tuple(_with_texts(output.info.prompt_logprobs, tokenizer))
        output.info = replace(output.info, prompt_logprobs=positions)


def _with_texts(
    positions: Sequence[PositionLogprobs], tokenizer: Tokenizer
) -> list[PositionLogprobs]:
    return [
        PositionLogprobs(
            _with_text(position.token, tokenizer),
            tuple(_with_text(candidate, tokenizer) for candidate in position.top),
        )
        for position in positions
    ]


def _with_text(logprob: Logprob, tokenizer: Tokenizer) -> Logprob:
    text = tokenizer.decode_known([logprob.token_id], skip_special_tokens=False)
    return replace(logprob, decoded_token=text)
