"""Takes requests and forks into the engine, with the grammars that their outputs must follow.

A grammar is compiled on a thread, which takes a while; what needs none is taken at once.
"""

from dataclasses import replace

from engine_service.core.fork import Fork
from engine_service.core.request import Request
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.output_stream import OutputStream
from folovllm.errors import InvalidRequestError


def needs_grammar(asked: Request | Fork) -> bool:
    """Whether an output must follow a grammar, for which `with_matchers` has to wait."""
    parts = asked.branches if isinstance(asked, Fork) else [asked]
    return any(part.sampling_params.follows_grammar for part in parts)


async def with_matchers(engine: AsyncEngine, asked: Request | Fork) -> Request | Fork:
    """The same, with a matcher for each output that must follow a grammar.

    Raises InvalidRequestError that names the field, and QueueFullError.
    """
    if not needs_grammar(asked):
        return asked
    if isinstance(asked, Fork):
        return await _fork_with_matchers(engine, asked)
    return Request(
        asked.request_id,
        asked.prompt_token_ids,
        asked.sampling_params,
        seed=asked.seed,
        priority=asked.priority,
        cache_salt=asked.cache_salt,
        arrival_time=asked.arrival_time,
        matcher=await engine.make_matcher(asked.sampling_params),
    )


async def _fork_with_matchers(engine: AsyncEngine, fork: Fork) -> Fork:
    branches = []
    for place, branch in enumerate(fork.branches):
        try:
            matcher = await engine.make_matcher(branch.sampling_params)
        except InvalidRequestError as error:
            raise error.within(f"branches[{place}]") from None
        branches.append(replace(branch, matcher=matcher))
    return replace(fork, branches=branches)


def take(engine: AsyncEngine, asked: Request | Fork) -> OutputStream:
    """Hands over what needs no grammar or has its matchers; raises as AsyncEngine does."""
    return engine.fork(asked) if isinstance(asked, Fork) else engine.generate(asked)
