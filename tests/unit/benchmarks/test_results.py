"""What benchmarks print, keep and draw."""

from pathlib import Path

import pytest

from benchmarks.cpu.plan import full
from benchmarks.gpu import plan as gpu_plan
from benchmarks.harness.ceilings import Ceilings
from benchmarks.results import report
from benchmarks.results.measurement import Measurement
from benchmarks.results.recorder import Recorder
from benchmarks.results.results import Results, merged
from benchmarks.results.tables import Table, details, matrix, number, targets
from benchmarks.results.targets import TARGETS, comparisons
from folovllm.errors import ConfigError

DECODE = "decode 8 x 128"
RATES = (
    Measurement(DECODE, "folovllm", "tok/s", (180.0, 200.0, 210.0), bound=400.0),
    Measurement(DECODE, "vllm", "tok/s", (100.0,)),
    Measurement(DECODE, "openvino", "tok/s", (160.0,)),
    Measurement(DECODE, "folovllm:int8", "tok/s", (300.0,)),
    Measurement(DECODE, "openvino:int8", "tok/s", (150.0,)),
)


def results(*measurements: Measurement) -> Results:
    return Results(
        benchmark="cpu",
        setting="qwen3-0.6b, 2 threads",
        machine="a machine",
        time="2026-01-01T00:00:00+00:00",
        command="python -m benchmarks cpu",
        ceilings=Ceilings(45e9, 800e9),
        versions={"folovllm": "1"},
        measurements=list(measurements),
    )


def test_medians_spread_and_ratios() -> None:
    ours = Measurement("decode", "ours", "tok/s", (9.0, 10.0, 12.0), bound=20.0)
    peer = Measurement("decode", "peer", "tok/s", (5.0,))

    assert (ours.median, ours.spread, ours.of_bound) == (10.0, 0.15, 0.5)
    assert ours.speed_over(peer) == 2.0
    slow = Measurement("step", "ours", "ms", (30.0,), bound=15.0)
    assert slow.of_bound == 0.5
    assert slow.speed_over(Measurement("step", "peer", "ms", (60.0,))) == 2.0


def test_every_engine_stands_beside_ours_in_its_format_and_the_best_peer_is_marked() -> None:
    rows = details([*RATES, Measurement("step", "folovllm", "ms", (1.0,))]).rows

    assert rows == [
        (DECODE, "folovllm", "200", "tok/s", "8", "50%", ""),
        ("", "vllm", "100", "tok/s", "0", "", "2.00"),
        ("", "openvino *", "160", "tok/s", "0", "", "1.25"),
        ("", "folovllm:int8", "300", "tok/s", "0", "", ""),
        ("", "openvino:int8 *", "150", "tok/s", "0", "", "2.00"),
        ("step", "folovllm", "1.00", "ms", "0", "", ""),
    ]


def test_the_matrix_has_class_after_class() -> None:
    table = matrix([*RATES[:3:2], RATES[4], RATES[1], Measurement("x", "vllm", "tok/s", (1.0,))])

    assert table.head == ("tok/s", DECODE, "x")
    assert table.rows == [
        ("folovllm", "200 ± 8%", ""),
        ("openvino", "160 ± 0%", ""),
        ("vllm", "100 ± 0%", "1.00 ± 0%"),
        ("openvino:int8", "150 ± 0%", ""),
    ]


def test_targets_compare_with_the_best_of_the_class() -> None:
    assert targets("cpu", RATES).rows == [
        (DECODE, "folovllm", "200", "openvino", "160", "1.25", "1.10", "1.50"),
        (DECODE, "folovllm:int8", "300", "openvino:int8", "150", "2.00", "1.40", "2.00"),
    ]


def test_targets_compare_with_a_bound_and_with_another_engine() -> None:
    found = comparisons(
        "cpu",
        [
            Measurement("decode 8 x 4096", "folovllm", "tok/s", (20.0,), bound=40.0),
            Measurement("throughput 32 x 16", "services", "tok/s", (99.0,)),
            Measurement("throughput 32 x 16", "folovllm", "tok/s", (110.0,)),
        ],
    )

    assert [ours.speed_over(rival) for _, ours, rival in found] == [0.5, 0.9]
    assert comparisons("services", RATES) == []


def test_targets_are_of_cases_that_are_measured() -> None:
    cpu, gpu = full(rate=1.0, turns=3), gpu_plan.full()

    assert {target.case for target in TARGETS["cpu"]} <= {
        case.name for case in (*cpu.cases, *cpu.served)
    }
    assert {target.case for target in TARGETS["gpu"]} <= {case.name for case in gpu.cases}
    assert {target.rival for target in TARGETS["gpu"]} <= {*gpu.peer_cases, "bound", "graph-replay"}


def test_tables_for_a_terminal_and_a_document() -> None:
    table = Table(("case", "n"), [("a", "1"), ("longer", "22")], num_words=1)

    assert table.text() == "case     n\na        1\nlonger  22"
    assert table.markdown().splitlines() == [
        "| case | n |",
        "| --- | ---: |",
        "| a | 1 |",
        "| longer | 22 |",
    ]
    assert [number(each) for each in (1234.5, 12.34, 0.125)] == ["1,234", "12.3", "0.12"]


def test_results_are_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results(*RATES).save(path)

    assert Results.load(path) == results(*RATES)


@pytest.mark.parametrize("content", ["{", "{}", "[]", None])
def test_other_files_are_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match="holds no results"):
        Results.load(path)


def test_the_last_of_several_runs_counts() -> None:
    again = Measurement(DECODE, "vllm", "tok/s", (120.0,))

    assert merged([results(*RATES), results(again)]) == [RATES[0], again, *RATES[2:]]


def test_what_failed_says_why_and_has_no_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    recorder = Recorder("gpu", "demo", path)

    recorder.add([RATES[1], Measurement.failed("prefill 1", "folovllm", "ended")])
    recorder.add_values("first token", "ms", [1.0, 2.0])
    recorder.finish()

    assert Results.load(path) == recorder.results
    printed = capsys.readouterr()
    assert "decode 8 x 128, vllm: 100 tok/s" in printed.err
    table, note = printed.out.strip().rsplit("\n\n", 1)
    assert note == "prefill 1, folovllm: ended"
    assert "prefill" not in table and "first token" in table


def test_a_report_of_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "bf16.json", tmp_path / "int8.json"]
    results(*RATES[:3]).save(files[0])
    results(*RATES[3:]).save(files[1])

    report.main(list(map(str, files)))
    text = capsys.readouterr().out
    report.main([*map(str, files), "--markdown"])
    document = capsys.readouterr().out

    assert text.count("qwen3-0.6b, 2 threads; a machine") == 2
    assert "openvino:int8 *" in text
    assert "| openvino:int8 | 150 ± 0% |" in document
    with pytest.raises(SystemExit, match="holds no results"):
        report.main([str(tmp_path / "none")])


def test_a_plot_has_a_panel_for_each_case(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    files = [tmp_path / "results.json"]
    results(*RATES, Measurement("x", "vllm", "tok/s", (1.0,))).save(files[0])

    report.main([str(files[0]), "--plot", str(path)])

    assert path.read_bytes().startswith(b"\x89PNG")
