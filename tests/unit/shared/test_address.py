"""check_address: what is an address, and what to type instead of what is none."""

import pytest

from folovllm.errors import ConfigError
from folovllm.serving.address import DEFAULT_ENGINE_PORT, check_address


@pytest.mark.parametrize(
    "address",
    [
        "localhost:50051",
        "127.0.0.1:1",
        "tokenizer_1.example.com:65535",
        "[::1]:50051",
        "[fe80::1%eth0]:50051",
        "unix:/run/folovllm.sock",
        "unix:///run/folovllm.sock",
        "dns:llm:50051",
        "dns:///llm:50051",
        "dns://8.8.8.8/llm:50051",
        "ipv4:10.0.0.1:50051,10.0.0.2:50051",
    ],
)
def test_addresses_are_returned_as_they_are(address: str) -> None:
    assert check_address(address, "--server") == address


@pytest.mark.parametrize(
    ("address", "fault", "advice"),
    [
        ("http://localhost:50051", "begins with http://", "localhost:50051"),
        ("https://llm.example.com/v1", "begins with https://", "llm.example.com:50051"),
        ("localhost", "has no port", "localhost:50051"),
        ("localhost:", "has no port", "localhost:50051"),
        ("dns:///llm", "has no port", "llm:50051"),
        ("50052", "has no port", "localhost:50052"),
        (":50052", "has no host", "localhost:50052"),
        ("", "is no address", "localhost:50051"),
        ("llm:99999", "has the port '99999'", "llm:50051"),
        ("llm:0", "has the port '0'", "llm:50051"),
        ("llm:abc", "has the port 'abc'", "llm:50051"),
        ("llm:٣", "has the port", "llm:50051"),
        ("llm:50052/v1", "has a path, '/v1'", "llm:50052"),
        ("my llm:50052", "has an invalid host, 'my llm'", "localhost:50052"),
        ("[llm]:50052", "has an invalid host, '[llm]'", "localhost:50052"),
        ("::1", "without brackets", "[::1]:50051"),
        ("::1:50052", "without brackets", "[::1]:50052"),
        ("[::1]", "has no port", "[::1]:50051"),
        ("a:b:c", "too many colons", "localhost:50051"),
    ],
)
def test_what_is_wrong_and_what_to_type(address: str, fault: str, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_address(address, "--server")
    message = str(caught.value)
    assert message.startswith(f"--server must be HOST:PORT; {address!r} ")
    assert fault in message
    assert message.endswith(f"; type {advice}")
    assert check_address(advice, "--server") == advice


def test_the_advice_has_the_settings_own_port() -> None:
    with pytest.raises(ConfigError, match="^--engine must be .*; type llm:50052$"):
        check_address("llm", "--engine", DEFAULT_ENGINE_PORT)


def test_an_address_is_a_text() -> None:
    with pytest.raises(ConfigError, match="address must be a text such as localhost:50051, got 17"):
        check_address(17, "address")  # type: ignore[arg-type]
