"""One prompt, continued in several ways from the same point on."""

from collections.abc import Sequence
from dataclasses import replace

from folovllm.errors import InvalidRequestError
from folovllm.outputs import RequestOutput
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.vllm_names import RequestOutputKind
from folovllm_client.api.prompt_parts import Prompt, PromptParts
from folovllm_client.llm.llm_engine import LLMEngine


def generate_branches(
    engine: LLMEngine,
    prompt: Prompt,
    sampling_params: SamplingParams,
    branches: Sequence[SamplingParams],
    after: int,
) -> tuple[RequestOutput, RequestOutput]:
    """See LLM.generate_branches."""
    if after < 1:
        raise InvalidRequestError("after", f"after must be at least 1, got {after}")
    name, fork_id = new_request_id(), new_request_id()
    parts = PromptParts.read(prompt)
    token_ids = engine.requests.encode(parts)
    forks = engine.requests.branches(
        len(token_ids) + after,
        [params.clone(output_kind=RequestOutputKind.FINAL_ONLY) for params in branches],
    )
    matchers = engine.make_matchers(forks)
    engine.add_request(
        name,
        replace(parts, token_ids=token_ids),
        sampling_params.clone(n=1, output_kind=RequestOutputKind.CUMULATIVE),
    )
    outputs = {fork_id: RequestOutput(request_id=fork_id)}
    is_forked = False
    try:
        while engine.has_unfinished_requests():
            outputs |= {output.request_id: output for output in engine.step()}
            trunk = outputs.get(name)
            if trunk and not is_forked and _can_fork(trunk, after):
                engine.fork_request(trunk, fork_id, forks, matchers)
                is_forked = True
    finally:  # an interrupt leaves nothing behind
        engine.abort_request([name, fork_id])
    return outputs[name], outputs[fork_id]


def _can_fork(trunk: RequestOutput, after: int) -> bool:
    return not trunk.finished and len(trunk.outputs[0].token_ids) >= after
