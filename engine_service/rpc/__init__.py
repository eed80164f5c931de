"""Between the wire and the engine: reads messages as commands, and sends outputs as messages.

The servicer uses `session` (all requests of one front end over one call), `request_reader` and
`load_reporter`.
"""
