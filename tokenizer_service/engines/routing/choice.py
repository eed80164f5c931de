"""EngineChoice: the engines, and which of them a request goes to first or next."""

from collections.abc import Container, Sequence

from folovllm.errors import ModelMismatchError, UnavailableError
from tokenizer_service.engines.client import EngineClient
from tokenizer_service.engines.migration.origin import Origin
from tokenizer_service.engines.replicas import Replicas
from tokenizer_service.engines.routing.refused_names import RefusedNames
from tokenizer_service.engines.routing.router import Router


class EngineChoice:
    """Prefers the engine with the longest cached prefix, then that with the least to do."""

    def __init__(self, engines: Sequence[EngineClient], replicas: Replicas) -> None:
        """`replicas` decides which of the engines may be used."""
        self.engines = engines
        self.refused = RefusedNames()
        """Where requests return that were refused."""
        self._replicas = replicas
        self._router = Router()
        self._was_ready: set[str] = set()

    @property
    def any_ready(self) -> bool:
        """Whether any engine accepts requests."""
        return any(engine.ready for engine in self.engines)

    def ready(self) -> list[EngineClient]:
        """Those that accept requests, at least one.

        If there is none, raises ModelMismatchError if the engines that are connected serve another
        model, else UnavailableError.
        """
        ready = [engine for engine in self.engines if engine.ready]
        if ready:
            return ready
        states = "; ".join(f"{engine.address}: {engine.state}" for engine in self.engines)
        if not self._replicas.has_keepers and any(engine.refused for engine in self.engines):
            raise ModelMismatchError(f"no engine serves this service's model: {states}")
        raise UnavailableError(f"no engine is ready: {states}")

    def first(self, name: str, prompt: Sequence[int], cache_salt: str) -> EngineClient:
        """The engine that a request is sent to first: where it has a turn, if it was refused.

        Raises as `ready`.
        """
        engines = self.ready()
        if (address := self.refused.take(name)) is not None:
            engines = [engine for engine in engines if engine.address == address] or engines
        return self.best(engines, prompt, cache_salt)

    def others(self, tried: Container[object], needs_room: bool = False) -> list[EngineClient]:
        """The ready engines without those whose sessions were tried.

        With `needs_room`, one that has said that it has none does not count.
        """
        others = [each for each in self.engines if each.ready and each.session not in tried]
        return [each for each in others if each.session.has_room] if needs_room else others

    def best(
        self, engines: Sequence[EngineClient], prompt: Sequence[int], cache_salt: str
    ) -> EngineClient:
        """The engine for a prompt, one with room if there is any."""
        if len(self.engines) == 1:
            return engines[0]
        engines = [engine for engine in engines if engine.session.has_room] or engines
        by_address = {engine.address: engine for engine in engines}
        loads = {engine.address: engine.session.outstanding_tokens for engine in engines}
        block_size = engines[0].model_info.block_size
        return by_address[self._router.choose(prompt, cache_salt, block_size, loads)]

    def best_for(self, origin: Origin, engines: Sequence[EngineClient]) -> EngineClient:
        """The engine for a stream that goes on."""
        return self.best(engines, origin.prompt_token_ids, origin.cache_salt)

    def note_changes(self) -> None:
        """Forgets what engines had cached that are gone."""
        ready = {engine.address for engine in self.engines if engine.ready}
        for lost in sorted(self._was_ready - ready):
            self._router.forget(lost)
        self._was_ready = ready
