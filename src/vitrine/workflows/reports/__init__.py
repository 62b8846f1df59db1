"""The sections of a report, each made of runs and of what a model of theirs shows."""
