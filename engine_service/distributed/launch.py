"""EngineRanks: one engine in as many processes as there are ranks, one on each device."""

import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed import ProcessGroup, ProcessGroupGloo
from torch.distributed.distributed_c10d import _get_default_store

from engine_service.config import EngineConfig
from engine_service.device import device_of_rank
from engine_service.distributed.broadcast import IDLE_LIMIT, BroadcastChannel
from engine_service.distributed.leader import Leader, follow
from engine_service.distributed.liveness import RankLiveness
from engine_service.distributed.rank import Rank
from engine_service.engine.commands import Command
from engine_service.engine.delivery.step_outputs import StepOutputs
from engine_service.engine.driving.engine_work import step_alone
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from engine_service.layers.parallel import TensorParallel
from folovllm.errors import ConfigError, EngineDeadError
from folovllm.serving.output.standard_streams import exit_now

log = logging.getLogger(__name__)


class EngineRanks:
    """One rank's end of it. The first rank builds, steps and stops, the others follow."""

    def __init__(self, config: EngineConfig, rank: Rank, max_silence: float) -> None:
        """Another rank that does not answer for `max_silence` seconds is lost."""
        self._config = config
        self._rank = rank
        self._max_silence = max_silence
        self._leader: Leader | None = None
        self._liveness: RankLiveness | None = None
        self.on_lost: Callable[[str], object] = _end
        """Is told, on any thread, what has become of another rank. Ends the process by default."""

    def build(self) -> LLMEngine:
        """The first rank's engine, or that of the only one. Raises ConfigError."""
        if self._rank.num_ranks == 1:
            return build_engine(self._config, show_progress=True)
        config, parallel, channel = self._join()
        engine = build_engine(config, True, parallel)
        self._leader = Leader(channel)
        return engine

    def step(self, engine: LLMEngine, commands: Sequence[Command]) -> StepOutputs:
        """See `engine_work.Step`."""
        step = step_alone if self._leader is None else self._leader.step
        return step(engine, commands)

    def follow(self) -> None:
        """The whole life of any other rank. Raises ConfigError, and as leader.follow.

        Once its part of the model is loaded, only the first rank obeys signals that end processes:
        the requests that it still serves need all ranks.
        """
        config, parallel, channel = self._join()
        engine = build_engine(config, False, parallel)
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, signal.SIG_IGN)
        try:
            follow(engine, channel)
        finally:
            self._stop_liveness()
        dist.destroy_process_group()

    def stop(self) -> None:
        """Ends the other ranks, once the engine is no longer used."""
        if self._leader is None:
            return
        self._stop_liveness()
        with suppress(EngineDeadError):  # one has ended already
            self._leader.stop()
        dist.destroy_process_group()

    def _stop_liveness(self) -> None:
        if self._liveness is not None:
            self._liveness.stop()

    def _join(self) -> tuple[EngineConfig, TensorParallel, BroadcastChannel]:
        """Meets the other ranks, at the address that the environment names."""
        name = device_of_rank(self._config.model.device, self._rank.local_index)
        device = torch.device(name)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            # The backend made for each kind of device.
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
            commands = dist.new_group(backend="gloo", timeout=IDLE_LIMIT)
            self._liveness = RankLiveness(self._own_group(), self._tell_lost, self._max_silence)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"the ranks do not meet: {str(error).splitlines()[0]}") from None
        self._liveness.start()
        assert dist.group.WORLD is not None
        parallel = TensorParallel(self._rank.index, self._rank.num_ranks, dist.group.WORLD)
        # Allocates what exchanging needs before the KV cache takes the free memory.
        parallel.all_gather(parallel.all_reduce(torch.ones(1, device=device)))
        config = replace(self._config, model=replace(self._config.model, device=name))
        return config, parallel, BroadcastChannel(commands)

    def _own_group(self) -> ProcessGroup:
        """A group that outlives all others, since its thread may be waiting in it at the end."""
        store = PrefixStore("liveness", _get_default_store())
        timeout = timedelta(seconds=self._max_silence)
        group: ProcessGroup = ProcessGroupGloo(  # type: ignore[assignment]
            store, self._rank.index, self._rank.num_ranks, timeout
        )
        return group

    def _tell_lost(self, reason: str) -> None:
        self.on_lost(reason)


def _end(reason: str) -> None:
    """Ends a rank that waits for another, which nothing can interrupt."""
    log.error("the rank ends: %s", reason)
    exit_now(1)
