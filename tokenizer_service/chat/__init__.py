"""A conversation to a prompt, and an answer's token ids to typed events. No engine is seen here.

Handlers use `renderer` (messages to prompt), `constraints` (what the answer must be, as parameters
of the engine), `markers` and the processors: `parser` for answers with reasoning and tool calls,
`chat_processor` for plain ones.
"""
