"""How a multiprocessor's memory is divided between cache and shared memory: alike for all kernels.

Left to itself the driver divides it by what each kernel asks for. A multiprocessor has to be idle
to be divided anew, so that kernels which ask for much and for little would never overlap.
"""

import ctypes
from functools import cache

from triton import knobs

# CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT and CU_SHAREDMEM_CARVEOUT_MAX_SHARED of
# CUDA's driver API.
_CARVEOUT = 9
_MOST_SHARED = 100


@cache
def share_memory_alike() -> None:
    """From now on every kernel that Triton loads in this process prefers the most shared memory.

    It is a wish: where the driver does not take it, kernels run as before.
    """
    driver = ctypes.CDLL("libcuda.so.1")

    def loaded(_module: object, function: int, *_: object) -> None:
        driver.cuFuncSetAttribute(ctypes.c_void_p(function), _CARVEOUT, _MOST_SHARED)

    knobs.runtime.kernel_load_end_hook.add(loaded)
