"""FakeMatcher: a made-up grammar, which bans ids by all tokens before and ends after so many."""

from folovllm.errors import InvalidRequestError


class FakeMatcher:
    """Bans one id of each three; after `length` tokens the output is complete or free."""

    def __init__(self, length: int, then_free: bool = False) -> None:
        self._left = length
        self._then_free = then_free
        self._state = length

    @property
    def must_stop(self) -> bool:
        return not self._then_free and self._left == 0

    @property
    def is_spent(self) -> bool:
        return self._then_free and self._left == 0

    def bans(self, token_id: int) -> bool:
        return (token_id + self._state) % 3 == 0

    def advance(self, token_id: int) -> None:
        banned = self.bans(token_id)
        self._left -= 1
        self._state = self._state * 31 + token_id
        if banned:
            raise InvalidRequestError("sampling_params.regex", "the grammar bans the token")

    def copy(self) -> "FakeMatcher":
        copied = FakeMatcher(self._left, self._then_free)
        copied._state = self._state
        return copied
