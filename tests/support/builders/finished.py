"""Requests that have ended, as the tokenizer service's audit is told of them."""

from collections.abc import Sequence
from typing import Any

from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2
from tokenizer_service.audit.finished import Finished
from tokenizer_service.engines.migration.progress import Progress


def ended(
    *token_ids: int,
    logprobs: Sequence[float] = (),
    reason: types_pb2.FinishReason.ValueType = types_pb2.FINISH_REASON_LENGTH,
    exact: bool = True,
) -> Progress:
    """A continuation that has ended."""
    progress = Progress(token_ids, logprobs)
    final = types_pb2.CompletionOutput(finish_reason=reason, exact=exact)
    progress.add(final)
    return progress


def finished(*outputs: Progress, **values: Any) -> Finished:
    """One output of three tokens, if nothing else is said."""
    outputs = outputs or (ended(7, 8, 9),)
    params = SamplingParams(n=len(outputs), seed=5, temperature=0.0, max_tokens=16)
    return Finished(
        **{
            "request_id": "r",
            "info": types_pb2.RequestInfo(
                sampling_params=params.to_proto(), numerics_fingerprint="n"
            ),
            "served": types_pb2.ModelInfo(model_id="m", server_version="0.1.0"),
            "prompt_token_ids": [1, 2],
            "parent_token_ids": (),
            "branch_index": None,
            "progress": dict(enumerate(outputs)),
            "cache_salt": "s",
            "addresses": ("a:1",),
            **values,
        }
    )
