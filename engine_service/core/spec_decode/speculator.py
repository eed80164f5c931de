"""Speculator: drafts tokens, so that one step can bring several to a sequence.

A step that decodes reads all weights for one token of each sequence; for a few more it takes little
longer. So the step also computes tokens that are only guessed, and a token is drawn after each,
just as if all before it were certain. Of these the scheduler keeps the first, and each further one
whose guess was what had been drawn before it.

That changes no token. What is drawn at a position depends on its logits and on the number of
(seed, index, position), and both are what they would be without speculation; but logits of more
rows at once may differ in their last bits, see docs/determinism.md. It is also speculative sampling
as Y. Leviathan et al. describe it ("Fast Inference from Transformers via Speculative Decoding",
ICML 2023): a guess by lookup is a proposal that gives its token all the probability, so it must be
accepted with the probability p of that token, which is how often a draw from p equals it; and what
is drawn where it does not is distributed as p without that token. The guesses are prompt lookup's,
see `ngram_proposer`.

Whether guessing pays is learned at no cost: a guess is compared with what comes also where it was
not computed. So it begins again as soon as it would have been right.
"""

from collections.abc import Sequence as SequenceOf

from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.request import Sequence
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.spec_decode.ngram_proposer import (
    FEWEST_MATCHED,
    MOST_MATCHED,
    NgramProposer,
    Proposal,
)
from engine_service.core.step_plan import StepPlan

# Tokens of a step with drafts. More are no longer nearly free, so a large batch has none.
_MOST_TOKENS = 16
# What drafting takes, beside a step of one token: that a sequence has drafts, and each one.
_COST_OF_ANY = 0.15
_COST_OF_EACH = 0.05
# The share of right guesses that is assumed at first, by the number of tokens matched.
_ACCURACIES = {FEWEST_MATCHED: 0.3, 3: 0.5, MOST_MATCHED: 0.7}
# The weight of the latest guess in that share.
_NEWS = 0.2


class Speculator:
    """Adds drafts to steps, each sequence's by what its own text has shown."""

    def __init__(self, kv_cache_manager: KVCacheManager, limits: SchedulerLimits) -> None:
        self._kv = kv_cache_manager
        self._limits = limits
        self._tracks: dict[int, _Track] = {}  # by seq_id

    def add_drafts(self, plan: StepPlan) -> None:
        """Uses what a step has left, when all else of it is decided.

        Drafts take only free blocks, and those that turn out wrong give theirs back: see
        `KVCacheManager.trim`.
        """
        num_certain = plan.num_tokens
        left = min(plan.budget, _MOST_TOKENS - num_certain)
        seqs = [seq for seq in plan.decodes() if _may_have_drafts(seq)] if left > 0 else []
        for place, seq in enumerate(seqs):
            share = -(-left // (len(seqs) - place))
            drafts = self._drafts(seq, min(share, self._most_drafts(seq)), num_certain)
            if drafts:
                allocated = self._kv.allocate_slots(seq, 1 + len(drafts))
                assert allocated, "no more are asked for than have room"
                plan.add_drafts(seq, drafts)
                left -= len(drafts)

    def forget(self, seq: Sequence) -> None:
        """Drops what is known of a sequence that has ended."""
        self._tracks.pop(seq.seq_id, None)

    def _most_drafts(self, seq: Sequence) -> int:
        """How many a sequence may have, so that no token is drawn past its end."""
        params = seq.request.sampling_params
        most = self._limits.max_model_len - seq.num_tokens
        if params.max_tokens is not None:
            most = min(most, params.max_tokens - seq.num_output_tokens)
        return min(most - 1, self._kv.num_free_slots(seq) - 1)

    def _drafts(self, seq: Sequence, most: int, num_certain: int) -> SequenceOf[int]:
        if most < 1:
            return ()
        if seq.seq_id not in self._tracks:
            self._tracks[seq.seq_id] = _Track()
        return self._tracks[seq.seq_id].drafts(seq.token_ids, most, num_certain)


class _Track:
    """The guesses about one sequence, and how good they were."""

    def __init__(self) -> None:
        self._proposer = NgramProposer()
        self._accuracies = dict(_ACCURACIES)
        self._guess: Proposal | None = None
        self._guessed_at = 0

    def drafts(self, token_ids: SequenceOf[int], most: int, num_certain: int) -> SequenceOf[int]:
        """The next tokens, as many as are worth computing, at most `most`.

        `num_certain` are the tokens that the step computes anyway.
        """
        self._judge(token_ids)
        self._guess = self._proposer.propose(token_ids, most)
        self._guessed_at = len(token_ids)
        if self._guess is None:
            return ()
        accuracy = self._accuracies[self._guess.num_matched]
        return self._guess.token_ids[: _worth(accuracy, most, num_certain)]

    def _judge(self, token_ids: SequenceOf[int]) -> None:
        """Compares the last guess with what came, up to where it went wrong."""
        if self._guess is None:
            return
        guessed, num_matched = self._guess
        for token_id, came in zip(guessed, token_ids[self._guessed_at :], strict=False):
            news = _NEWS * ((token_id == came) - self._accuracies[num_matched])
            self._accuracies[num_matched] += news
            if token_id != came:
                break


def _may_have_drafts(seq: Sequence) -> bool:
    """Whether a sequence that decodes may; what a grammar allows is not known in advance."""
    request = seq.request
    return request.forked and request.scored_from is None and seq.matcher is None


def _worth(accuracy: float, most: int, num_certain: int) -> int:
    """The number of drafts with which a step brings the most tokens for its time.

    Each of the tokens that it computes anyway brings one. What one sequence's drafts bring must
    make up for the time of all.
    """
    tokens, time, all_right = float(num_certain), 1.0 + _COST_OF_EACH * (num_certain - 1), 1.0
    best, best_rate = 0, tokens / time
    time += _COST_OF_ANY
    for count in range(1, most + 1):
        all_right *= accuracy
        tokens += all_right
        time += _COST_OF_EACH
        if tokens / time > best_rate:
            best, best_rate = count, tokens / time
    return best
