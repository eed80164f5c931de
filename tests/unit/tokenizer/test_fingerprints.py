"""Which engines have this service's model."""

import pytest

from folovllm.v1 import types_pb2
from tokenizer_service.engines.fingerprints import Fingerprints


def info(tokenizer: str, chat_template: str) -> types_pb2.ModelInfo:
    return types_pb2.ModelInfo(
        tokenizer_fingerprint=tokenizer, chat_template_fingerprint=chat_template
    )


@pytest.mark.parametrize("chat_template", ["", "c"])
def test_the_same_model_matches(chat_template: str) -> None:
    assert Fingerprints("t", chat_template).mismatch(info("t", chat_template)) == ""


@pytest.mark.parametrize(
    ("own", "other", "differences"),
    [
        (("t", "c"), ("u", "c"), ["tokenizer's fingerprint is u, this service's is t"]),
        (("t", "c"), ("t", ""), ["chat template's fingerprint is missing, this service's is c"]),
        (("", "c"), ("", "c"), ["tokenizer's fingerprint is missing"]),
        (("t", "c"), ("u", "d"), ["tokenizer's", "chat template's fingerprint is d"]),
    ],
)
def test_what_differs_is_said(
    own: tuple[str, str], other: tuple[str, str], differences: list[str]
) -> None:
    told = Fingerprints(*own).mismatch(info(*other))
    assert told.count("its ") == len(differences)
    assert all(difference in told for difference in differences)
