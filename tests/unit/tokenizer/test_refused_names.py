"""The engines that refused requests go back to."""

from tokenizer_service.engines.routing import refused_names
from tokenizer_service.engines.routing.refused_names import RefusedNames


def test_a_name_leads_back_once() -> None:
    names = RefusedNames()
    names.remember("a", "first")
    names.remember("a", "second")
    assert (names.take("a"), names.take("a"), names.take("b")) == ("second", None, None)


def test_only_so_many_names_are_remembered() -> None:
    names = RefusedNames()
    for number in range(refused_names._MAX_NAMES + 2):
        names.remember(str(number), "engine")
    assert len(names) == refused_names._MAX_NAMES
    assert names.take("1") is None and names.take("2") == "engine"
