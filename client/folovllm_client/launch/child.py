"""Runs a module as `python -m` would, and ends it when the process that started it is gone.

    python -P child.py FOLDER MODULE ARGUMENT…

FOLDER is where the parent found the module.

Standard input is a pipe that the parent holds open and never writes to. It ends when the parent
does, for whatever reason, and then this process gets SIGTERM. This works on every platform, needs
no code between fork and exec, and does not depend on the thread that started the child.
"""

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Runs the module that the command line names, with the rest as its arguments."""
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    # -P keeps the working directory, where anything may lie, off the path. FOLDER is on it already
    # unless it is a checkout that was never installed.
    folder, module, *arguments = sys.argv[1:]
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
