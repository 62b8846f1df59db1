"""The explorer: an HTTP server over the workflows, and the page that talks to it. See docs/serving.md."""
