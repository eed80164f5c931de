"""How a job can end without a result."""

from folovllm.errors import FolovError, UnavailableError


class OverLimitError(FolovError):
    """A job took more than it may. `limit` says how much that is."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"it takes more than {limit}")
        self.limit = limit


class OverTimeError(OverLimitError):
    """A job took more processor time than it may."""


class OverMemoryError(OverLimitError):
    """A job took more memory than it may."""


class WorkerEndedError(UnavailableError):
    """A job's process has ended before it has answered; `status` is as that of a Popen."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a process has ended at its work: {status}")
        self.status = status


class ServerLostError(Exception):
    """The process has ended, or does not start; no job has to be at fault."""
