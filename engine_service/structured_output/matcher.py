"""Matcher: the state of one sequence in its grammar."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import fill_next_token_bitmask
from numpy.typing import NDArray

from engine_service.structured_output.grammar_vocabulary import GrammarVocabulary
from engine_service.structured_output.library import is_panic
from engine_service.structured_output.refusals import refusal
from folovllm.errors import InvalidRequestError


class Matcher:
    """Decides which ids may come next, and consumes the one that was chosen.

    With `then_free`, the grammar covers only the beginning of the output: anything may follow.
    Belongs to one thread at a time. If a grammar exceeds the limits while it is followed, the call
    that finds out raises InvalidRequestError, and so does every later one.
    """

    def __init__(
        self,
        kind: str,
        matcher: LLMatcher,
        vocabulary: GrammarVocabulary,
        then_free: bool = False,
        grammar: object = None,
    ) -> None:
        """`grammar` is what it follows, which lives as long as anything that follows it."""
        self._kind = kind
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._then_free = then_free
        self._grammar = grammar
        self._failure: InvalidRequestError | None = None

    @property
    def library_matcher(self) -> LLMatcher:
        """The library's object, for calls that take many at once."""
        return self._matcher

    @property
    def may_stop(self) -> bool:
        """Whether the output is complete, so that an EOS id may follow."""
        with self._panics_refused():
            return self._matcher.is_accepting()

    @property
    def must_stop(self) -> bool:
        """Whether the output is complete and no id but EOS can follow, or one has.

        False before the first token, even of a grammar whose only output is empty.
        """
        return not self._then_free and self._at_end

    @property
    def is_spent(self) -> bool:
        """Whether the output has passed the grammar and may continue freely."""
        return self._then_free and self._at_end

    def fill_bitmask(self, row: NDArray[np.int32]) -> None:
        """Sets bit i % 32 of word i // 32 where id i may come next, clears all others.

        `row` is [ceil(vocab_size / 32)], contiguous. Raises InvalidRequestError if no id can
        continue the output, or if finding out takes more work than a step may.
        """
        with self._panics_refused():
            fill_next_token_bitmask(self._matcher, row.reshape(1, -1))
        self.check_filled(row)

    def check_filled(self, row: NDArray[np.int32]) -> None:
        """Finishes a row that the library has filled; raises as `fill_bitmask`."""
        self._check()
        if not self.may_stop:
            # A Lark grammar may name an EOS id itself, but an EOS always ends the output.
            np.bitwise_and(row, self._vocabulary.all_but_eos, out=row)
            if not row.any():
                self._failure = refusal(self._kind, "no token can continue the output")
                raise self._failure

    def accept(self, token_id: int) -> None:
        """Consumes one id, which the bitmask allowed.

        Raises InvalidRequestError if the grammar does not accept it.
        """
        with self._panics_refused():
            self._matcher.consume_token(token_id)
        self._check()

    advance = accept

    def copy(self) -> "Matcher":
        """An independent matcher in the same state, for a fork."""
        with self._panics_refused():
            copied = self._matcher.deep_copy()
        return Matcher(self._kind, copied, self._vocabulary, self._then_free, self._grammar)

    @property
    def _at_end(self) -> bool:
        with self._panics_refused():
            return self._matcher.is_accepting() and self._matcher.is_stopped()

    def _check(self) -> None:
        if self._failure is None and self._matcher.is_error():
            self._failure = refusal(self._kind, self._matcher.get_error())
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _panics_refused(self) -> Iterator[None]:
        """Makes an error of the library, or a panic in it, the end of this matcher alone."""
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except BaseException as error:
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            self._failure = refusal(self._kind, f"the grammar cannot be followed: {error}")
            raise self._failure from error
