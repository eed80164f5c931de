"""Grammar: what a request asks for, compiled."""

from llguidance import LLMatcher

from engine_service.structured_output.grammar_spec import GrammarSpec
from engine_service.structured_output.grammar_vocabulary import GrammarVocabulary
from engine_service.structured_output.matcher import Matcher


class Grammar:
    """A compiled grammar. It never changes, so many sequences and threads may share it."""

    def __init__(
        self, spec: GrammarSpec, template: LLMatcher, vocabulary: GrammarVocabulary, num_bytes: int
    ) -> None:
        self._name = spec.name
        self._then_free = spec.is_prefix
        self._template = template
        self._vocabulary = vocabulary
        self.num_bytes = num_bytes
        """An estimate of the memory that it takes, whatever follows it."""

    def matcher(self) -> Matcher:
        """A matcher at the start of an output."""
        copied = self._template.deep_copy()
        return Matcher(self._name, copied, self._vocabulary, self._then_free, self)
