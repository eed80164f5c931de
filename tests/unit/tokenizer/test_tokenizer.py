import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers
from tokenizers.processors import TemplateProcessing

from folovllm.errors import ConfigError, InvalidRequestError
from support.builders.sample_tokenizers import (
    EOS,
    QWEN3,
    THINK,
    byte_tokenizer,
    needs_qwen3,
    save_byte_tokenizer,
)
from tokenizer_service.text.tokenizer import Tokenizer, check_token_ids


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(byte_tokenizer())


def test_encodes_with_merges_and_decodes_back(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("hello world")
    assert token_ids == [259, 260, *b"orld"]
    assert tokenizer.decode(token_ids) == "hello world"


def test_decodes_one_id_and_arrays(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(ord("h")) == "h"
    assert tokenizer.decode(np.array([*b"hey"])) == tokenizer.decode(b"hey") == "hey"
    with pytest.raises(InvalidRequestError, match="token id -1"):
        tokenizer.decode(np.array([-1]))


def test_special_tokens_are_left_out_unless_asked_for(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode(f"hello{EOS}{THINK}")
    assert tokenizer.decode(token_ids) == f"hello{THINK}"
    assert tokenizer.decode(token_ids, skip_special_tokens=False) == f"hello{EOS}{THINK}"
    assert tokenizer.special_ids == {261, 262}


def test_vocab_size_is_the_highest_id_plus_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 264
    assert tokenizer.decode([263]) == THINK
    assert Tokenizer(tokenizers.Tokenizer(models.BPE())).vocab_size == 0


@pytest.mark.parametrize("known", [0, 104])
@pytest.mark.parametrize("token_id", [264, 2**32, -1])
def test_an_unknown_id_is_named(tokenizer: Tokenizer, token_id: int, known: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"token id {token_id} is not in the") as caught:
        tokenizer.decode([known, token_id])
    assert caught.value.field == "token_ids"


def test_the_lowest_and_the_highest_id_are_known(tokenizer: Tokenizer) -> None:
    check_token_ids([0], tokenizer.vocab_size)
    check_token_ids([tokenizer.vocab_size - 1], tokenizer.vocab_size)


def test_ids_of_the_model_alone_have_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode_known([*b"a", 290, *b"b"]) == "ab"


def test_tokens_that_are_put_around_a_text_stand_nowhere_in_it() -> None:
    backend = byte_tokenizer()
    special_tokens = [(EOS, 261), ("<|im_end|>", 262)]
    backend.post_processor = TemplateProcessing(
        single=f"<|im_end|> $A {EOS}", special_tokens=special_tokens
    )
    tokenizer = Tokenizer(backend)
    (tokens,) = tokenizer.encode_with_offsets([f"hello{EOS}é"])
    assert tokens.token_ids == tokenizer.encode(f"hello{EOS}é") == [262, 259, 261, 0xC3, 0xA9, 261]
    assert tokens.between(0, 6) == ([0, 0, 5, 18, 18, 0], [0, 5, 18, 19, 19, 0])
    (bare,) = tokenizer.encode_with_offsets(["a"], add_special_tokens=False)
    assert (bare.token_ids, bare.between(0, 1)) == ([ord("a")], ([0], [1]))


def test_offsets_are_places_in_the_text_before_it_was_normalized() -> None:
    backend = byte_tokenizer()
    backend.normalizer = normalizers.NFC()
    tokenizer = Tokenizer(backend)
    (tokens,) = tokenizer.encode_with_offsets(["xe\u0301y"])
    assert b"".join(tokenizer.pieces(tokens.token_ids)) == "xéy".encode()
    # The library counts a composed character at the first of its code points.
    assert tokens.between(0, 4) == ([0, 1, 1, 3], [1, 2, 2, 4])
    assert tokens.between(2, 3) == ([1], [2])


def test_pieces_of_other_tokenizers_are_the_text_of_each_token() -> None:
    backend = byte_tokenizer()
    backend.decoder = decoders.Replace("Ġ", " ")
    assert Tokenizer(backend).pieces([259, 260, 261]) == [b"hello", b" w", EOS.encode()]


def test_nothing_is_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
    check_token_ids([], 0)


def test_invalid_bytes_come_as_replacement_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([0xFF, *b"a", 0xF0, 0x9F]) == "\ufffda\ufffd"


def test_long_inputs_take_the_same_way_as_short_ones(tokenizer: Tokenizer) -> None:
    text = "hello wörld " * 1000
    token_ids = tokenizer.encode(text)
    assert token_ids == tokenizer.encode("hello wörld ") * 1000
    assert tokenizer.decode(token_ids) == text


def test_encoding_a_long_text_lets_other_threads_run(tokenizer: Tokenizer) -> None:
    # While the lock is held, no other thread can see that the encoding one has not ended.
    started, seen = threading.Event(), []

    def encode() -> None:
        started.set()
        tokenizer.encode("hello world, " * 100_000)

    thread = threading.Thread(target=encode)
    thread.start()
    started.wait()
    while thread.is_alive():
        seen.append(thread.is_alive())
        thread.join(0.001)
    assert len(seen) > 5


def test_settings_for_training_do_not_cut_prompts() -> None:
    backend = byte_tokenizer()
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    assert len(Tokenizer(backend).encode("abcdefgh")) == 8
    assert len(Tokenizer(backend).encode("a")) == 1


def test_from_folder_knows_its_fingerprint(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(save_byte_tokenizer(tmp_path))
    content = (tmp_path / "tokenizer.json").read_bytes()
    assert tokenizer.fingerprint == hashlib.sha256(content).hexdigest()
    assert tokenizer.encode("hello") == [259]
    assert tokenizer.files == (tmp_path / "tokenizer.json",)


def test_a_folder_without_a_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", json.dumps({"model": {"type": "nothing"}}), ""])
def test_a_broken_tokenizer_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match="cannot be read as a tokenizer") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


@needs_qwen3
def test_qwen3_encodes_as_published() -> None:
    tokenizer = Tokenizer.from_folder(QWEN3)
    assert tokenizer.encode("Hello world") == [9707, 1879]
    assert tokenizer.encode("<|im_end|>") == [151645]
    assert tokenizer.decode([151645], skip_special_tokens=False) == "<|im_end|>"
    assert tokenizer.vocab_size == 151669
