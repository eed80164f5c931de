"""Speculator: drafts tokens, so that one step can add several to a sequence.

A decode step reads all weights for one token of each sequence, and takes little longer for a few
more. So the step also computes tokens that are only guessed, and draws a token after each as if all
before it were certain. Of these the scheduler keeps the first, and each further one whose draft
equals the token drawn before it.

That changes no token. What is drawn at a position depends on its logits and on the random number of
(seed, index, position), and both are what they would be without speculation; but logits of more
rows at once may differ in their last bits, see docs/determinism.md. It is also speculative sampling
as Y. Leviathan et al. describe it ("Fast Inference from Transformers via Speculative Decoding",
ICML 2023): a guess by lookup is a proposal that gives its token all the probability, so it must be
accepted with the probability p of that token, which is how often a draw from p equals it; and a
draw that does not equal it is distributed as p without that token. The guesses are prompt lookup's,
see `ngram_proposer`.

Learning whether guessing pays costs nothing: a guess is compared with what follows even if it was
not computed. So drafting resumes as soon as it would have been right.
"""

from collections import defaultdict
from collections.abc import Sequence as SequenceOf

from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.request import Sequence
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.scheduler_output_builder import SchedulerOutputBuilder
from engine_service.core.spec_decode.ngram_proposer import (
    MAX_MATCH,
    MIN_MATCH,
    NgramProposer,
    Proposal,
)

# Tokens of a step with drafts. More are no longer nearly free, so a large batch has none.
_MAX_STEP_TOKENS = 16
# The cost of drafting in units of a step with one token: of any drafts at all, and of each token.
_COST_OF_ANY = 0.15
_COST_OF_EACH = 0.05
# The initial estimate of the share of correct guesses, by the number of tokens matched.
_ACCURACIES = {MIN_MATCH: 0.3, 3: 0.5, MAX_MATCH: 0.7}
# The weight of the latest guess in that estimate.
_LATEST_WEIGHT = 0.2


class Speculator:
    """Adds drafts to steps, each sequence's by what its own text has shown."""

    def __init__(self, kv_cache_manager: KVCacheManager, limits: SchedulerLimits) -> None:
        self._kv = kv_cache_manager
        self._limits = limits
        self._guessers: dict[int, _Guesser] = defaultdict(_Guesser)  # by seq_id
        self._stopped: set[int] = set()

    def add_drafts(self, builder: SchedulerOutputBuilder) -> None:
        """Uses what a step has left, once everything else in it is decided.

        Drafts take only free blocks, and wrong ones free theirs again: see `KVCacheManager.trim`.
        """
        num_certain = builder.num_tokens
        left = min(builder.token_budget, _MAX_STEP_TOKENS - num_certain)
        seqs = [seq for seq in builder.decodes() if self._may_have_drafts(seq)] if left > 0 else []
        for index, seq in enumerate(seqs):
            share = -(-left // (len(seqs) - index))
            max_drafts = min(share, self._max_drafts(seq))
            if max_drafts < 1:
                continue
            drafts = self._guessers[seq.seq_id].drafts(seq.token_ids, max_drafts, num_certain)
            if drafts:
                allocated = self._kv.allocate_slots(seq, 1 + len(drafts))
                assert allocated, "there are no more drafts than free slots"
                builder.add_drafts(seq, drafts)
                left -= len(drafts)

    def stop(self, seq: Sequence) -> None:
        """Drafts no more for a sequence."""
        self._stopped.add(seq.seq_id)

    def forget(self, seq: Sequence) -> None:
        """Drops what is known of a sequence that has ended."""
        self._guessers.pop(seq.seq_id, None)
        self._stopped.discard(seq.seq_id)

    def _may_have_drafts(self, seq: Sequence) -> bool:
        """Whether a sequence that decodes may; what a grammar allows is not known in advance."""
        return (
            seq.group.forked
            and seq.request.scored_from is None
            and seq.matcher is None
            and seq.seq_id not in self._stopped
        )

    def _max_drafts(self, seq: Sequence) -> int:
        """How many a sequence may have, so that no token is drawn past its end."""
        params = seq.request.sampling_params
        num_left = self._limits.max_model_len - seq.num_tokens
        if params.max_tokens is not None:
            num_left = min(num_left, params.max_tokens - seq.num_output_tokens)
        return min(num_left, self._kv.num_free_slots(seq)) - 1


class _Guesser:
    """The guesses about one sequence, and how good they were."""

    def __init__(self) -> None:
        self._proposer = NgramProposer()
        self._accuracies = dict(_ACCURACIES)
        self._guess: Proposal | None = None
        self._guessed_at = 0

    def drafts(
        self, token_ids: SequenceOf[int], max_drafts: int, num_certain: int
    ) -> SequenceOf[int]:
        """The next tokens, as many as are worth computing, at most `max_drafts`.

        `num_certain` counts the tokens that the step computes anyway.
        """
        self._learn(token_ids)
        self._guess = self._proposer.propose(token_ids, max_drafts)
        self._guessed_at = len(token_ids)
        if self._guess is None:
            return ()
        accuracy = self._accuracies[self._guess.num_matched]
        return self._guess.token_ids[: _best_count(accuracy, max_drafts, num_certain)]

    def _learn(self, token_ids: SequenceOf[int]) -> None:
        """Compares the last guess with what followed, up to its first error."""
        if self._guess is None:
            return
        guessed, num_matched = self._guess
        for guess, actual in zip(guessed, token_ids[self._guessed_at :], strict=False):
            error = (guess == actual) - self._accuracies[num_matched]
            self._accuracies[num_matched] += _LATEST_WEIGHT * error
            if guess != actual:
                break


def _best_count(accuracy: float, max_drafts: int, num_certain: int) -> int:
    """The number of drafts with which a step yields the most tokens for its time.

    Each token that it computes anyway yields one. The gain of one sequence's drafts must make up
    for the delay of all.
    """
    tokens, time, all_correct = float(num_certain), 1.0 + _COST_OF_EACH * (num_certain - 1), 1.0
    best, best_rate = 0, tokens / time
    time += _COST_OF_ANY
    for count in range(1, max_drafts + 1):
        all_correct *= accuracy
        tokens += all_correct
        time += _COST_OF_EACH
        if tokens / time > best_rate:
            best, best_rate = count, tokens / time
    return best
