"""The engines: which are ready, which a request goes to, and the streams that come back.

Handlers use `pool`, and the `run` of a request that it gives them. One `client` follows each engine
and holds the `session` that carries all requests there.
"""
