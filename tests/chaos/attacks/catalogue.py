"""All attacks by name, in the order of their run."""

from chaos.attacks.classes.counts import (
    harmless,
    idle_sessions,
    idle_streams,
    sessions,
    small_calls,
    small_requests,
)
from chaos.attacks.classes.floods import many_logprobs, many_of_long, many_of_longest, many_scores
from chaos.attacks.classes.messages import (
    bombs,
    huge_chats,
    large_forks,
    long_names,
    named_requests,
    parents,
)
from chaos.attacks.classes.parameters import bad_words, everything, penalties, plain
from chaos.attacks.classes.schemas import distinct_grammars, multiples, patterns, scores_of_texts
from chaos.attacks.shot import Attack

_TWIN = "/twin"
HARMLESS = Attack("harmless", harmless)
ATTACKS: dict[str, Attack] = {
    each.name: each
    for each in (
        Attack("patterns", patterns),
        Attack("multiples", multiples),
        Attack("distinct-grammars", distinct_grammars, width=32, magazine=2000),
        Attack("score-texts", scores_of_texts, width=32),
        Attack("bombs", bombs, width=4, magazine=12),
        Attack("large-forks", large_forks, width=4, magazine=8, parent=parents),
        Attack("many-logprobs", many_logprobs, width=8, fills_queue=True),
        Attack("many-scores", many_scores, width=8, fills_queue=True),
        Attack("many-of-long", many_of_long, width=200, magazine=200, fills_queue=True),
        Attack("huge-chats", huge_chats, width=8, magazine=16),
        Attack("long-names", long_names, width=16, magazine=40),
        Attack("named-requests", named_requests, width=16, magazine=40),
        Attack("burst-of-calls", small_calls, width=5000, burst=True),
        Attack("burst-of-requests", small_requests, width=5000, burst=True, fills_queue=True),
        Attack("bad-words", bad_words, twin=plain, fills_queue=True),
        Attack("penalties", penalties, twin=plain, fills_queue=True),
        Attack("everything", everything, twin=plain, fills_queue=True),
        Attack("sessions", sessions, width=1500, magazine=1500),
        Attack("idle-sessions", idle_sessions, width=2000, magazine=1),
        Attack("idle-streams", idle_streams, width=2000, magazine=1),
        Attack(
            "many-of-longest", many_of_longest, width=60, magazine=60, fake=True, fills_queue=True
        ),
    )
}


def attack_of(name: str) -> Attack:
    """An attack, the harmless load, or `NAME/twin`, an attack without what is costly."""
    if name == HARMLESS.name:
        return HARMLESS
    attack = ATTACKS[name.removesuffix(_TWIN)]
    if not name.endswith(_TWIN):
        return attack
    assert attack.twin is not None
    return Attack(name, attack.twin, attack.width)
