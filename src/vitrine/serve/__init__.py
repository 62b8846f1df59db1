"""The explorer: an HTTP server that shows what models look at, and the page that talks to it. See docs/serving.md."""
