"""What each id of a byte-level tokenizer stands for, against the library's own decoder."""

import pytest
from tokenizers import AddedToken

from support.builders.sample_tokenizers import QWEN3, byte_characters, byte_tokenizer, needs_qwen3
from tokenizer_service.text.byte_vocabulary import byte_alphabet, token_bytes
from tokenizer_service.text.tokenizer import Tokenizer


def test_a_table_has_the_bytes_of_every_id() -> None:
    table = token_bytes(byte_tokenizer().get_vocab())
    assert table[:256] == tuple(bytes([byte]) for byte in range(256))
    assert table[256:261] == (b"he", b"ll", b"hell", b"hello", b" w")
    assert table[261:] == (b"<|endoftext|>", b"<|im_end|>", b"</think>")
    assert dict(enumerate(byte_alphabet())) == byte_characters()


@pytest.mark.parametrize("text", ["日本", "a b", "é", "Ġ", "<é>", "<日 é>"])
def test_an_added_token_is_what_the_library_makes_of_it(text: str) -> None:
    backend = byte_tokenizer()
    backend.add_tokens([AddedToken(text, special=False)])
    token_id = backend.get_vocab()[text]
    table = token_bytes(backend.get_vocab())
    assert table[token_id].decode(errors="replace") == backend.decode([token_id])


def test_ids_may_leave_gaps() -> None:
    assert token_bytes({"a": 1, "Ġ": 4}) == (b"", b"a", b"", b"", b" ")
    assert token_bytes({}) == ()


@needs_qwen3
def test_every_id_of_qwen3() -> None:
    tokenizer = Tokenizer.from_folder(QWEN3)
    table = tokenizer.token_bytes
    assert table is not None and len(table) == tokenizer.vocab_size
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in range(len(table))]
    assert [data.decode(errors="replace") for data in table] == texts
