"""Whether a service still answers, by asking for its health as anyone may."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from folovllm.serving.channel import open_channel

# Seconds between two questions, and for each answer.
_INTERVAL = 1.0
# A connection of its own each time that one fails: the next may reach another worker.
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
_NO_ANSWER = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


class Liveness:
    """What is known of a service at an address."""

    def __init__(self, address: str, *, has_started: bool = False) -> None:
        """How long a start may take is not known; one that `has_started` must answer."""
        self._address = address
        self._has_started = has_started
        self._answered_at: float | None = None

    @property
    def seconds_alive(self) -> float:
        """Since its first answer; 0 before."""
        if self._answered_at is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._answered_at

    async def until_silent(self, seconds: float) -> None:
        """Returns when a service that has started has not answered for so many seconds.

        They are counted while this process runs, which may have been stopped meanwhile.
        """
        unanswered = 0.0
        while unanswered < seconds:
            async with open_channel(self._address, options=_OPTIONS) as channel:
                while await self._answers(channel):
                    unanswered = 0.0
                    await asyncio.sleep(_INTERVAL)
            if self._has_started:
                unanswered += _INTERVAL

    async def _answers(self, channel: grpc.aio.Channel) -> bool:
        """Whether it answers anything; takes the whole interval if it does not."""
        started = asyncio.get_running_loop().time()
        try:
            await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_INTERVAL
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in _NO_ANSWER:
                passed = asyncio.get_running_loop().time() - started
                await asyncio.sleep(max(0.0, _INTERVAL - passed))
                return False
        if self._answered_at is None:
            self._answered_at, self._has_started = started, True
        return True
