"""The reference: what a request says when nothing disturbs it, computed without the system.

One loop over tokens, in which every rule of a parameter is written again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from folovllm.logprobs import PositionLogprobs
from folovllm.outputs import FinishReason
from folovllm.sampling_params import SamplingParams
from simulation.grammars import GrammarText
from simulation.tokens import EOS_ID, advance, draw, logprobs_of, noise, state_after


@dataclass
class Expected:
    """One continuation."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    finish_reason: FinishReason = FinishReason.LENGTH
    stop_token_id: int | None = None
    output_complete: bool = False


def expected_output(
    prompt: Sequence[int],
    params: SamplingParams,
    index: int,
    max_model_len: int,
    num_parent_tokens: int = 0,
    *,
    numerics: str = "same",
) -> Expected:
    """The continuation that draws as `index`; its seed is in the parameters.

    The last `num_parent_tokens` of the prompt are what a parent has generated.
    """
    own_prompt = tuple(prompt[: len(prompt) - num_parent_tokens])
    counted = list(prompt[len(own_prompt) :])  # as output
    result = Expected()
    output = result.token_ids
    state, grammar = state_after(prompt), _grammar(params)
    limit = min(params.max_tokens or max_model_len, max_model_len - len(prompt))
    assert params.seed is not None
    while len(output) < limit:
        allowed = None if grammar is None else grammar.allowed(output)
        banned = _banned(params, output, counted)
        bits = noise(params.seed, index, len(prompt) + len(output), numerics)
        token_id = draw(state, bits, params, own_prompt, counted, banned, allowed)
        if params.logprobs is not None:
            result.logprobs.append(logprobs_of(state, token_id, params.logprobs))
        output.append(token_id)
        counted.append(token_id)
        state = advance(state, token_id)
        if len(output) > params.min_tokens:
            is_eos = token_id == EOS_ID and not params.ignore_eos
            if is_eos or token_id in params.stop_token_ids:
                result.finish_reason = FinishReason.STOP
                result.stop_token_id = None if is_eos else token_id
                return result
        if grammar is not None and grammar.is_complete(output):
            result.finish_reason, result.output_complete = FinishReason.STOP, True
            return result
    return result


def _grammar(params: SamplingParams) -> GrammarText | None:
    if params.structured_output is None and params.reasoning is None:
        return None
    return GrammarText.of(params.structured_output, params.reasoning)


def _banned(params: SamplingParams, output: Sequence[int], counted: Sequence[int]) -> set[int]:
    """The ids that must not come next."""
    banned: set[int] = set()
    if len(output) < params.min_tokens:
        banned.update(params.stop_token_ids)
        if not params.ignore_eos:
            banned.add(EOS_ID)
    for word in params.bad_words_token_ids:
        head = list(word[:-1])
        if not head or list(counted[-len(head) :]) == head:
            banned.add(word[-1])
    return banned
