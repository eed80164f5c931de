"""The engine: commands in, CompletionOutputs out, step by step. No protobuf messages.

Services use `async_engine` (one thread that owns the device, and the event loop beside it), which
takes `commands`; programs that step by themselves use `llm_engine`, made by `factory`. `admission`
and `score_requests` say which requests it admits.
"""
