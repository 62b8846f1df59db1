"""A program that runs ``vitrine ARGUMENTS`` and stops it at one of the changes that it makes to watched folders.

``python stop_at.py SETTINGS ARGUMENTS...``, where SETTINGS is JSON: ``watch`` (folders), ``change`` (the number of the
change before which it stops, from 1; 0: none), ``how`` ("kill", or "wait" until a line comes on the standard input),
``count`` (a file for the number of changes, where it ends by itself) and ``set`` (attributes of modules, by path).

Changes are what Python's audit events say: files opened for writing, renamed, removed, linked or cut; folders made or
removed. Every write under a final name is one of them, so what is on disk can differ only from one to the next.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Stopper:
    """The audit hook."""

    def __init__(self, watch, change, how):
        self.watch, self.change, self.how, self.process, self.count = watch, change, how, os.getpid(), 0

    def __call__(self, event, arguments):
        if not self._is_change(event, arguments) or os.getpid() != self.process:
            return
        self.count += 1
        if self.count != self.change:
            return
        if self.how == "kill":
            os.kill(self.process, signal.SIGKILL)
        os.write(1, b"stopped\n")
        os.read(0, 1)

    def _is_change(self, event, arguments):
        if event == "open":
            _, mode, flags = arguments
            is_write = (isinstance(flags, int) and flags & _WRITES) or (
                isinstance(mode, str) and set(mode) & set("wax+")
            )
        else:
            is_write = event in _CHANGES
        if not is_write:
            return False
        if not isinstance(arguments[0], str | bytes | os.PathLike):
            return False
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100  pathlib would be audited too
        return any(path == folder or path.startswith(folder + os.sep) for folder in self.watch)


def main():
    settings = json.loads(sys.argv[1])
    for path, value in settings["set"].items():
        module, _, attribute = path.rpartition(".")
        setattr(importlib.import_module(module), attribute, value)
    stopper = Stopper(settings["watch"], settings["change"], settings["how"])
    sys.argv = ["vitrine", *sys.argv[2:]]
    from vitrine.cli import main as run

    sys.addaudithook(stopper)
    try:
        run()
    finally:
        Path(settings["count"]).write_text(str(stopper.count))


if __name__ == "__main__":
    main()
