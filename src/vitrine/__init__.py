"""vitrine: fine-tune vision transformers on your own pictures and see what they look at."""

__version__ = "0.1.0"
