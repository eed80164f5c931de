"""EngineRanks: an engine that as many processes compute as there are ranks, one on each device."""

import signal
from contextlib import suppress
from dataclasses import replace

import torch
import torch.distributed as dist

from engine_service.config import EngineConfig
from engine_service.device import device_of_rank
from engine_service.distributed.broadcast import IDLE_LIMIT, CommandChannel
from engine_service.distributed.leader import EngineLeader, follow
from engine_service.distributed.rank import RankPlace
from engine_service.engine.factory import build_engine
from engine_service.engine.interface import Engine
from engine_service.layers.parallel import TensorParallel
from folovllm.errors import ConfigError, EngineDeadError


class EngineRanks:
    """One rank's end of it. The first rank builds and stops, the others follow."""

    def __init__(self, config: EngineConfig, place: RankPlace) -> None:
        self._config = config
        self._place = place
        self._leader: EngineLeader | None = None

    def build(self) -> Engine:
        """The first rank's engine, and that of a single one. Raises ConfigError."""
        if self._place.size == 1:
            return build_engine(self._config, show_progress=True)
        config, parallel, channel = self._join()
        self._leader = EngineLeader(build_engine(config, True, parallel), channel)
        return self._leader

    def follow(self) -> None:
        """The whole life of any other rank. Raises ConfigError, and as leader.follow.

        Once its part of the model is there, what asks processes to end counts for the first rank
        alone: the requests that it still serves need all.
        """
        config, parallel, channel = self._join()
        engine = build_engine(config, False, parallel)
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, signal.SIG_IGN)
        follow(engine, channel)
        dist.destroy_process_group()

    def stop(self) -> None:
        """Ends the other ranks, once the engine is no longer used."""
        if self._leader is None:
            return
        with suppress(EngineDeadError):  # one has ended already
            self._leader.stop()
        dist.destroy_process_group()

    def _join(self) -> tuple[EngineConfig, TensorParallel, CommandChannel]:
        """Meets the other ranks, at the address that the environment names."""
        name = device_of_rank(self._config.model.device, self._place.local_rank)
        device = torch.device(name)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            # Of each kind of device the one that is made for it.
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
            commands = dist.new_group(backend="gloo", timeout=IDLE_LIMIT)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"the ranks do not meet: {str(error).splitlines()[0]}") from None
        assert dist.group.WORLD is not None
        parallel = TensorParallel(self._place.rank, self._place.size, dist.group.WORLD)
        # What exchanging takes of the memory is taken before the KV cache gets what is free.
        parallel.all_gather(parallel.all_reduce(torch.ones(1, device=device)))
        config = replace(self._config, model=replace(self._config.model, device=name))
        return config, parallel, CommandChannel(commands)
