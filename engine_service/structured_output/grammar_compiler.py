"""GrammarCompiler: compiles what a request asks for to a Grammar, which makes matchers.

`compile` blocks, and is for callers who may harm nobody but themselves: the library's limits bound
the size of what it accepts, `time_limit` the time. A service has others to protect, see
RehearsedCompiler.
"""

from collections.abc import Sequence
from pathlib import Path

from engine_service.structured_output.build_thread import BuildThread
from engine_service.structured_output.grammar import Grammar
from engine_service.structured_output.grammar_cache import GrammarCache
from engine_service.structured_output.grammar_source import grammar_sources
from engine_service.structured_output.grammar_spec import GrammarSpec, ReasoningSpan
from engine_service.structured_output.grammar_vocabulary import GrammarVocabulary
from engine_service.structured_output.library import GrammarError, build, is_panic
from engine_service.structured_output.refusals import refusal
from folovllm.errors import ConfigError
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput

# Of a grammar that was not measured: what a small one takes, and for each character of a source
# more than most texts need.
_BASE_BYTES = 2**19
_BYTES_PER_CHARACTER = 250


class GrammarCompiler:
    """Compiles grammars, and keeps those that were used last.

    `folder` has the model's tokenizer.json, which is read for the first request; `vocab_size` and
    `eos_token_ids` are the model's. A build that takes more than `time_limit` seconds is abandoned.
    """

    def __init__(
        self,
        folder: Path,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        cache_bytes: int = 24 * 2**20,
        time_limit: float = 5.0,
    ) -> None:
        self.vocabulary = GrammarVocabulary(folder, vocab_size, eos_token_ids)
        self.cache = GrammarCache(cache_bytes)
        self._build_thread = BuildThread(time_limit)

    def compile(
        self, output: StructuredOutput | None, reasoning: Reasoning | None = None
    ) -> Grammar:
        """The grammar of an output, from the cache if possible; one of the two is given.

        With reasoning, `output` constrains only the answer after it, and None leaves that free.
        Raises InvalidRequestError, naming the field and with the library's own message, if it is
        invalid or too large or the model has no vocabulary to serve it; QueueFullError if other
        builds take too long to wait for.
        """
        spec = grammar_spec(output, reasoning)
        grammar = self.cache.get(spec)
        if grammar is not None:
            return grammar
        self.load_vocabulary(spec)  # not in the build: the time limit is for grammars
        try:
            return self._build_thread.run(lambda: self.build(spec))
        except TimeoutError:
            raise refusal(
                spec.name, f"takes more than {self._build_thread.time_limit:g} s to compile"
            ) from None

    def load_vocabulary(self, spec: GrammarSpec) -> None:
        """Reads the vocabulary if that has not happened yet. Raises InvalidRequestError."""
        try:
            self.vocabulary.load()
        except ConfigError as error:
            raise refusal(spec.name, str(error)) from None

    def build(self, spec: GrammarSpec, num_bytes: int | None = None) -> Grammar:
        """Builds a grammar that is not in the cache, on a thread with STACK_BYTES, and keeps it.

        `num_bytes` is the memory that a rehearsal took; without one, the answer after reasoning is
        tried by itself. Raises InvalidRequestError.
        """
        if (grammar := self.cache.get(spec)) is not None:
            return grammar
        tokenizer, eos_token_ids = self.vocabulary.load(), self.vocabulary.eos_token_ids
        try:
            sources = grammar_sources(spec, eos_token_ids)
            if num_bytes is None:
                num_bytes = _BASE_BYTES + _BYTES_PER_CHARACTER * len(sources[-1])
                for source in sources[:-1]:
                    build(tokenizer, source, eos_token_ids)
            template = build(tokenizer, sources[-1], eos_token_ids)
        except GrammarError as error:
            raise refusal(spec.name, str(error)) from None
        except BaseException as error:
            if not is_panic(error):
                raise
            raise refusal(spec.name, f"its compiler fails: {error}") from error
        grammar = Grammar(spec, template, self.vocabulary, num_bytes)
        self.cache.put(spec, grammar)
        return grammar


def grammar_spec(output: StructuredOutput | None, reasoning: Reasoning | None) -> GrammarSpec:
    """What parameters ask for; one of the two is given."""
    span = None
    if reasoning is not None:
        span = ReasoningSpan(reasoning.end_token_id, reasoning.start_token_id, reasoning.max_tokens)
    if output is None:
        return GrammarSpec(None, None, span)
    return GrammarSpec(output.kind, output.value, span)
