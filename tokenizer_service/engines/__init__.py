"""The engines: which are ready, where a request goes, and the streams of outputs that come back.

Handlers use `pool` and the `stream` of a request that it returns. One `client` follows each engine
and holds the `session` that carries all requests to it.
"""
