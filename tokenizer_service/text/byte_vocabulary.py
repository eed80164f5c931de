"""The bytes that each token of a byte-level tokenizer stands for.

Such a tokenizer (GPT-2's, Llama 3's, Qwen's) writes each byte as one printable character, to make
its vocabulary readable. A token of only these characters stands for these bytes; any other, an
added one, for its text's UTF-8. The library's own decoder has the same rule.
"""

from collections.abc import Mapping


def token_bytes(vocab: Mapping[str, int]) -> tuple[bytes, ...]:
    """By id, empty if no token has that id; `vocab` includes the added tokens."""
    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}.__getitem__
    table = [b""] * (max(vocab.values(), default=-1) + 1)
    for token, token_id in vocab.items():
        try:
            table[token_id] = bytes(map(byte_of, token))
        except KeyError:
            table[token_id] = token.encode()
    # Unlike a list, a tuple of bytes is not traversed by the garbage collector.
    return tuple(table)


def byte_alphabet() -> list[str]:
    """The character that byte-level tokenizers write for each byte, as in GPT-2's encoder.py.

    Printable characters of Latin-1 stand for themselves, the others are U+0100 onwards.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
