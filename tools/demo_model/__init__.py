"""The recipe of the embedded demo model: corpus, tokenizer, training, evaluation and card."""
