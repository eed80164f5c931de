"""How far a replay is, as a line at the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from folovllm_client.cli.console import open_console
from folovllm_client.cli.replay.report import Verdict


@contextmanager
def shown_progress(total: int) -> Iterator[Callable[[Verdict], None]]:
    """Gives what counts a verdict, shown if standard error is a terminal."""
    console = open_console(err=True)
    if not console.is_interactive:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    label = TextColumn("{task.description}", markup=False)
    columns = label, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("replaying", total=total)
        num_unequal = 0

        def count(verdict: Verdict) -> None:
            nonlocal num_unequal
            num_unequal += not verdict.is_equal
            remark = f", {num_unequal} not equal" if num_unequal else ""
            progress.update(task, advance=1, description=f"replaying{remark}")

        yield count
