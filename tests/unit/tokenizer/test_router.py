from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_service.engines.routing.router import Router

BLOCK = 4
IDLE = {"a": 0, "b": 0, "c": 0}


def choose(router: Router, prompt: list[int], loads: dict[str, int], salt: str = "") -> str:
    return router.choose(prompt, salt, BLOCK, loads)


def prompt_of(*blocks: int) -> list[int]:
    return [token for block in blocks for token in [block] * BLOCK]


def test_without_a_match_the_least_loaded_is_chosen_and_of_equals_the_first() -> None:
    router = Router()
    assert choose(router, prompt_of(1), {"a": 5, "b": 3, "c": 3}) == "b"
    assert choose(router, [2, 2], {"a": 5, "b": 3, "c": 2}) == "c"
    assert len(router) == 1  # what is shorter than a block is not remembered


def test_equal_beginnings_go_together() -> None:
    router = Router()
    assert choose(router, prompt_of(1, 2, 3), {"a": 1, "b": 0}) == "b"
    for more in ([], [9], prompt_of(7, 8)):
        assert choose(router, prompt_of(1, 2, 3) + more, {"a": 0, "b": 12}) == "b"
    assert choose(router, prompt_of(4, 2, 3), {"a": 0, "b": 1}) == "a"


def test_a_match_weighs_as_much_as_the_tokens_that_it_saves() -> None:
    router = Router()
    choose(router, prompt_of(1, 2, 3), {"a": 0})
    assert choose(router, prompt_of(1, 2), {"a": 10 + 2 * BLOCK, "b": 10}) == "a"
    assert choose(router, prompt_of(1, 2), {"a": 11 + 2 * BLOCK, "b": 10}) == "b"
    # Who was given the blocks last has them now.
    assert choose(router, prompt_of(1, 2), {"a": 0, "b": 2 * BLOCK}) == "b"


def test_the_longest_match_wins() -> None:
    router = Router()
    choose(router, prompt_of(1, 2, 3), {"a": 0})
    choose(router, prompt_of(1, 5), {"b": 0})
    assert choose(router, prompt_of(1, 2, 3), {"a": 3 * BLOCK, "b": 0}) == "a"


def test_salts_share_nothing() -> None:
    router = Router()
    choose(router, prompt_of(1, 2), {"b": 0}, "one")
    assert choose(router, prompt_of(1, 2), {"a": 0, "b": 0}, "two") == "a"
    assert choose(router, prompt_of(1, 2), {"a": 0, "b": 0}, "one") == "b"


def test_a_replica_that_is_gone_is_forgotten() -> None:
    router = Router()
    choose(router, prompt_of(1, 2), {"b": 0})
    choose(router, prompt_of(3), {"c": 0})
    router.forget("b")
    router.forget("never seen")
    assert choose(router, prompt_of(1, 2), IDLE) == "a"
    assert choose(router, prompt_of(3), IDLE) == "c"


def test_of_a_long_prompt_only_the_beginning_counts() -> None:
    router = Router()
    choose(router, list(range(100_000)), {"a": 0})
    assert len(router) == 512


def test_as_many_blocks_as_allowed_are_remembered() -> None:
    router = Router(3)
    assert choose(router, prompt_of(1, 2, 3), {"a": 0}) == "a"
    assert len(router) == 3
    assert choose(router, prompt_of(4), {"b": 0}) == "b"
    assert choose(router, prompt_of(1, 2), {"a": 2 * BLOCK, "b": 0}) == "a"
    assert len(router) == 3


def test_a_block_may_be_one_token() -> None:
    router = Router()
    assert router.choose([1, 2], "", 1, {"a": 0}) == "a"
    assert len(router) == 2


def test_engines_without_blocks_are_balanced_all_the_same() -> None:
    router = Router()
    assert router.choose([1] * 100, "", 0, {"a": 1, "b": 0}) == "b"
    assert len(router) == 0


requests = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), max_size=6).map(lambda blocks: prompt_of(*blocks)),
        st.sampled_from(["", "salt"]),
        st.dictionaries(st.sampled_from("abc"), st.integers(0, 40), min_size=1),
        st.sampled_from([*"abc", None]),
    ),
    max_size=20,
)


@settings(max_examples=100, deadline=None)
@given(requests, st.integers(1, 20))
def test_whatever_comes_an_offered_replica_is_chosen_within_its_bounds(
    requested: list[tuple[list[int], str, dict[str, int], str | None]], max_blocks: int
) -> None:
    router = Router(max_blocks)
    for prompt, salt, loads, lost in requested:
        chosen = choose(router, prompt, loads, salt)
        assert chosen in loads
        assert loads[chosen] - min(loads.values()) <= len(prompt)
        assert len(router) <= max_blocks
        if lost is not None:
            router.forget(lost)


@settings(max_examples=100, deadline=None)
@given(requests)
def test_while_loads_are_equal_a_prompt_goes_where_it_went_before(
    requested: list[tuple[list[int], str, dict[str, int], str | None]],
) -> None:
    router = Router()
    went: dict[tuple[tuple[int, ...], str], str] = {}
    for prompt, salt, _, _ in requested:
        chosen = choose(router, prompt, IDLE, salt)
        assert went.setdefault((tuple(prompt), salt), chosen) == chosen
