import asyncio
import time

from folovllm.liveness import LivenessConfig, Silence

CONFIG = LivenessConfig(heartbeat=0.04, silent=0.05, lost=0.2)
TICK = 0.01


async def test_silence_counts_from_what_was_said_last() -> None:
    silence = Silence(CONFIG)
    while not silence.is_silent:
        await silence.wait(TICK)
    assert CONFIG.silent <= silence.seconds < CONFIG.silent + 2 * TICK
    silence.end()
    assert silence.seconds == 0 and not silence.is_silent
    while not silence.is_lost:
        assert silence.is_silent is (silence.seconds >= CONFIG.silent)
        await silence.wait(TICK)


async def test_the_time_in_which_our_own_loop_stood_still_does_not_count() -> None:
    silence = Silence(CONFIG)
    ticking = asyncio.ensure_future(silence.wait(TICK))
    await asyncio.sleep(0)
    time.sleep(2 * CONFIG.lost)  # noqa: ASYNC251 - what is tested
    await ticking
    assert 0 < silence.seconds <= TICK + CONFIG.heartbeat / 4
