"""Builds grammars once in processes that may be lost, before the engine's process builds them.

    Rehearsals ▶ folovllm.serving.lanes ══ socket ══ builder, in a process for each build

`builder` runs over there and imports only `library` and what makes its sources.
"""
