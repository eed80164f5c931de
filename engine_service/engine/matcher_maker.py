"""MatcherMaker: the matchers of commands, whoever sent them."""

import asyncio

from engine_service.core.token_matcher import TokenMatcher
from engine_service.engine.commands import Generate, Matchers, StreamCommand
from engine_service.engine.continued.matchers import matchers_after
from engine_service.engine.llm_engine import LLMEngine
from engine_service.structured_output.refusals import no_grammars
from engine_service.structured_output.rehearsed_compiler import RehearsedCompiler
from folovllm.errors import QueueFullError, UnavailableError, errors_within
from folovllm.sampling_params import SamplingParams


class MatcherMaker:
    """Makes matchers of grammars that are rehearsed before the engine compiles them.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._compiler: RehearsedCompiler | None = None
        self._closed = False

    async def make(self, engine: LLMEngine, command: StreamCommand, caller: str) -> Matchers:
        """What `command.apply` needs. Raises as RehearsedCompiler.compile and `matchers_after`.

        For a command that has moved here, there is room for its grammars in time.
        """
        while True:
            if self._closed:
                raise UnavailableError("the engine is stopping")
            try:
                return await self._make(engine, command, caller)
            except QueueFullError as error:
                if not command.moved:
                    raise
                await asyncio.sleep(error.retry_after)

    def warm_up(self, engine: LLMEngine) -> None:
        """Begins what the first grammar would otherwise wait for, if the engine takes any."""
        if engine.grammar_compiler is not None and self._compiler is None and not self._closed:
            self._compiler = RehearsedCompiler(engine.grammar_compiler)
            self._compiler.warm_up()

    def close(self) -> None:
        """Ends what compiles; nothing does afterwards."""
        self._closed = True
        if self._compiler is not None:
            self._compiler.close()

    async def _make(self, engine: LLMEngine, command: StreamCommand, caller: str) -> Matchers:
        matchers: list[TokenMatcher | None] = []
        for place, params in command.sampling_params:
            with errors_within(place):
                matchers.append(await self._matcher(engine, params, caller))
        if isinstance(command, Generate) and command.request.continued is not None:
            return await asyncio.to_thread(matchers_after, matchers[0], command.request.continued)
        return matchers

    async def _matcher(
        self, engine: LLMEngine, params: SamplingParams, caller: str
    ) -> TokenMatcher | None:
        if not params.follows_grammar:
            return None
        output, reasoning = params.structured_output, params.reasoning
        if engine.grammar_compiler is None:
            raise no_grammars(output)
        if self._compiler is None:
            self._compiler = RehearsedCompiler(engine.grammar_compiler)
        grammar = await self._compiler.compile(output, reasoning, caller)
        return grammar.matcher()
