"""Text to token ids and back, for one model's tokenizer. No message of the wire, no engine.

Others use `tokenizer`, `limits` and `offload` (bounded work that does not block the event loop),
`output_processor` (a generated stream as text), `detokenizer`, `bad_words` and `score_encoding`.
"""
