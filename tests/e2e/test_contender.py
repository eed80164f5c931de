"""Engines under measurement, as the CPU benchmark runs them."""

import os
from pathlib import Path

import psutil
import pytest

from benchmarks.harness.engine_name import EngineName
from benchmarks.harness.open_loop import Load
from benchmarks.peers.contender import ROOT, Contender, ContenderError, open_contenders
from benchmarks.peers.peer import PeerConfig
from folovllm.model_files import DEMO_MODEL

VOCAB_SIZE = 2048


def _config(model: Path) -> PeerConfig:
    return PeerConfig(
        model=str(model),
        weight_format="bf16",
        cache="",
        threads=1,
        max_num_seqs=4,
        max_model_len=64,
        kv_tokens=256,
    )


def wait_stopped(contender: Contender) -> None:
    """Returns when the process does not run; the test's own time limit is the longest wait."""
    while psutil.Process(contender.pid).status() != psutil.STATUS_STOPPED:
        os.sched_yield()


@pytest.mark.parametrize("name", ["folovllm", "services"])
def test_our_engine_answers_batches_and_an_open_loop(name: str) -> None:
    arrivals = Load(100.0, 3, (2, 8), (1, 4)).arrivals(0, VOCAB_SIZE)

    with Contender(EngineName(name), _config(DEMO_MODEL)) as contender:
        wait_stopped(contender)
        with contender.turn():
            timing = contender.generate([[1, 2, 3], [4, 5]], new_tokens=6)
            times = contender.serve(arrivals)
        wait_stopped(contender)

        # Of so small a model all tokens may come at once.
        assert 0 < timing.prefill_s <= timing.total_s
        assert [len(each) for each in times] == [arrival.new_tokens for arrival in arrivals]
        assert all(each[0] > arrival.time_s for each, arrival in zip(times, arrivals, strict=True))
        assert contender.resident_bytes() > 10_000_000


def test_an_engine_that_cannot_open_says_why(tmp_path: Path) -> None:
    with pytest.raises(ContenderError, match=r"no config\.json"):
        Contender(EngineName("folovllm"), _config(tmp_path))


def test_a_peer_that_cannot_open_is_left_out() -> None:
    said: list[str] = []
    names = [EngineName("vllm")]

    with open_contenders(names, _config(DEMO_MODEL), {}, said.append) as contenders:
        assert contenders == []

    assert said[0].startswith("vllm is left out: vllm ended")
    assert "No module named 'vllm'" in said[0]


def test_an_engine_that_does_not_answer_is_given_up() -> None:
    with Contender(EngineName("folovllm"), _config(DEMO_MODEL)) as contender:
        contender.timeout = 0.01
        with pytest.raises(ContenderError, match="folovllm gave no answer for 0 s"):
            contender.generate([[1]], new_tokens=4)  # it is stopped outside its turns
        contender.close(patience=0.0)


def test_the_code_of_a_checkout_runs_wherever_this_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # whose `benchmarks` Python would find first
    worker = tmp_path / "benchmarks" / "peers" / "worker.py"
    worker.parent.mkdir(parents=True)
    for folder in (worker.parent, worker.parents[1]):
        (folder / "__init__.py").touch()
    worker.write_text("import json\nprint(json.dumps({'version': 'of the checkout'}), flush=True)")

    with Contender(EngineName("folovllm"), _config(DEMO_MODEL), checkout=tmp_path) as contender:
        assert contender.version == "of the checkout"
