"""BitmaskFiller: fills the bitmasks of a whole batch in parallel."""

from collections.abc import Sequence

import numpy as np
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask_par
from numpy.typing import NDArray

from engine_service.structured_output.library import is_panic
from engine_service.structured_output.matcher import Matcher
from folovllm.errors import InvalidRequestError


class BitmaskFiller:
    """Owns the threads; `num_threads` None leaves their number to the library."""

    def __init__(self, num_threads: int | None = None) -> None:
        self._executor = LLExecutor(num_threads)

    def fill_bitmasks(
        self, matchers: Sequence[Matcher], bitmask: NDArray[np.int32]
    ) -> dict[int, InvalidRequestError]:
        """Fills row i of `bitmask` [len(matchers), ceil(vocab_size / 32)] for matcher i.

        Returns the errors of the rows whose sequence cannot continue, usually none; the content of
        such a row is undefined.
        """
        pairs = [(matcher.library_matcher, row) for row, matcher in enumerate(matchers)]
        filled = True
        try:
            fill_next_token_bitmask_par(self._executor, pairs, bitmask)
        except BaseException as error:
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            filled = False  # one after the other, to find out whose error it is
        errors = {}
        for row, matcher in enumerate(matchers):
            finish = matcher.check_filled if filled else matcher.fill_bitmask
            try:
                finish(bitmask[row])
            except InvalidRequestError as error:
                errors[row] = error
        return errors
