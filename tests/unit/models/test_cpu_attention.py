"""The attention kernel equals plain attention, and computes each sequence on its own."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from support.builders.cpu_kernels import BFLOAT16, context
from support.twins import kernel_twins
from support.twins.kernel_attention import Cache, Layer, Shape, Stream

# (tokens in the cache, tokens of the step) of each sequence
CASES = {
    "decodes": [(0, 1), (1, 1), (15, 1), (16, 1), (62, 1), (63, 1), (64, 1), (300, 1)],
    "prefills": [(0, 1), (0, 2), (0, 31), (0, 32), (0, 33), (0, 64), (0, 100)],
    "chunks": [(5, 3), (64, 32), (63, 2), (130, 70), (300, 33)],
    "everything at once": [(0, 7), (299, 1), (17, 40), (0, 1), (63, 66), (31, 1)],
}
Lengths = Sequence[tuple[int, int]]


def bits(tensor: Tensor) -> Tensor:
    """By which NaN equals NaN."""
    return tensor.contiguous().view(torch.int16)


def step_of(streams: Sequence[Stream], lengths: Lengths) -> list[tuple[Stream, int, int]]:
    """What Layer.step takes."""
    pairs = zip(streams, lengths, strict=True)
    return [(stream, start, start + new) for stream, (start, new) in pairs]


def cached(layer: Layer, streams: Sequence[Stream], lengths: Lengths) -> Cache:
    """A cache that holds random keys and values of the tokens before the step."""
    cache = Cache(layer.shape)
    generator = torch.Generator().manual_seed(1)
    sizes = (layer.shape.kv_heads, layer.shape.head_dim)
    for stream, (computed, _) in zip(streams, lengths, strict=True):
        keys, values = (
            torch.randn(computed, *sizes, generator=generator).to(BFLOAT16) for _ in "kv"
        )
        cache.fill(stream.slots[:computed], keys, values)
    return cache


def check_step(shape: Shape, lengths: Lengths, *, with_norms: bool = True) -> None:
    """Compares results, rotated queries and the whole cache of one step."""
    layer = Layer(shape, with_norms=with_norms)
    streams = layer.streams([computed + new for computed, new in lengths])
    cache = cached(layer, streams, lengths)
    expected = cache.tokens()
    parts = step_of(streams, lengths)
    outputs, rotated = layer.step(cache, parts)
    found = cache.tokens()
    q_norm, k_norm = layer.norms
    sizes = [shape.heads, shape.kv_heads, shape.kv_heads]
    for (stream, start, end), output, after in zip(parts, outputs, rotated, strict=True):
        angles = layer.cos[start:end], layer.sin[start:end]
        query, key, value = torch.split(stream.qkv[start:end], sizes, dim=1)
        new_query, new_key, new_value = torch.split(after, sizes, dim=1)
        kernel_twins.rotated(query, q_norm, *angles).check(new_query)
        kernel_twins.rotated(key, k_norm, *angles).check(new_key)
        assert torch.equal(new_value, value)
        for tokens, new in zip(expected, (new_key, value), strict=True):
            tokens[stream.slots[start:end]] = new
        past = [tokens[stream.slots[:end]] for tokens in expected]
        kernel_twins.attention(new_query, *past).check(output)
    # New tokens lie in their slots, and nothing else has changed, NaN in unused slots included.
    for now, wanted in zip(found, expected, strict=True):
        assert torch.equal(bits(now), bits(wanted))


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 2, 8, 16])
def test_heads_of_every_size(head_dim: int, group: int) -> None:
    check_step(Shape(group=group, head_dim=head_dim), CASES["everything at once"])


@pytest.mark.parametrize("block_size", [16, 32, 48])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("with_norms", [False, True], ids=["no norms", "norms"])
def test_lengths_and_blocks(block_size: int, name: str, with_norms: bool) -> None:
    check_step(Shape(block_size=block_size), CASES[name], with_norms=with_norms)


@pytest.mark.parametrize("kv_heads", [1, 3, 8])
def test_numbers_of_key_heads(kv_heads: int) -> None:
    check_step(Shape(kv_heads=kv_heads, head_dim=32), CASES["everything at once"])


@pytest.mark.parametrize("size", [1e-3, 30.0])
def test_flat_and_sharp_weights(size: float) -> None:
    layer = Layer(Shape(head_dim=32), with_norms=False)
    (stream,) = layer.streams([150])
    stream.qkv[:, :4] *= size
    outputs, rotated = layer.step(cache := Cache(layer.shape), [(stream, 0, 150)])
    keys, values = (tokens[stream.slots] for tokens in cache.tokens())
    kernel_twins.attention(rotated[0][:, :4], keys, values).check(outputs[0])


def computed_in(
    layer: Layer, stream: Stream, chunks: Sequence[int], threads: int = 1
) -> tuple[Tensor, Cache]:
    """All of a sequence's results, computed in chunks, and the cache that is left."""
    cache, outputs, done = Cache(layer.shape), [], 0
    for number, length in enumerate(chunks):
        part = (stream, done, done + length)
        outputs += layer.step(cache, [part], context(threads), order=number)[0]
        done += length
    assert done == len(stream.qkv)
    return torch.cat(outputs), cache


