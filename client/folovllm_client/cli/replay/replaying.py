"""Replaying: a file is checked as a whole, then each of its requests runs again."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from folovllm.errors import FolovError
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput
from folovllm.records.comparison import (
    Difference,
    first_difference,
    largest_logprob_difference,
)
from folovllm.records.reading import RecordSummary, check_records, read_records
from folovllm.records.record import Ending, Origin, Record, RecordKind
from folovllm_client.cli.replay.report import FoundDifference, ReplayReport, Verdict
from folovllm_client.cli.replay.runner import Rerun, Runner, can_be_scored

_SHOWN_DIGITS = 12


def check_file(file: Path, runner: Runner) -> RecordSummary:
    """Raises ConfigError that names the first line which cannot be replayed at all."""
    return check_records(file, partial(_problem, info=runner.info))


def numerics_of(summary: RecordSummary, info: ModelInfo) -> str:
    """What is to be expected of the tokens, in words."""
    here = _kind(info)
    counts = {_kind_of(origin): 0 for origin in summary.origins}
    for origin, count in summary.origins.items():
        counts[_kind_of(origin)] += count
    others = {kind: count for kind, count in counts.items() if kind != here or not kind[1]}
    if not others:
        return "same numerics as recorded: every token must be equal"
    if not here[1]:
        return "results here are not reproducible: tokens may differ"
    reasons = "; ".join(
        f"{count:,} of {summary.num_records:,} requests: {_why(kind, here)}"
        for kind, count in others.items()
    )
    return f"tokens may differ: {reasons}"


def replay(
    file: Path, runner: Runner, summary: RecordSummary, on_done: Callable[[Verdict], None]
) -> ReplayReport:
    """Runs every request of a checked file again. Raises FolovError if nothing can run."""
    report = ReplayReport(str(file), runner.place, numerics_of(summary, runner.info))
    # The server that is asked may record to the same file.
    checked = islice(read_records(file), summary.num_records)

    def add(verdict: Verdict) -> None:
        report.verdicts.append(verdict)
        on_done(verdict)

    for rerun in runner.run(_runnable(checked, runner, add)):
        add(_verdict(rerun, runner))
    return report


def _runnable(
    records: Iterable[tuple[int, Record]], runner: Runner, refuse: Callable[[Verdict], None]
) -> Iterator[tuple[int, Record]]:
    for line, record in records:
        if problem := runner.can_run(record):
            refuse(Verdict(line, _name(record), record.num_tokens, problem=problem))
        else:
            yield line, record


def _problem(record: Record, info: ModelInfo) -> str:
    """Why a record is not for this model, or an empty text."""
    origin = record.origin
    for name in ("model", "tokenizer"):
        recorded = getattr(origin, f"{name}_fingerprint")
        here = getattr(info, f"{name}_fingerprint")
        if recorded != here:
            return (
                f"is of another {name}: {_short(recorded)} of "
                f"{origin.model_id or 'an unknown model'}, here it is {_short(here)} of "
                f"{info.model_id}"
            )
    if record.length > info.max_model_len:
        return f"has {record.length} tokens; the model here takes at most {info.max_model_len}"
    ids = (record.prompt_token_ids, *(each.token_ids for each in record.outputs))
    largest = max(max(each, default=0) for each in ids)
    if largest >= info.vocab_size:
        return f"has token id {largest}; the model here has {info.vocab_size} tokens"
    return ""


def _verdict(rerun: Rerun, runner: Runner) -> Verdict:
    line, record = rerun.line, rerun.record
    if rerun.problem:
        return Verdict(line, _name(record), record.num_tokens, problem=rerun.problem)
    differences, logprobs = [], []
    for recorded in record.outputs:
        output = rerun.outputs[recorded.index]
        found = first_difference(recorded, output.token_ids, _ending(output))
        if found is not None:
            differences.append(_in_nats(found, record, runner))
        num_equal = len(recorded.token_ids) if found is None else found.position
        own = [position.token.logprob or 0.0 for position in output.logprobs]
        nats = largest_logprob_difference(recorded, own, num_equal)
        logprobs += [] if nats is None else [nats]
    return Verdict(
        line,
        _name(record),
        record.num_tokens,
        tuple(differences),
        max(logprobs, default=None),
    )


def _name(record: Record) -> str:
    is_branch = record.kind is RecordKind.BRANCH
    return f"{record.request_id}[{record.branch_index}]" if is_branch else record.request_id


def _ending(output: CompletionOutput) -> Ending | None:
    return None if output.finish_reason is None else Ending(output.finish_reason.value)


def _in_nats(difference: Difference, record: Record, runner: Runner) -> FoundDifference:
    """How probable both tokens are after the same prefix, as far as that can be asked."""
    ids = (difference.recorded_id, difference.found_id)
    known = [each for each in ids if each is not None]
    output = next(each for each in record.outputs if each.index == difference.index)
    prefix = [*record.prompt_token_ids, *output.token_ids[: difference.position]]
    if not known or not can_be_scored(prefix, known, runner.info):
        return FoundDifference(difference, None, None)
    try:
        scores = dict(zip(known, runner.score(prefix, known), strict=True))
    except FolovError:  # the difference is what matters
        scores = {}
    one, other = (None if each is None else scores.get(each) for each in ids)
    return FoundDifference(difference, one, other)


def _kind_of(origin: Origin) -> tuple[str, str]:
    return origin.weights_fingerprint, origin.numerics_fingerprint


def _kind(info: ModelInfo) -> tuple[str, str]:
    return info.weights_fingerprint, info.numerics_fingerprint


def _why(recorded: tuple[str, str], here: tuple[str, str]) -> str:
    if recorded[0] != here[0]:
        return f"other weights ({_short(recorded[0])}, here {_short(here[0])})"
    if not recorded[1]:
        return "recorded where results are not reproducible"
    return f"other numerics ({_short(recorded[1])}, here {_short(here[1])})"


def _short(fingerprint: str) -> str:
    return fingerprint[:_SHOWN_DIGITS] or "none"
