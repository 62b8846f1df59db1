"""Models that compute in no time."""

MICRO = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
"""Constructor arguments of a ViT with 16 patches."""