@pytest.mark.parametrize("head_dim", [32, 128])
@pytest.mark.parametrize("group", [1, 2, 5])
def test_bits_do_not_depend_on_chunks_or_threads(head_dim: int, group: int) -> None:
    layer = Layer(Shape(head_dim=head_dim, group=group))
    (stream,) = layer.streams([200])
    whole, cache = computed_in(layer, stream, [200])
    for chunks in ([1] * 9 + [55, 65, 1, 70], [64, 64, 72], [127, 1, 72], [33, 31, 136]):
        for threads in (1, 2, 3):
            found, left = computed_in(layer, stream, chunks, threads)
            assert torch.equal(found, whole)
            assert torch.equal(bits(left.keys), bits(cache.keys))
            assert torch.equal(bits(left.values), bits(cache.values))


@st.composite
def companies(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Sequences as in CASES."""
    sizes = st.tuples(st.integers(0, 130), st.integers(1, 70))
    return draw(st.lists(sizes, min_size=1, max_size=4))


@settings(max_examples=60, deadline=None)
@given(
    lengths=companies(),
    head_dim=st.sampled_from([32, 128]),
    group=st.integers(1, 4),
    threads=st.integers(1, 3),
    data=st.data(),
)
def test_bits_do_not_depend_on_company_not_even_if_it_is_broken(
    lengths: list[tuple[int, int]], head_dim: int, group: int, threads: int, data: st.DataObject
) -> None:
    layer = Layer(Shape(head_dim=head_dim, group=group))
    streams = layer.streams([computed + new for computed, new in lengths])
    own = data.draw(st.integers(0, len(lengths) - 1))
    parts = step_of(streams, lengths)
    (alone,), _ = layer.step(cached(layer, streams, lengths), [parts[own]])
    for row, stream in enumerate(streams):
        if row != own and data.draw(st.booleans()):
            stream.qkv[-1] = float("nan")
    cache = cached(layer, streams, lengths)
    beside, _ = layer.step(cache, parts, context(threads), order=data.draw(st.integers(0, 9)))
    assert torch.equal(beside[own], alone)
    assert alone.isfinite().all()


@pytest.mark.parametrize("length", [20, 64, 200])
@pytest.mark.parametrize("index", [0, 13, 19])
@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_a_broken_token_is_not_hidden_from_those_that_see_it(
    length: int, index: int, part: str
) -> None:
    layer = Layer(Shape(head_dim=32, kv_heads=1))
    (stream,) = layer.streams([length])
    whole, _ = computed_in(layer, stream, [length])
    heads = {"query": slice(0, 2), "key": slice(2, 3), "value": slice(3, 4)}
    stream.qkv[index, heads[part]] = float("nan")
    for chunks in ([length], [1] * 20 + [length - 20] * (length > 20)):
        found, _ = computed_in(layer, stream, chunks)
        broken = found.isnan().flatten(1)
        if part == "query":
            assert broken[index].all() and broken.any(-1).sum() == 1
        else:
            assert broken[index:].all()
    # Computed one by one, the tokens before it do not know of it.
    assert torch.equal(found[:index], whole[:index])
