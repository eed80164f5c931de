"""Small things that programs around a model need: seeds, request ids, devices, GPU memory.

Each is imported when it is first used. Devices and seeds need `folovllm[engine]`.
"""

from typing import TYPE_CHECKING

from folovllm.installation.lazy_names import lazy_names

if TYPE_CHECKING:
    from engine_service.device import GpuMemory as GpuMemory
    from engine_service.device import gpu_memory as gpu_memory
    from engine_service.device import resolve_device as resolve_device
    from engine_service.seeding import set_random_seed as set_random_seed
    from folovllm.request_id import new_request_id as new_request_id
    from folovllm.request_id import random_uuid as random_uuid

_HOMES = {
    "engine_service.device": ("GpuMemory", "gpu_memory", "resolve_device"),
    "engine_service.seeding": ("set_random_seed",),
    "folovllm.request_id": ("new_request_id", "random_uuid"),
}

__all__ = [name for names in _HOMES.values() for name in names]
__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    """Lists the public names."""
    return __all__
