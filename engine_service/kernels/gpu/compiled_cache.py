"""Where Triton keeps the kernels that it has compiled: a folder that only this user can write."""

import logging
import tempfile
from pathlib import Path

import triton

from folovllm.installation.cache_folder import cache_folder
from folovllm.installation.trusted_files import distrust, make_private_folder

log = logging.getLogger(__name__)


def use_trusted_cache() -> None:
    """Leaves Triton's folder as it is configured, or names another if others may write there."""
    folder = Path(triton.knobs.cache.dir)
    if not folder.exists():
        make_private_folder(folder)
    if reason := distrust(folder):
        own = cache_folder() / "triton"
        make_private_folder(own)
        if distrust(own):
            own = Path(tempfile.mkdtemp(prefix="folovllm-triton-"))
        log.warning("compiled kernels in %s are not used, but %s: %s", folder, own, reason)
        triton.knobs.cache.dir = str(own)
