"""Builds grammars once in processes that may be lost, before the engine's process builds them.

    Rehearsals ▶ Lanes ▶ ServerProcess ══ pipe ══ server ▶ builder, a process for each build

`server` and `builder` run over there and import only `library` and what makes its sources.
"""
