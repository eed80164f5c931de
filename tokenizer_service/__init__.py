"""The tokenizer service: text in and text out; token ids go to the engines. Needs no torch.

    __main__ ▶ servicer ▶ handlers ▶ { chat ▶ text , engines }

`model` is a model's text side, loaded once; `workers` are processes that share the port. The
in-process LLM uses `text`; nothing else is for other packages.
"""
