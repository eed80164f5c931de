"""RefusedNames: which engine a request goes back to that was refused for lack of room."""

from collections import OrderedDict

# How many names are remembered, the latest ones: a few MiB.
_MAX_NAMES = 16_384


class RefusedNames:
    """The engines that have told a request when to return: only there it has a turn then."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._addresses)

    def remember(self, name: str, address: str) -> None:
        """The engine at `address` has refused the request."""
        self._addresses[name] = address
        self._addresses.move_to_end(name)
        if len(self._addresses) > _MAX_NAMES:
            self._addresses.popitem(last=False)

    def take(self, name: str) -> str | None:
        """The address for a request that may have been refused; it is forgotten."""
        return self._addresses.pop(name, None)
