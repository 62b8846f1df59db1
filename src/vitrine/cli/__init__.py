"""The command line: parse, call, render. No module here imports torch; a verb's work is imported when it runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Exit status: 0 done; 1 it ran and the answer is no; 2 the input is wrong."""
    from vitrine.cli.app import app
    from vitrine.errors import VitrineError

    try:
        app()
    except VitrineError as error:
        print(f"vitrine: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\nvitrine: interrupted. What was finished is kept.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output went away, as in: vitrine check DATA | head
