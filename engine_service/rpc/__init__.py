"""Between the wire and the engine: messages are read here, and outputs become messages.

The servicer uses `session` (all requests of one front end over one call), `request_reader`,
`proto_chunks`, `load_reporter` and `grammars`.
"""
