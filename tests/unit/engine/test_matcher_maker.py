"""The matchers of commands, from grammars that were rehearsed."""

import asyncio
from pathlib import Path

import pytest

from engine_service.core.request import Branch, Request
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.commands import Fork, Generate
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.matcher_maker import MatcherMaker
from engine_service.rpc.open_sessions import OpenSessions
from engine_service.structured_output.grammar_compiler import GrammarCompiler
from folovllm.errors import InvalidRequestError, QueueFullError, UnavailableError
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams
from support.builders.grammar_walks import demo_compiler
from support.fakes.engine_factory import make_engine

FREE = SamplingParams(max_tokens=3)
OBJECT = FREE.clone(structured_output=StructuredOutput("json_object", True))
WRONG = FREE.clone(structured_output=StructuredOutput("regex", "("))


def engine_with(compiler: GrammarCompiler | None) -> LLMEngine:
    engine, _ = make_engine()
    engine.grammar_compiler = compiler
    return engine


async def test_each_branch_gets_its_own_and_an_error_names_the_branch() -> None:
    maker, engine = MatcherMaker(), engine_with(demo_compiler())
    try:
        branches = (Branch(OBJECT, seed=1), Branch(FREE, seed=2), Branch(OBJECT, seed=3))
        first, none, last = await maker.make(engine, Fork("p", 0, "f", branches, 0.0), "caller")
        assert first is not None and last is not None and first is not last
        assert none is None
        wrong = (*branches, Branch(WRONG, seed=4))
        with pytest.raises(InvalidRequestError) as caught:
            await maker.make(engine, Fork("p", 0, "f", wrong, 0.0), "caller")
        assert caught.value.field == "branches[3].regex"
        with pytest.raises(InvalidRequestError) as caught:
            await maker.make(engine, Generate(Request("r", [1], WRONG)), "caller")
        assert caught.value.field == "sampling_params.regex"
    finally:
        maker.close()
    with pytest.raises(UnavailableError, match="stopping"):
        await maker.make(engine, Generate(Request("r", [1], OBJECT)), "caller")


async def test_the_first_grammar_finds_its_process_once_a_front_end_has_come_to_stay() -> None:
    maker, llm_engine = MatcherMaker(), engine_with(demo_compiler())
    engine = AsyncEngine(lambda: llm_engine, None, matcher_maker=maker)
    try:
        await engine.start()
        sessions = OpenSessions(engine)
        for _ in range(2):
            sessions.meet_front_end(stays_after=0)
        while maker._compiler is None:
            await asyncio.sleep(0)
        assert maker._compiler.lanes._starting is not None
        await maker._compiler.lanes._starting
        pid = maker._compiler.lanes.server.pid
        assert pid is not None
        letters = FREE.clone(structured_output=StructuredOutput("regex", "[ab]+"))
        await maker.make(llm_engine, Generate(Request("r", [1], letters)), "caller")
        assert maker._compiler.lanes.server.pid == pid
    finally:
        await engine.stop()


async def test_one_that_has_moved_waits_until_there_is_room_for_its_grammar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts: list[int] = []

    async def matcher(*arguments: object) -> None:
        attempts.append(1)
        if len(attempts) % 3:
            raise QueueFullError("no room", retry_after=0.001)

    monkeypatch.setattr(MatcherMaker, "_matcher", matcher)
    maker, engine = MatcherMaker(), engine_with(None)
    assert await maker.make(engine, Generate(Request("r", [1], OBJECT, moved=True)), "") == [None]
    assert len(attempts) == 3
    with pytest.raises(QueueFullError):
        await maker.make(engine, Generate(Request("r", [1], OBJECT)), "")


async def test_an_engine_without_a_vocabulary_says_so(tmp_path: Path) -> None:
    maker = MatcherMaker()
    request = Generate(Request("r", [1], OBJECT))
    with pytest.raises(InvalidRequestError, match="has no grammars"):
        await maker.make(engine_with(None), request, "")
    try:
        with pytest.raises(InvalidRequestError, match="folder lacks"):
            await maker.make(engine_with(GrammarCompiler(tmp_path, 9, (1,))), request, "")
    finally:
        maker.close()
