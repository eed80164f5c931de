"""What is kept of requests that have ended: a record of each, and whether another engine agrees.

`Audit` is told of every stream that has ended; the `recorder` writes it down (`--record`), and the
`verifier` has a share of them computed again in idle time (`--verify`). Neither ever delays a
request. docs/audit.md says what comes of it.
"""
