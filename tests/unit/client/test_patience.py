"""How long a refused request comes again."""

import pytest

from folovllm.errors import QueueFullError
from folovllm_client.api.calls import patience
from folovllm_client.api.calls.patience import Patience


def refusal(seconds: float) -> QueueFullError:
    return QueueFullError("full", retry_after=seconds)


def test_all_attempts_have_one_deadline_together() -> None:
    now = 100.0
    patient = Patience(10.0, lambda: now)
    assert patient.seconds_left == 10
    now = 101.0
    assert patient.delay(refusal(2.0)) == 2
    assert patient.seconds_left == 7
    now = 104.0
    with pytest.raises(QueueFullError) as last:
        patient.delay(refusal(6.5))
    assert last.value.retry_after == 6.5


def test_without_a_deadline_there_are_so_many_attempts() -> None:
    patient = Patience(None)
    for _ in range(patience._MAX_ATTEMPTS - 1):
        assert patient.delay(refusal(60.0)) == 60 and patient.seconds_left is None
    with pytest.raises(QueueFullError):
        patient.delay(refusal(60.0))
