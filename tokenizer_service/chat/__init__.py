"""A conversation to a prompt, and an answer's token ids to typed events. No engine is seen here.

Handlers use `renderer` (messages to prompt), `constraints` (what the answer must be, as parameters
of the engine), `markers`, and `chat_processor` with `parser` (token ids to events).
"""
