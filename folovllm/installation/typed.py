"""How programs and folders are typed in the working directory."""

import shutil
from pathlib import Path


def typed_program(program: Path) -> str:
    """A program by its name if the search path has it, else by its shortest path."""
    program = program.absolute()
    if Path(shutil.which(program.name) or "").absolute() == program:
        return program.name
    folder = Path.cwd()
    return str(program.relative_to(folder) if program.is_relative_to(folder) else program)


def typed_path(path: Path) -> str:
    """A path that cannot be taken for a package's name: `.`, `./below` or the whole path."""
    folder = Path.cwd()
    if path == folder:
        return "."
    return f"./{path.relative_to(folder)}" if path.is_relative_to(folder) else str(path)
