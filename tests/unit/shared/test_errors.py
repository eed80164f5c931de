import grpc
import pytest

from folovllm import errors
from folovllm.errors import DETAILS_KEY, FolovError, InvalidRequestError, QueueFullError

SIMPLE = [
    errors.NotFoundError,
    errors.UnsupportedError,
    errors.DeadlineError,
    errors.CancelledRequestError,
    errors.UnavailableError,
    errors.ModelMismatchError,
    errors.ServerError,
]


def there_and_back(error: FolovError) -> FolovError:
    status = errors.to_status(error)
    metadata = ((DETAILS_KEY, status.SerializeToString()),)
    return errors.from_status(errors.status_code(error), status.message, metadata)


@pytest.mark.parametrize("cls", SIMPLE)
def test_an_error_comes_back_as_its_own_class(cls: type[FolovError]) -> None:
    back = there_and_back(cls("why"))
    assert type(back) is cls and str(back) == "why"


@pytest.mark.parametrize("cls", SIMPLE)
def test_an_error_comes_out_of_a_message_as_its_own_class(cls: type[FolovError]) -> None:
    back = errors.from_status_bytes(errors.to_status(cls("why")).SerializeToString())
    assert type(back) is cls and str(back) == "why"


def test_details_come_out_of_a_message() -> None:
    full = errors.to_status(QueueFullError("full", retry_after=2.5)).SerializeToString()
    back = errors.from_status_bytes(full)
    assert isinstance(back, QueueFullError) and back.retry_after == 2.5
    invalid = errors.to_status(InvalidRequestError("prompt", "empty")).SerializeToString()
    again = errors.from_status_bytes(invalid)
    assert isinstance(again, InvalidRequestError) and again.field == "prompt"


def test_details_come_back() -> None:
    invalid = there_and_back(InvalidRequestError("sampling_params.top_p", "top_p is odd"))
    assert isinstance(invalid, InvalidRequestError) and invalid.field == "sampling_params.top_p"
    full = there_and_back(QueueFullError("full", retry_after=2.5))
    assert isinstance(full, QueueFullError) and full.retry_after == 2.5


def test_a_dead_engine_is_unavailable() -> None:
    assert errors.status_code(errors.EngineDeadError("x")) is grpc.StatusCode.UNAVAILABLE


def test_a_refusal_tells_grpc_when_to_retry() -> None:
    metadata = dict(errors.trailing_metadata(QueueFullError("full", retry_after=2.5001)))
    assert metadata["grpc-retry-pushback-ms"] == "2501"  # not sooner
    assert "grpc-retry-pushback-ms" not in dict(errors.trailing_metadata(errors.ServerError("x")))


def test_what_is_known_of_a_failure_comes_back() -> None:
    blamed = there_and_back(errors.RequestFailedError("NaN", "a"))
    assert isinstance(blamed, errors.RequestFailedError) and blamed.request_id == "a"
    assert errors.status_code(blamed) is grpc.StatusCode.INTERNAL
    for scheduled in (False, True):
        dead = there_and_back(errors.EngineDeadError("gone", scheduled))
        assert isinstance(dead, errors.EngineDeadError) and dead.scheduled is scheduled


def test_foreign_codes_and_missing_details_have_an_error_too() -> None:
    assert type(errors.from_status(grpc.StatusCode.DATA_LOSS, "x")) is errors.ServerError
    invalid = errors.from_status(grpc.StatusCode.INVALID_ARGUMENT, "x")
    assert isinstance(invalid, InvalidRequestError) and invalid.field == ""
    full = errors.from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "x")
    assert isinstance(full, QueueFullError) and full.retry_after == 1.0


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (errors.RequestFailedError("NaN", "r"), True),
        (errors.RequestLostError("gone"), True),
        (errors.EngineDeadError("gone"), False),
        (errors.ServerError("a bug"), False),
        (QueueFullError("full"), False),
    ],
)
def test_what_is_not_to_be_retried_says_so(error: FolovError, final: bool) -> None:
    metadata = errors.trailing_metadata(error)
    assert (("grpc-retry-pushback-ms", "-1") in metadata) is final
    back = errors.from_status(errors.status_code(error), str(error), metadata)
    assert type(back) is type(error) and str(back) == str(error)
