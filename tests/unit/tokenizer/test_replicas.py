"""What the engines in use have in common."""

from tempfile import TemporaryFile

from tokenizer_service.engines.replicas import Replicas


def test_the_first_engine_decides() -> None:
    replicas = Replicas()
    assert not replicas.has_keepers
    assert replicas.mismatch("a", "x") == ""
    assert replicas.has_keepers
    assert replicas.mismatch("b", "x") == ""
    refused = replicas.mismatch("c", "y")
    assert refused.endswith("its replica fingerprint is y, that of a and b is x")
    assert "is missing" in replicas.mismatch("c", "")


def test_they_serve_something_else_once_none_is_left_that_serves_it() -> None:
    replicas = Replicas()
    for address in "ab":
        assert not replicas.mismatch(address, "x")
    assert replicas.mismatch("a", "y")  # while b may come back
    assert replicas.mismatch("b", "z") == ""
    assert replicas.fingerprint == "z"
    assert replicas.mismatch("a", "y") and not replicas.mismatch("a", "z")
    for address in "ab":
        replicas.forget(address)
    assert not replicas.has_keepers and replicas.mismatch("c", "w") == ""


def test_processes_decide_alike() -> None:
    with TemporaryFile(buffering=0) as file:
        first, second = (Replicas(shared=file.fileno()) for _ in range(2))
        check_both(first, second)


def check_both(first: Replicas, second: Replicas) -> None:
    assert first.mismatch("a", "x") == ""
    for _ in range(2):
        refused = second.mismatch("b", "y")
        assert refused.endswith("is y, that of the engines in use is x")
    assert second.mismatch("a", "x") == ""
    # Whoever meets the new one first decides.
    assert second.mismatch("a", "z") == ""
    assert first.mismatch("a", "z") == ""
    assert first.mismatch("b", "y") and second.mismatch("b", "y")


def test_what_is_expected_stays() -> None:
    replicas = Replicas("x")
    assert not replicas.has_keepers and replicas.fingerprint == "x"
    for _ in range(2):
        assert "the one of --expect-fingerprint is x" in replicas.mismatch("a", "y")
    assert replicas.mismatch("a", "x") == ""
