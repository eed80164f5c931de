"""Text to token ids and back, for one model's tokenizer. No message of the wire, no engine.

Others use `tokenizer`, `codec` (the same within bounds, off the event loop where it takes long),
`output_processor` (a generated stream as text), `stopping_detokenizer`, `bad_words` and `scoring`.
"""
