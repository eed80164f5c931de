"""Async scheduling: planning a step of the running sequences while one of theirs is in flight.

A sequence in flight counts as advanced by what the step computes of it, and by one token if the
step draws one; that token is *pending*. The scheduler's own state covers only what has been read.
Nothing is preempted or freed here: the step in flight may need it.
"""

from collections.abc import Iterable

from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.outputs import SchedulerOutput
from engine_service.core.request import Sequence
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.scheduler_output_builder import SchedulerOutputBuilder


def schedule_running_ahead(
    builder: SchedulerOutputBuilder,
    running: Iterable[Sequence],
    in_flight: SchedulerOutput,
    kv_cache_manager: KVCacheManager,
    limits: SchedulerLimits,
) -> bool:
    """Adds what the running sequences can compute next; False if the step should not be taken.

    That is if the pool is too small for it, or if at least as many sequences have to wait for their
    pending token as can continue: each step takes time, so those that wait would lose more than the
    others gain. Blocks that were allocated stay with their sequences.
    """
    scheduled = {part.seq_id: part for part in in_flight.scheduled}
    decodes: list[tuple[Sequence, int, int, bool]] = []
    prefills: list[tuple[Sequence, int, int, bool]] = []
    num_left_out = 0
    for seq in running:
        part = scheduled.get(seq.seq_id)
        num_in_flight = 0 if part is None else len(part.token_ids)
        pending = part is not None and bool(part.sample_indexes)
        if pending and _ends_with_next(seq, limits):
            continue
        if pending and _needs_known_tokens(seq):
            num_left_out += 1
            continue
        num_uncomputed = seq.num_uncomputed_tokens + pending - num_in_flight
        if num_uncomputed == 1:
            decodes.append((seq, 1, num_in_flight, pending))
        elif num_uncomputed:
            prefills.append((seq, num_uncomputed, num_in_flight, pending))
    if 0 < num_left_out >= len(decodes) + len(prefills):
        return False
    for seq, num_uncomputed, num_in_flight, pending in (*decodes, *prefills):
        num_new_tokens = min(num_uncomputed, builder.token_budget)
        if not num_new_tokens:
            break
        if not kv_cache_manager.allocate_slots(seq, num_in_flight + num_new_tokens):
            return False
        builder.add(seq, num_new_tokens, num_in_flight, pending)
    return True


def _ends_with_next(seq: Sequence, limits: SchedulerLimits) -> bool:
    """Whether a sequence is certain to end with the next token, whatever it is."""
    max_tokens = seq.request.sampling_params.max_tokens
    if max_tokens is not None and seq.num_output_tokens + 1 >= max_tokens:
        return True
    return seq.num_tokens + 1 >= limits.max_model_len


def _needs_known_tokens(seq: Sequence) -> bool:
    """Whether its next step needs more of the pending token than its KV.

    So does the first sequence of several, which fork from it once that token is known.
    """
    return seq.matcher is not None or seq.group.looks_back or not seq.group.forked
