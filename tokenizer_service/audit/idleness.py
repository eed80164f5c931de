"""When an engine has time for a request that nobody waits for, and when no more."""

from dataclasses import dataclass

from folovllm.v1 import engine_service_pb2

# Of an engine's KV blocks.
_MAX_USAGE = 0.5

Load = engine_service_pb2.GetLoadResponse


def is_idle(load: Load) -> bool:
    """Whether nothing waits at an engine, and it has much room."""
    return not load.num_waiting and load.kv_cache_usage <= _MAX_USAGE and load.num_admissible > 0


@dataclass(frozen=True, slots=True)
class IdleTime:
    """The time from when a request of `num_own` sequences goes to an idle engine."""

    num_others: int
    """Sequences that it had then."""
    num_own: int

    @classmethod
    def begin(cls, load: Load, num_own: int) -> "IdleTime":
        """`load` is the engine's when the request is sent."""
        return cls(load.num_running + load.num_waiting, num_own)

    def is_over(self, load: Load) -> bool:
        """Whether load has come since: more than the own sequences were added, or memory is low."""
        num_sequences = load.num_running + load.num_waiting
        return num_sequences > self.num_others + self.num_own or load.kv_cache_usage > _MAX_USAGE
