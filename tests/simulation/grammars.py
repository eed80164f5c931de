"""Simulated grammars: matchers whose allowed ids depend on all tokens before.

A grammar is written as a regex of the form `length:salt`. It allows the letters that a hash of the
output so far picks, and is complete after `length` tokens. Reasoning is free, ends with its id, and
must end once it is as long as it may be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from folovllm.errors import InvalidRequestError
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput
from simulation.tokens import EOS_ID, TABLE, advance

_LETTERS = tuple(b"abcdefghijklmnop")
_FREE = tuple(sorted(set(TABLE) - {EOS_ID}))


@dataclass(frozen=True)
class GrammarText:
    """What a grammar says."""

    length: int
    """0 for reasoning alone, after which everything is free."""
    salt: int
    end_token_id: int | None = None
    max_reasoning: int | None = None

    @classmethod
    def of(cls, output: StructuredOutput | None, reasoning: Reasoning | None) -> "GrammarText":
        """Reads parameters."""
        length, salt = map(int, str(output.value).split(":")) if output else (0, 0)
        if reasoning is None:
            return cls(length, salt)
        return cls(length, salt, reasoning.end_token_id, reasoning.max_tokens)

    def allowed(self, output: Sequence[int]) -> tuple[int, ...] | None:
        """The ids that may follow an output; None if any may."""
        answer = output
        if self.end_token_id is not None:
            if self.end_token_id not in output:
                if self.max_reasoning is not None and len(output) >= self.max_reasoning:
                    return (self.end_token_id,)
                return _FREE
            answer = output[output.index(self.end_token_id) + 1 :]
        if not self.length:
            return None
        state = self.salt
        for token_id in answer:
            state = advance(state, token_id)
        return tuple(letter for place, letter in enumerate(_LETTERS) if (state >> place) & 1) or (
            _LETTERS[0],
        )

    def is_complete(self, output: Sequence[int]) -> bool:
        """Whether nothing can follow."""
        if not self.length:
            return False
        num_reasoning = 0
        if self.end_token_id is not None:
            if self.end_token_id not in output:
                return False
            num_reasoning = output.index(self.end_token_id) + 1
        return len(output) - num_reasoning >= self.length


class SimulatedMatcher:
    """A TokenMatcher, which steps through its grammar."""

    def __init__(self, text: GrammarText) -> None:
        self._text = text
        self._num_reasoning: int | None = None if text.end_token_id is not None else 0
        self._num_tokens = 0
        self._state = text.salt

    @property
    def must_stop(self) -> bool:
        return (
            self._text.length > 0
            and self._num_reasoning is not None
            and self._num_tokens - self._num_reasoning >= self._text.length
        )

    @property
    def is_spent(self) -> bool:
        return self._text.length == 0 and self._num_reasoning is not None

    @property
    def allowed(self) -> tuple[int, ...] | None:
        text = self._text
        if self._num_reasoning is None:
            assert text.end_token_id is not None
            if text.max_reasoning is not None and self._num_tokens >= text.max_reasoning:
                return (text.end_token_id,)
            return _FREE
        if not text.length:
            return None
        state = self._state
        return tuple(letter for place, letter in enumerate(_LETTERS) if (state >> place) & 1) or (
            _LETTERS[0],
        )

    def advance(self, token_id: int) -> None:
        allowed = self.allowed
        if self.must_stop or (allowed is not None and token_id not in allowed):
            raise InvalidRequestError("sampling_params.regex", "the grammar bans the token")
        self._num_tokens += 1
        if self._num_reasoning is None:
            if token_id == self._text.end_token_id:
                self._num_reasoning = self._num_tokens
        else:
            self._state = advance(self._state, token_id)

    def copy(self) -> "SimulatedMatcher":
        copied = SimulatedMatcher(self._text)
        copied._num_reasoning, copied._num_tokens = self._num_reasoning, self._num_tokens
        copied._state = self._state
        return copied


class SimulatedGrammar:
    """What a compiler returns."""

    def __init__(self, text: GrammarText) -> None:
        self._text = text

    def matcher(self) -> SimulatedMatcher:
        return SimulatedMatcher(self._text)


class SimulatedCompiler:
    """A GrammarCompiler that compiles at once."""

    def compile(
        self, output: StructuredOutput | None, reasoning: Reasoning | None = None
    ) -> SimulatedGrammar:
        return SimulatedGrammar(GrammarText.of(output, reasoning))

    @property
    def vocabulary(self) -> "SimulatedCompiler":
        return self

    def load(self) -> None:
        """Nothing is to be read."""
