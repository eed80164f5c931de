"""Books: what must be left of everything once every request has ended."""

from collections.abc import Iterable, Iterator

from simulation.engine_host import EngineHost
from simulation.front_end import FrontEnd
from tokenizer_service.engines.session import EngineSession


def complaints(hosts: Iterable[EngineHost], front_ends: Iterable[FrontEnd]) -> list[str]:
    """What is left over."""
    found = [f"{host.address}: {each}" for host in hosts for each in _of_engine(host)]
    for front_end in front_ends:
        pool = front_end.pool
        left = _left(streams=len(pool._streams), moves=len(pool._mover._work))
        found += [f"{front_end.name}: {each}" for each in left]
        for engine in front_end.pool._engines:
            if engine._session is None:
                found.append(f"{front_end.name}: no session with {engine.address}")
                continue
            found += [
                f"{front_end.name} with {engine.address}: {each}"
                for each in _of_session(engine._session)
            ]
    return found


def _left(**sizes: float) -> Iterator[str]:
    """The sizes that are not 0."""
    for name, size in sizes.items():
        if size:
            yield f"{name} is {size}"


def _of_engine(host: EngineHost) -> Iterator[str]:
    if not host.is_up:
        yield "is down"
        return
    engine, llm_engine = host.engine, host.llm_engine
    states, streams = llm_engine.scheduler._states, engine._streams
    admission = streams.admission
    yield from _left(
        used_blocks=host.setting.num_blocks - llm_engine._kv.num_free_blocks,
        groups=len(states.groups),
        running=len(states.running),
        waiting=len(states.waiting),
        queued_since=len(states.queued_since),
        parents=len(llm_engine._parents._children) + len(llm_engine._parents._names),
        begun_parents=len(llm_engine._parents._begun),
        followers=sum(map(bool, llm_engine._parents._followers.values())),
        unannounced=len(llm_engine._unannounced),
        streams=len(streams),
        tickets=len(streams._tickets),
        admitted=admission._num_tickets,
        admitted_bytes=admission._num_bytes,
        waiting_requests=admission._waiting.num_requests,
        calls=len(host.active_calls),
        held_bytes=host.servicer._sessions._num_held_bytes,
    )


def _of_session(session: EngineSession) -> Iterator[str]:
    if not session.is_open:
        yield f"has ended: {session.end_reason}"
    yield from _left(
        parts=len(session._parts),
        handles=len(session._handles._continuations) + len(session._handles._indexes),
        tokens=session.own_tokens,
        commands=session._commands.qsize(),
    )
