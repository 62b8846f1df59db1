"""Downloaded files: the one folder that they go to, whether the network may be used, and when each was used last."""
