"""Async scheduling: what the running sequences can go on with while a step of theirs is in flight.

A sequence in flight counts as advanced by what the step computes of it, and by one token if the
step draws one; that token is *pending*. The scheduler's own state stays at what has been read.
Nothing is preempted or freed here: the step in flight may need it.
"""

from collections.abc import Iterable

from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.outputs import SchedulerOutput
from engine_service.core.request import Sequence
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.step_plan import StepPlan


def plan_ahead(
    plan: StepPlan,
    running: Iterable[Sequence],
    in_flight: SchedulerOutput,
    kv_cache_manager: KVCacheManager,
    limits: SchedulerLimits,
) -> bool:
    """Plans what the running sequences can go on with; False where the step should not be made.

    That is where the pool is too small for it, or where at least as many sequences have to sit it
    out until their pending token is known as can go on: each step takes its time, so those who sit
    out would lose more than the others gain. Blocks that were allocated stay with their sequences,
    for the next plan.
    """
    parts = {part.seq_id: part for part in in_flight.scheduled}
    decodes: list[tuple[Sequence, int, int, bool]] = []
    prefills: list[tuple[Sequence, int, int, bool]] = []
    num_sitting_out = 0
    for seq in running:
        part = parts.get(seq.seq_id)
        num_in_flight = 0 if part is None else len(part.token_ids)
        pending = part is not None and bool(part.sample_indexes)
        if pending and _ends_with_next(seq, limits):
            continue
        if pending and _needs_known_tokens(seq):
            num_sitting_out += 1
            continue
        num_left = len(seq.token_ids) + pending - seq.num_computed_tokens - num_in_flight
        if num_left == 1:
            decodes.append((seq, 1, num_in_flight, pending))
        elif num_left:
            prefills.append((seq, num_left, num_in_flight, pending))
    if 0 < num_sitting_out >= len(decodes) + len(prefills):
        return False
    for seq, num_left, num_in_flight, pending in (*decodes, *prefills):
        num_new_tokens = min(num_left, plan.budget)
        if not num_new_tokens:
            break
        if not kv_cache_manager.allocate_slots(seq, num_in_flight + num_new_tokens):
            return False
        plan.add(seq, num_new_tokens, num_in_flight, pending)
    return True


def _ends_with_next(seq: Sequence, limits: SchedulerLimits) -> bool:
    """Whether a sequence is certain to end with the next token, whatever that is."""
    max_tokens = seq.request.sampling_params.max_tokens
    if max_tokens is not None and seq.num_output_tokens + 1 >= max_tokens:
        return True
    return len(seq.token_ids) + 1 >= limits.max_model_len


def _needs_known_tokens(seq: Sequence) -> bool:
    """Whether a step of it takes more of the tokens before than their KV.

    So does the first of a request of several sequences, which fork from it once that is read.
    """
    request = seq.request
    return seq.matcher is not None or request.looks_back or not request.forked
