"""RecentMean: a mean that follows what changes."""


class RecentMean:
    """The mean of the latest results, about; older ones count for less and less."""

    def __init__(self, guess: float, weight: int = 0, num_results: int = 50) -> None:
        """`guess` is the mean before there are any, and counts as `weight` of `num_results`."""
        self.value = guess
        self._count = weight
        self._max_count = num_results

    def add(self, result: float) -> None:
        """Adds one."""
        self._count = min(self._count + 1, self._max_count)
        self.value += (result - self.value) / self._count
