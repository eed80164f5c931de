"""Deterministic simulation: the real services under a virtual clock, in one process.

    scenario ─▶ world ─▶ { virtual_loop, network, engine_host, front_end } ─▶ callers ─▶ judge

Everything random comes from one seed, so a run that fails can be repeated exactly and made smaller.
`python -m simulation` runs many seeds; docs/simulation.md says what it checks.
"""
