"""GrammarCompiler: compiles what a request asks for to a Grammar, which makes matchers.

Compiling may take a second and must not happen on the engine's thread; `compile` blocks, and may be
called from any number of threads. The library's limits bound the size of what it accepts,
`time_limit` the time.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from numpy.typing import NDArray

from engine_service.structured_output.build_thread import BuildThread
from engine_service.structured_output.grammar_source import grammar_source, kind_of, refusal
from engine_service.structured_output.grammar_vocabulary import GrammarVocabulary
from engine_service.structured_output.matcher import Matcher, is_panic
from folovllm.errors import ConfigError, InvalidRequestError
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput

_Spec = tuple[StructuredOutput | None, Reasoning | None]

# In the lexer of each sequence, at half a kilobyte each. A string with a maxLength takes about 30
# for each token, so this allows 8,000 tokens; one without takes next to none.
_MAX_LEXER_STATES = 250_000
_MAX_GRAMMAR_SIZE = 100_000
_MAX_ITEMS_IN_ROW = 10_000
# Work, in the library's units: about 50 a microsecond to build, 14 and 20 to fill a mask.
_INITIAL_LEXER_FUEL = 300_000
_STEP_LEXER_FUEL = 100_000
_STEP_MAX_ITEMS = 20_000


class Grammar:
    """A compiled grammar. It never changes, so many sequences and threads may share it."""

    def __init__(
        self, kind: str, template: LLMatcher, vocabulary: GrammarVocabulary, then_free: bool
    ) -> None:
        """`then_free`: it covers only the beginning of an output."""
        self._kind = kind
        self._template = template
        self._vocabulary = vocabulary
        self._then_free = then_free

    def matcher(self) -> Matcher:
        """A matcher at the start of an output."""
        return Matcher(self._kind, self._template.deep_copy(), self._vocabulary, self._then_free)


class GrammarCompiler:
    """Compiles grammars, and keeps the `cache_size` that were used last.

    `folder` has the model's tokenizer.json, which is read for the first request; `vocab_size` and
    `eos_token_ids` are the model's. A build that takes more than `time_limit` seconds is abandoned.
    """

    def __init__(
        self,
        folder: Path,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        cache_size: int = 64,
        time_limit: float = 5.0,
    ) -> None:
        self.vocabulary = GrammarVocabulary(folder, vocab_size, eos_token_ids)
        self._cache_size = cache_size
        self._build_thread = BuildThread(time_limit)
        self._lock = threading.Lock()
        self._grammars: OrderedDict[_Spec, Grammar] = OrderedDict()
        self._limits = LLParserLimits(
            initial_lexer_fuel=_INITIAL_LEXER_FUEL,
            step_lexer_fuel=_STEP_LEXER_FUEL,
            step_max_items=_STEP_MAX_ITEMS,
            max_lexer_states=_MAX_LEXER_STATES,
            max_grammar_size=_MAX_GRAMMAR_SIZE,
            max_items_in_row=_MAX_ITEMS_IN_ROW,
            verbose_errors=False,
        )

    def compile(
        self, output: StructuredOutput | None, reasoning: Reasoning | None = None
    ) -> Grammar:
        """The grammar of an output, from the cache if possible; one of the two is given.

        With reasoning, `output` constrains only the answer after it, and None leaves that free.
        Raises InvalidRequestError, naming the field and with the library's own message, if it is
        invalid or too large or the model has no vocabulary to serve it; QueueFullError if other
        builds take too long to wait for.
        """
        spec = output, reasoning
        grammar = self._cached(spec)
        if grammar is not None:
            return grammar
        try:
            # Not in the build: the time limit is for grammars.
            self.vocabulary.load()
        except ConfigError as error:
            raise refusal(kind_of(output), str(error)) from None
        try:
            return self._build_thread.run(lambda: self._cached(spec) or self._build(spec))
        except TimeoutError:
            raise refusal(
                kind_of(output), f"takes more than {self._build_thread.time_limit:g} s to compile"
            ) from None
        except BaseException as error:
            if not is_panic(error):
                raise
            raise refusal(kind_of(output), f"its compiler fails: {error}") from error

    def _try_one_step(self, template: LLMatcher, kind: str, first_row: NDArray[np.int32]) -> None:
        """Consumes one id: only then do some grammars turn out to be too large.

        Raises InvalidRequestError with the library's own message.
        """
        allowed = first_row & self.vocabulary.all_but_eos
        ids = np.flatnonzero(np.unpackbits(allowed.view(np.uint8), bitorder="little"))
        if len(ids):
            Matcher(kind, template.deep_copy(), self.vocabulary).accept(int(ids[0]))

    def _cached(self, spec: _Spec) -> Grammar | None:
        with self._lock:
            grammar = self._grammars.get(spec)
            if grammar is not None:
                self._grammars.move_to_end(spec)
            return grammar

    def _build(self, spec: _Spec) -> Grammar:
        output, reasoning = spec
        kind = kind_of(output)
        if output is not None and reasoning is not None and not self._cached((output, None)):
            # After reasoning, faults that show in the first mask would show too late.
            self._build((output, None))
        source = grammar_source(output, reasoning, self.vocabulary.eos_token_ids)
        template = LLMatcher(self.vocabulary.load(), source, log_level=0, limits=self._limits)
        if template.is_error():
            raise refusal(kind, template.get_error())
        # Some faults, such as a rule that only names itself, show in the first mask. What the lexer
        # learns from it stays in the template, and in all copies.
        first_row = np.empty(self.vocabulary.num_words, dtype=np.int32)
        try:
            Matcher(kind, template, self.vocabulary).fill_bitmask(first_row)
        except InvalidRequestError as error:
            raise refusal(kind, f"no output can begin ({error})") from None
        self._try_one_step(template, kind, first_row)
        grammar = Grammar(kind, template, self.vocabulary, then_free=output is None)
        with self._lock:
            self._grammars[spec] = grammar
            while len(self._grammars) > self._cache_size:
                self._grammars.popitem(last=False)
        return grammar
