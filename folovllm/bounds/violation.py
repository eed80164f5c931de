"""What breaks a bound, while the path to it is still being found out."""

from folovllm.errors import InvalidRequestError


class ViolationError(Exception):
    """One value breaks a bound. Whoever led the check there puts its own name in front."""

    def __init__(self, problem: str) -> None:
        """`problem` continues the sentence after the field's name."""
        super().__init__(problem)
        self.problem = problem
        self._path: list[str] = []  # from the value up

    def under(self, name: str) -> "ViolationError":
        """The same, below the field or element of this name."""
        self._path.append(name)
        return self

    def as_invalid_request(self) -> InvalidRequestError:
        """The error for the caller, which names the field as it stands in the request."""
        steps = self._path[::-1]
        path = ".".join(steps).replace(".[", "[")
        name = path.rpartition(".")[2]
        return InvalidRequestError(path, f"{name} {self.problem}")


class Total:
    """How many elements the lists and maps below a field may still have together."""

    __slots__ = ("left", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit

    def take(self, count: int) -> None:
        """Counts some more. Raises TotalExceededError if those are too many."""
        self.left -= count
        if self.left < 0:
            raise TotalExceededError(self)


class TotalExceededError(Exception):
    """There are more elements than a total allows; its field makes it a violation."""

    def __init__(self, total: Total) -> None:
        super().__init__()
        self.total = total
