"""GrammarCache: compiled grammars, as many as fit into a number of bytes."""

import threading
from collections import OrderedDict
from weakref import WeakSet

from engine_service.structured_output.grammar import Grammar
from engine_service.structured_output.grammar_spec import GrammarSpec


class GrammarCache:
    """Keeps those that were used last, and counts all that still live. For any thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._grammars: OrderedDict[GrammarSpec, Grammar] = OrderedDict()
        self._num_bytes = 0
        self._living: WeakSet[Grammar] = WeakSet()

    def __len__(self) -> int:
        return len(self._grammars)

    @property
    def num_bytes(self) -> int:
        """Of those that are kept; at most `max_bytes`."""
        return self._num_bytes

    @property
    def num_living_bytes(self) -> int:
        """Of those that are kept and of those that a request still follows."""
        with self._lock:
            return sum(grammar.num_bytes for grammar in self._living)

    def get(self, spec: GrammarSpec) -> Grammar | None:
        """The grammar, which was used now; None if it is not kept."""
        with self._lock:
            grammar = self._grammars.get(spec)
            if grammar is not None:
                self._grammars.move_to_end(spec)
            return grammar

    def put(self, spec: GrammarSpec, grammar: Grammar) -> None:
        """Keeps a grammar in place of those that were used least recently.

        One that would take the place of all others is not kept.
        """
        with self._lock:
            self._living.add(grammar)
            self._drop(spec)
            if grammar.num_bytes > self._max_bytes:
                return
            self._grammars[spec] = grammar
            self._num_bytes += grammar.num_bytes
            while self._num_bytes > self._max_bytes:
                self._drop(next(iter(self._grammars)))

    def _drop(self, spec: GrammarSpec) -> None:
        dropped = self._grammars.pop(spec, None)
        if dropped is not None:
            self._num_bytes -= dropped.num_bytes
