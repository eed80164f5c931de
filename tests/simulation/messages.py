"""The messages of a scenario's requests, and the parameters that their engine computes with."""

from typing import Any

from folovllm.parameters.reasoning import Reasoning
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from simulation.scenario import RequestSpec
from simulation.tokens import THINK_END, THINK_START


def prompt_of(spec: RequestSpec) -> tuple[int, ...]:
    """The ids that the engine is sent."""
    assert THINK_START is not None
    thinks = spec.kind == "chat" and spec.thinks
    return (*spec.prompt, THINK_START) if thinks else spec.prompt


def params_message(fields: dict[str, Any]) -> types_pb2.SamplingParams:
    """What a caller sends for some parameters."""
    values = dict(fields)
    if "bad_words_token_ids" in values:
        values["bad_words_token_ids"] = [{"ids": ids} for ids in values["bad_words_token_ids"]]
    return types_pb2.SamplingParams(**values)


def generate_message(spec: RequestSpec) -> tokenizer_service_pb2.GenerateRequest:
    """The request of a Generate."""
    return tokenizer_service_pb2.GenerateRequest(
        request_id=f"r{spec.number}",
        token_ids=types_pb2.TokenIds(ids=spec.prompt),
        sampling_params=params_message(spec.params),
        priority=spec.priority,
        cache_salt=spec.salt,
    )


def chat_message(spec: RequestSpec) -> tokenizer_service_pb2.ChatRequest:
    """The request of a Chat whose conversation is the prompt as text."""
    request = tokenizer_service_pb2.ChatRequest(
        request_id=f"r{spec.number}",
        messages=[
            tokenizer_service_pb2.ChatMessage(
                role=tokenizer_service_pb2.ROLE_USER, content=bytes(spec.prompt).decode()
            )
        ],
        sampling_params=params_message(spec.params),
        priority=spec.priority,
        cache_salt=spec.salt,
        enable_thinking=spec.thinks,
    )
    if spec.thinking_budget is not None:
        request.thinking_budget = spec.thinking_budget
    if spec.has_tool:
        request.tools.add(name="look", description="", parameters="{}")
    return request


def score_message(spec: RequestSpec) -> types_pb2.ScoreRequest:
    """The request of a Score: the prompt's halves, in two continuations."""
    half = len(spec.prompt) // 2
    request = types_pb2.ScoreRequest(
        request_id=f"r{spec.number}", token_ids=types_pb2.TokenIds(ids=spec.prompt[:half])
    )
    for ids in (spec.prompt[half:], spec.prompt[half:][::-1]):
        request.continuations.add().token_ids.ids.extend(ids)
    return request


def fork_message(spec: RequestSpec) -> types_pb2.ForkRequest:
    """The request of its fork."""
    assert spec.fork is not None
    return types_pb2.ForkRequest(
        request_id=f"r{spec.number}",
        index=spec.fork.index,
        fork_id=f"f{spec.number}",
        branches=[params_message(branch) for branch in spec.fork.branches],
    )


def resolved(spec: RequestSpec, params: dict[str, Any], seed: int) -> SamplingParams:
    """What the engine computes with, once the seed is known."""
    read = SamplingParams.from_proto(params_message(params)).clone(seed=seed)
    if spec.kind == "chat" and spec.thinks and (spec.thinking_budget or "regex" in params):
        assert THINK_END is not None
        return read.clone(reasoning=Reasoning(THINK_END, None, spec.thinking_budget))
    return read
