"""AsyncLLM: streams of many callers, their cancellation, and the engine's end."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from folovllm import AsyncEngineArgs, AsyncLLM, InvalidRequestError, SamplingParams
from folovllm.errors import ConfigError, EngineDeadError
from folovllm.vllm_names import RequestOutputKind

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
LONG = GREEDY.clone(max_tokens=1000, n=4)
ARGS = AsyncEngineArgs(device="cpu", num_gpu_blocks_override=512, speculation="none")


@pytest_asyncio.fixture
async def llm() -> AsyncIterator[AsyncLLM]:
    llm = AsyncLLM.from_engine_args(ARGS)
    await llm.check_health()
    yield llm
    llm.shutdown()


async def text_of(llm: AsyncLLM, prompt: str, name: str, **changes: object) -> str:
    text = ""
    async for output in llm.generate(prompt, GREEDY.clone(**changes), name):
        text = output.outputs[0].text
    return text


async def wait_until_free(llm: AsyncLLM) -> None:
    """Returns when the engine has all its blocks back."""
    engine = llm._engine
    assert engine is not None
    changed = asyncio.Event()
    with engine.load_watched(changed.set):
        while engine.load.kv_cache_usage or engine.num_requests:
            changed.clear()
            await asyncio.wait_for(changed.wait(), 10)


async def test_outputs_are_cumulative_by_default(llm: AsyncLLM) -> None:
    outputs = [output async for output in llm.generate("Once", GREEDY, "a")]
    lengths = [len(output.outputs[0].token_ids) for output in outputs]
    assert lengths == sorted(set(lengths)) and lengths[-1] == 6
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    text = outputs[-1].outputs[0].text
    deltas = llm.generate("Once", GREEDY.clone(output_kind=RequestOutputKind.DELTA), "a")
    assert "".join([output.outputs[0].text async for output in deltas]) == text
    only = GREEDY.clone(output_kind=RequestOutputKind.FINAL_ONLY)
    (final,) = [output async for output in llm.generate("Once", only, "a")]
    assert final.outputs[0].text == text


async def test_callers_share_the_engine_and_n_and_stop_strings_hold(llm: AsyncLLM) -> None:
    prompts = ["Once upon", "The capital", "Hello"]
    alone = [await text_of(llm, prompt, "a") for prompt in prompts]
    together = await asyncio.gather(*(text_of(llm, prompt, prompt) for prompt in prompts))
    assert together == alone
    word = alone[0].split()[2]
    outputs = [o async for o in llm.generate("Once upon", LONG.clone(stop=word), "a")]
    assert [each.stop_reason for each in outputs[-1].outputs] == [word] * 4
    await wait_until_free(llm)


async def test_leaving_the_iterator_or_cancelling_its_reader_frees_the_kv(llm: AsyncLLM) -> None:
    stream = llm.generate("Once", LONG, "left")
    await anext(stream)
    assert llm.get_num_unfinished_requests() == 1
    await stream.aclose()
    await wait_until_free(llm)

    begun = asyncio.Event()

    async def read() -> None:
        async for _ in llm.generate("Once", LONG, "cancelled"):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until_free(llm)


async def test_an_aborted_request_says_so(llm: AsyncLLM) -> None:
    outputs = []
    async for output in llm.generate("Once", LONG, "a"):
        outputs.append(output)
        await llm.abort(["a", "unknown"])
    assert {each.finish_reason for each in outputs[-1].outputs} == {"abort"}


async def test_what_cannot_be_served_is_refused_by_the_iterator(llm: AsyncLLM) -> None:
    with pytest.raises(InvalidRequestError, match="a prompt has no multi_modal_data"):
        await anext(llm.generate({"prompt": "a", "multi_modal_data": 1}, GREEDY, "a"))
    stream = llm.generate("Once", LONG, "a")
    await anext(stream)
    with pytest.raises(InvalidRequestError, match="a is running already"):
        await anext(llm.generate("Once", GREEDY, "a"))
    await stream.aclose()


async def test_a_shutdown_ends_what_runs_and_refuses_what_comes(llm: AsyncLLM) -> None:
    assert llm.is_running and not llm.errored
    stream = llm.generate("Once", LONG, "a")
    await anext(stream)
    llm.shutdown()
    with pytest.raises(EngineDeadError):
        async for _ in stream:
            pass
    assert llm.errored and not llm.is_running
    assert isinstance(llm.dead_error, EngineDeadError)
    with pytest.raises(EngineDeadError, match="the engine was stopped"):
        await llm.check_health()
    with pytest.raises(EngineDeadError):
        await anext(llm.generate("Once", GREEDY, "b"))


def test_it_may_be_made_before_an_event_loop_runs() -> None:
    llm = AsyncLLM(ARGS)
    tokenizer = llm.get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("Once")) == "Once"

    async def main() -> str:
        text = await text_of(llm, "Once", "a")
        assert (await llm.get_model_info()).num_kv_blocks == 512
        llm.shutdown()
        return text

    assert asyncio.run(main())


async def test_a_model_that_cannot_be_loaded_is_said_by_every_call() -> None:
    with pytest.raises(ConfigError, match="dtype must be one of"):
        AsyncLLM(AsyncEngineArgs(dtype="int3"))
    llm = AsyncLLM(AsyncEngineArgs(device="cuda:99"))
    for _ in range(2):
        with pytest.raises(ConfigError, match="cuda:99"):
            await llm.check_health()
