"""SegmentedEncoder: encodes a prompt in segments between added tokens, and caches the long ones.

The library first looks for added tokens such as "<|im_end|>"; the text between two of them is
encoded by itself. So a long system prompt or an earlier turn of a conversation has the same ids in
every prompt, and only what is new has to be encoded.
"""

import json
import re
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from threading import Lock
from typing import Any

import tokenizers

# Shorter segments, in characters, are encoded faster than looked up.
MIN_SEGMENT = 256
# For texts with their ids: about twenty of 50,000 tokens, or hundreds of 4,000.
_MAX_CACHED_BYTES = 8 * 1024 * 1024

_UNICODE_FORMS = {"NFC", "NFD", "NFKC", "NFKD"}


def segment_border(backend: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    """Matches the added tokens as the library finds them: from the left, the longest first.

    None if there are none, or a segment's ids may depend on what is around it: if an added token
    strips adjacent space, must be a whole word or is matched in normalized text, if the beginning
    of a text is treated specially, or if ids are added around a text.
    """
    added = backend.get_added_tokens_decoder().values()
    if not added or backend.encode_special_tokens or backend.encode("").ids:
        return None
    if any(t.lstrip or t.rstrip or t.single_word or t.normalized for t in added):
        return None
    if not (_is_local(backend.normalizer) and _is_local(backend.pre_tokenizer)):
        return None
    contents = sorted((token.content for token in added), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, contents)))


def _is_local(component: Any) -> bool:
    """Whether a normalizer or pre-tokenizer surely does not treat a text's beginning specially."""
    if component is None:
        return True
    # The only way to read a component's settings.
    return all(map(_is_local_stage, _stages(json.loads(component.__getstate__()))))


def _stages(settings: dict[str, object]) -> Iterator[dict[str, object]]:
    nested = settings.get("pretokenizers", settings.get("normalizers"))
    if isinstance(nested, list):
        yield from chain.from_iterable(map(_stages, nested))
    else:
        yield settings


def _is_local_stage(settings: dict[str, object]) -> bool:
    if settings["type"] == "ByteLevel":
        return settings.get("add_prefix_space") is False
    return settings["type"] == "Split" or settings["type"] in _UNICODE_FORMS


class SegmentedEncoder:
    """May be used from several threads at once. `border` is what segment_border returns."""

    def __init__(
        self,
        encode_batch: Callable[[Sequence[str]], list[list[int]]],
        border: re.Pattern[str],
        max_cached_bytes: int = _MAX_CACHED_BYTES,
    ) -> None:
        self._encode_batch = encode_batch
        self._border = border
        self._max_cached_bytes = max_cached_bytes
        self._cached: OrderedDict[str, array[int]] = OrderedDict()
        self._cached_bytes = 0
        self._lock = Lock()

    def encode(self, text: str, keep: bool = True) -> list[int]:
        """The token ids of a text; unless `keep`, no new segment is cached."""
        segments = list(self._split(text))
        known = [self._find(segment) if is_long else None for segment, is_long in segments]
        missing = [s for (s, _), ids in zip(segments, known, strict=True) if ids is None]
        encoded = iter(self._encode_batch(missing))
        token_ids: list[int] = []
        for (segment, is_long), ids in zip(segments, known, strict=True):
            if ids is not None:
                token_ids.extend(ids)
                continue
            new = next(encoded)
            token_ids += new
            if is_long and keep:
                self._store(segment, array("I", new))
        return token_ids

    def _split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Long segments, and the text between them with its added tokens; whether each is long."""
        begin = end = 0
        for match in chain(self._border.finditer(text), [None]):
            start, next_end = match.span() if match else (len(text), len(text))
            if start - end >= MIN_SEGMENT:
                if end > begin:
                    yield text[begin:end], False
                yield text[end:start], True
                begin = start
            end = next_end
        if end > begin:
            yield text[begin:end], False

    def _find(self, segment: str) -> "array[int] | None":
        with self._lock:
            ids = self._cached.get(segment)
            if ids is not None:
                self._cached.move_to_end(segment)
            return ids

    def _store(self, segment: str, ids: "array[int]") -> None:
        """Caches a segment's ids and evicts the least recently used."""
        with self._lock:
            if segment in self._cached:
                return
            self._cached[segment] = ids
            self._cached_bytes += _num_bytes(segment, ids)
            while self._cached_bytes > self._max_cached_bytes:
                self._cached_bytes -= _num_bytes(*self._cached.popitem(last=False))


def _num_bytes(segment: str, ids: "array[int]") -> int:
    return sys.getsizeof(segment) + sys.getsizeof(ids)
