"""Starts a service that can be told, over a socket, to hold, hang or break.

    python -m chaos.inside.launcher SOCKET [--fake] MODULE ARGUMENT...

The module then runs as `python -m MODULE ARGUMENT...` would. Of an engine service the model's
runner is wrapped, on a CPU; with --fake it also is a model that costs nothing. Everything else is
the product's own.
"""

import asyncio
import runpy
import sys
from functools import wraps
from pathlib import Path
from typing import Any

from chaos.inside.control import Control


def main() -> None:
    """Reads the command line, hooks the module and runs it."""
    path, *rest = sys.argv[1:]
    fake = rest[0] == "--fake"
    module, *arguments = rest[fake:]
    control = Control(Path(path))
    _remember_loop(control)
    if module == "engine_service":
        _hook_engine(control, fake)
    else:
        _hook_front_end(control)
    control.start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _remember_loop(control: Control) -> None:
    """Tells the control of the event loop, as soon as there is one."""
    original = asyncio.Runner.run

    @wraps(original)
    def run(runner: asyncio.Runner, *arguments: Any, **options: Any) -> Any:
        control.loop = runner.get_loop()
        return original(runner, *arguments, **options)

    _replace(asyncio.Runner, "run", run)


def _hook_engine(control: Control, fake: bool) -> None:
    """Wraps the runner of the engine that will be built, and shows the engine to the control."""
    from chaos.inside.faulty_runner import FaultyRunner
    from engine_service.engine import factory
    from engine_service.engine.llm_engine import LLMEngine
    from engine_service.runner import model_runner
    from engine_service.runner.sampling.sampler import sample

    if fake:
        from chaos.inside.fake_model import build_fake_runner

        _replace(factory, "build_runner", build_fake_runner)
    original = LLMEngine.__init__

    @wraps(original)
    def init(engine: LLMEngine, runner: Any, *arguments: Any, **options: Any) -> None:
        control.engine, control.runner = engine, FaultyRunner(runner, engine)
        _replace(model_runner, "sample", control.runner.poisoning(sample))
        original(engine, control.runner, *arguments, **options)

    _replace(LLMEngine, "__init__", init)


def _hook_front_end(control: Control) -> None:
    """Shows the pool of engines to the control."""
    from tokenizer_service.engines.pool import EnginePool

    original = EnginePool.__init__

    @wraps(original)
    def init(pool: EnginePool, *arguments: Any, **options: Any) -> None:
        original(pool, *arguments, **options)
        control.pool = pool

    _replace(EnginePool, "__init__", init)


def _replace(owner: Any, name: str, value: object) -> None:
    """Puts another function in the place of a module's or a class's own."""
    setattr(owner, name, value)


if __name__ == "__main__":
    main()
