"""The tokenizer service: text in and text out; token ids go to the engines. Needs no torch."""
