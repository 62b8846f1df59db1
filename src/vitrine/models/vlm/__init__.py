"""Vision-language models of transformers: which open, where their image tokens lie, and what each word looked at."""
