"""Records of requests that never were."""

from collections.abc import Sequence
from typing import Any

from folovllm.records.record import Ending, Origin, Record, RecordedOutput
from folovllm.sampling_params import SamplingParams


def recorded(
    *token_ids: int,
    index: int = 0,
    logprobs: Sequence[float] = (),
    ending: Ending = Ending.LENGTH,
) -> RecordedOutput:
    return RecordedOutput(index, token_ids, logprobs, ending)


def record(*outputs: RecordedOutput, **values: Any) -> Record:
    """One output of three tokens, if nothing else is said."""
    outputs = outputs or (recorded(7, 8, 9),)
    longest = max(len(output.token_ids) for output in outputs)
    params = SamplingParams(n=len(outputs), seed=5, temperature=0.0, max_tokens=longest or 1)
    return Record(
        **{
            "request_id": "r",
            "time": 1.5,
            "prompt_token_ids": (1, 2),
            "sampling_params": params.to_proto(),
            "outputs": outputs,
            "origin": Origin(model_fingerprint="m", tokenizer_fingerprint="t"),
            **values,
        }
    )
