"""What the benchmarks share: the tools that are compared, and how they are timed."""
