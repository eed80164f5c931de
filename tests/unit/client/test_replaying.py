"""`folovllm replay` with a model that can be told what to answer."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from folovllm.errors import ConfigError, UnavailableError
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput, FinishReason
from folovllm.records.record import Ending, Origin, Record
from folovllm_client.cli.replay.replaying import check_file, replay
from folovllm_client.cli.replay.report import ReplayReport, Verdict
from folovllm_client.cli.replay.runner import Rerun
from support.builders.records import record, recorded


class FakeRunner:
    """Answers with the recorded tokens, but for those that are planted at (line, index)."""

    place = "here"

    def __init__(self, *planted: tuple[int, int, list[int]], **info: Any) -> None:
        self.info = ModelInfo(
            **{
                "model_id": "demo",
                "vocab_size": 100,
                "max_model_len": 16,
                "model_fingerprint": "m",
                "tokenizer_fingerprint": "t",
                "numerics_fingerprint": "n",
                **info,
            }
        )
        self._planted = {(line, index): ids for line, index, ids in planted}
        self.logprobs = {7: -0.25, 8: -1.0}
        self.refused = ""

    def run(self, records: Iterator[tuple[int, Record]]) -> Iterator[Rerun]:
        for line, each in records:
            outputs = [
                CompletionOutput(
                    index=one.index,
                    token_ids=self._planted.get((line, one.index), [*one.token_ids]),
                    logprobs=[
                        PositionLogprobs(Logprob(0, value + 0.125, 1), ()) for value in one.logprobs
                    ],
                    finish_reason=FinishReason.LENGTH,
                )
                for one in each.outputs
            ]
            yield Rerun(line, each, outputs)

    def score(self, prefix: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        self.prefix = [*prefix]
        if not self.logprobs:
            raise UnavailableError("gone")
        return [self.logprobs[each] for each in token_ids]

    def can_run(self, record: Record) -> str:
        return self.refused if record.request_id == "refused" else ""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def replayed(file: Path, runner: FakeRunner, *records: Record) -> ReplayReport:
    file.write_text("".join(each.to_line() for each in records))
    summary = check_file(file, runner)
    verdicts: list[Verdict] = []
    report = replay(file, runner, summary, verdicts.append)
    assert report.verdicts == verdicts and len(verdicts) == summary.num_records
    return report


def test_equal_tokens_pass(file: Path) -> None:
    report = replayed(file, FakeRunner(), record(), record(recorded(1), recorded(2, index=1)))
    assert report.passed and not report.rows()
    assert report.summary == "2 requests equal, 5 tokens"


def test_the_first_other_token_is_told_with_its_nats(file: Path) -> None:
    runner = FakeRunner((2, 1, [7, 7]))
    report = replayed(file, runner, record(), record(recorded(1), recorded(7, 8, index=1)))
    assert not report.passed
    assert report.summary == "1 of 2 requests differ"
    assert report.rows() == [
        ["line", "request", "index", "position", "recorded", "now", "nats", ""],
        ["2", "r", "1", "1", "8", "7", "0.7500", ""],
    ]
    assert runner.prefix == [1, 2, 7]
    whole = json.loads(json.dumps(report.as_dict()))
    assert (whole["num_requests"], whole["num_differing"], whole["passed"]) == (2, 1, False)
    (found,) = whole["requests"][1]["differences"]
    assert (found["recorded_id"], found["found_id"], found["nats"]) == (8, 7, 0.75)


def test_what_is_appended_meanwhile_does_not_count(file: Path) -> None:
    file.write_text(record().to_line())
    runner = FakeRunner()
    summary = check_file(file, runner)
    file.write_text(record().to_line() * 2)
    assert len(replay(file, runner, summary, lambda _: None).verdicts) == 1


def test_an_early_end_is_a_difference(file: Path) -> None:
    report = replayed(file, FakeRunner((1, 0, [7])), record(recorded(7, 8, ending=Ending.ABORT)))
    assert report.rows()[1][2:] == ["0", "1", "8", "-", "-", "ended: abort, now: length"]


def test_a_difference_counts_though_it_cannot_be_scored(file: Path) -> None:
    runner = FakeRunner((1, 0, [8]))
    runner.logprobs = {}
    assert replayed(file, runner, record(recorded(7))).rows()[1][4:7] == ["7", "8", "-"]


def test_log_probabilities_are_told_but_do_not_fail(file: Path) -> None:
    report = replayed(file, FakeRunner(), record(recorded(7, logprobs=[-0.5])))
    assert report.passed
    assert report.summary.endswith("; log-probabilities differ by up to 0.125 nats")


def test_what_cannot_run_exactly_here_is_no_pass(file: Path) -> None:
    runner = FakeRunner()
    runner.refused = "its parent is missing"
    report = replayed(file, runner, record(), record(request_id="refused"))
    assert report.rows()[1] == ["2", "refused", *"-----", "its parent is missing"]
    assert (report.summary, report.passed) == ("1 of 2 requests could not run", False)


def test_other_numerics_are_told_first(file: Path) -> None:
    def said(recorded_by: Origin, **info: str) -> str:
        return replayed(file, FakeRunner(**info), record(origin=recorded_by)).numerics

    same = Origin(model_fingerprint="m", tokenizer_fingerprint="t", numerics_fingerprint="n")
    other = Origin(model_fingerprint="m", tokenizer_fingerprint="t", numerics_fingerprint="x")
    unknown = Origin(model_fingerprint="m", tokenizer_fingerprint="t")
    weights = "other weights (none, here w)"
    assert said(same) == "same numerics as recorded: every token must be equal"
    assert said(other) == "tokens may differ: 1 of 1 requests: other numerics (x, here n)"
    assert said(same, weights_fingerprint="w") == f"tokens may differ: 1 of 1 requests: {weights}"
    assert said(unknown).endswith("recorded where results are not reproducible")
    not_here = "results here are not reproducible: tokens may differ"
    assert said(unknown, numerics_fingerprint="") == not_here


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (
            record(origin=Origin("old", model_fingerprint="o", tokenizer_fingerprint="t")),
            "is of another model: o of old, here it is m of demo",
        ),
        (
            record(origin=Origin(model_fingerprint="m")),
            "is of another tokenizer: none of an unknown model, here it is t of demo",
        ),
        (record(recorded(*[1] * 15)), "has 17 tokens; the model here takes at most 16"),
        (record(recorded(100)), "has token id 100; the model here has 100 tokens"),
    ],
)
def test_what_is_not_for_this_model_is_told_before_anything_runs(
    file: Path, wrong: Record, problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        replayed(file, FakeRunner(), record(), wrong)
    assert str(raised.value) == f"{file}, line 2 {problem}"
