"""The engine service: token ids in, token ids out. No tokenizer, no text.

__main__ ▶ servicer ▶ async_engine ▶ llm_engine ▶ { core , runner ▶ models ▶ layers }
"""
