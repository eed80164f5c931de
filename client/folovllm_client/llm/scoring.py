"""How probable given continuations of a prompt are."""

from collections.abc import Sequence

from folovllm.request_id import new_request_id
from folovllm.score import ScoreOutput
from folovllm_client.api.prompt_parts import Prompt, PromptParts
from folovllm_client.llm.llm_engine import LLMEngine


def score(engine: LLMEngine, prompt: Prompt, continuations: Sequence[Prompt]) -> ScoreOutput:
    """See LLM.score."""
    encoded, request = engine.requests.scores(
        PromptParts.read(prompt), [PromptParts.read(each) for each in continuations]
    )
    name = new_request_id()
    state = engine.add_scores(name, request)
    try:
        while not state.finished:
            engine.step()
    finally:
        engine.abort_request(name)
    return encoded.scores(ScoreOutput(name, state.scores))
