"""The page that reports runs: what it is made of, and the same as HTML and as Markdown."""
