"""Files that change under a running engine, and cached code that others could have written."""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from chaos.callers.ask import direct, generate, params
from chaos.callers.call import Call, Manner, reference_of
from chaos.checks.streams import problems
from chaos.checks.verdicts import Report
from chaos.incidents.incident import OK, new_name
from chaos.processes.checkpoints import copy_of_model
from chaos.processes.site import Engine

BEFORE = direct(generate("before", 24, params(16)))
_NOBODY = 65534
# The library is looked for in the cache alone. What lies there is another's, and no library: it is
# loaded if the loader is asked to.
_LOAD_CACHED = """
import ctypes, sys
from pathlib import Path
from engine_service.kernels.cpu import build, library
loaded = []
ctypes.CDLL = lambda path, *_: loaded.append(path)
build._library_paths = lambda: (Path(sys.argv[1]),)
build.build_library = library.build_library = lambda: Path("/built/anew")
library.processor_has_kernels = lambda: True
try:
    library.find_or_build()
except Exception as error:
    print("refused:", error)
print("LOADED" if sys.argv[1] in loaded else "not loaded")
"""


async def weights_truncated(report: Report) -> None:
    """A weights file is truncated in place: what was loaded serves on."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        model = copy_of_model(Path(folder) / "model")
        flags = ("--model", str(model), "--device", "cpu", "--dtype", "bfloat16")
        engine = Engine(flags)
        try:
            await engine.service.wait_serving()
            expected = await reference_of(engine.stub, BEFORE, new_name("reference"))
            os.truncate(model / "model.safetensors", 128)
            found: list[str] = []
            # Each from another prompt, and so from rows of the embedding that were not read yet.
            for number in range(8):
                ask = direct(generate(f"after {number}", 200, params(4)))
                call = Call(engine.stub, ask, new_name("after"), Manner(timeout=10))
                await call.task
                found += [call.record.details[:100]] if call.record.code not in OK else []
            again = Call(engine.stub, BEFORE, new_name("again"), Manner(timeout=10))
            await again.task
            found += problems(again.record, expected, OK)
            code = engine.service.exit_code
            found += [f"the engine ended with {code}"] if code is not None else []
            report.add("files: weights truncated in place", found)
        finally:
            await engine.close()


async def cached_code_of_others(report: Report) -> None:
    """Compiled code that others own or may write, or whose folder they may; and our own."""
    ours = os.getuid()
    for name, owner, mode, folder_mode, expected in (
        ("owned by another", _NOBODY, 0o644, 0o700, False),
        ("writable by all", ours, 0o666, 0o700, False),
        ("in a folder writable by all", ours, 0o644, 0o777, False),
        ("of our own", ours, 0o644, 0o700, True),
    ):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            path = Path(folder) / "kernels.so"
            path.write_bytes(b"no library")
            path.chmod(mode)
            path.parent.chmod(folder_mode)
            if owner != ours:
                if ours != 0:
                    continue  # only root gives files away
                os.chown(path, owner, owner)
            loaded = await asyncio.to_thread(_loads, path)
            found = [] if loaded is expected else [f"loaded: {loaded}"]
            report.add(f"files: cached code {name}", found)


def _loads(path: Path) -> bool:
    """Whether an engine would load a library from its cache."""
    command = [sys.executable, "-c", _LOAD_CACHED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return "LOADED" in done.stdout.splitlines()
