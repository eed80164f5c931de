"""Random walks over what grammars allow, for tests of the grammars themselves."""

from collections.abc import Sequence

import numpy as np

from engine_service.structured_output.grammar_compiler import GrammarCompiler
from engine_service.structured_output.matcher import Matcher
from folovllm.model_files import DEMO_MODEL
from folovllm.parameters.structured_output import StructuredOutput

DEMO_EOS = (2041, 2039)
ENDS = (b'"', b"@", b"}", b"]", b'"}', b"}}", b"]}", b'",', b'"]')


class Walker:
    """Walks at random over what a grammar allows, with a preference for what ends things."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self.compiler = compiler
        self.vocabulary = compiler.vocabulary
        self._ends = [i for i in range(self.vocabulary.vocab_size - 300) if self._bytes(i) in ENDS]

    def _bytes(self, *token_ids: int) -> bytes:
        return self.vocabulary.load().decode_bytes(list(token_ids))

    def walk(self, output: StructuredOutput, seed: int, most: int = 600) -> str | None:
        """The text of a whole output; None if it came to no end."""
        matcher = self.compiler.compile(output).matcher()
        token_ids = self.finish(matcher, np.random.default_rng(seed), most)
        return None if token_ids is None else self._bytes(*token_ids).decode()

    def finish(
        self, matcher: Matcher, rng: np.random.Generator, most: int = 600
    ) -> list[int] | None:
        """The ids from where the matcher stands to an EOS id; None if it came to no end."""
        token_ids: list[int] = []
        while len(token_ids) < most:
            allowed = allowed_ids(matcher)
            eos = np.isin(allowed, self.vocabulary.eos_token_ids)
            assert matcher.may_stop == bool(eos.any())
            assert not matcher.must_stop or eos.all()
            assert allowed.max() < self.vocabulary.vocab_size
            if eos.all() or (eos.any() and rng.random() < 0.5):
                return token_ids
            allowed = allowed[~eos]
            ending = np.intersect1d(allowed, self._ends)
            hurry = 0.5 + len(token_ids) / most
            choice = ending if len(ending) and rng.random() < hurry else allowed
            token_ids.append(int(rng.choice(choice)))
            matcher.accept(token_ids[-1])
        return None


def allowed_ids(matcher: Matcher) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    row = np.empty(matcher._vocabulary.num_words, dtype=np.int32)
    matcher.fill_bitmask(row)
    return np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))


def demo_compiler(cache_bytes: int = 2**27, time_limit: float = 60.0) -> GrammarCompiler:
    return GrammarCompiler(DEMO_MODEL, 2048, DEMO_EOS, cache_bytes, time_limit)


def encode(compiler: GrammarCompiler, text: str) -> list[int]:
    return compiler.vocabulary.load().tokenize_str(text)


def follow(matcher: Matcher, token_ids: Sequence[int]) -> None:
    for token_id in token_ids:
        assert token_id in allowed_ids(matcher)
        matcher.accept(token_id)
