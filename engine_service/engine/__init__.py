"""The engine: requests in, CompletionOutputs out, step by step. No message of the wire.

Services use `async_engine` (one thread that owns the device, and the event loop beside it);
programs that step by themselves use `llm_engine`, made by `factory`. `interface` is what both need
of an engine; `admission` and `scoring` say which requests it takes.
"""
