"""Models written for other tools, and opened again as those tools open them."""
