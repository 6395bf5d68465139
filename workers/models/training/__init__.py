"""Makes the compact model: its tasks, tokenizer, training and evaluation (see README.md)."""
