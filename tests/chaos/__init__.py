"""Chaos: faults on real processes while callers run, and a judge of what the callers then see.

    python -m chaos --help

`docs/chaos.md` says how to read what it prints and how to replay it. The rooms, each of which uses
only those above it:

    inside/      what runs in a service's own process: hooks that hold, poison, hang or break it
    processes/   services as processes, the proxy between them, checkpoints with bad weights
    callers/     requests of every kind, with what they must answer, and those who send them
    checks/      what is judged: streams, what is held at rest, canary and health
    matrix/      seven states of a request x faults
    incidents/   faults of a whole process, one class of them a file
    soak, price  many requests for long; processor time a token over another checkout
"""
