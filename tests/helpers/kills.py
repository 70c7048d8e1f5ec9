"""Kill -9 before or after the n-th thing that a process does to the files in one folder.

The events are those of Python's audit hooks (files opened for writing, renamed, removed, folders
made and removed), and os.fsync, at which all that was written before has left the process.
"""

import builtins
import io
import os
import signal
import sys
from pathlib import Path

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def install(folder: str, place: int | None, log: str, ranks: str = "0") -> None:
    """Number the places in `folder`, two of each event: before and after it. Kill at `place`, or
    write them all into `log`. Only in the processes of these ranks."""
    if os.environ.get("LOCAL_RANK", "0") not in ranks:
        return
    count = 0

    def reach(what: str) -> None:
        nonlocal count
        count += 1
        if place is None:
            descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
            os.write(descriptor, f"{what}\n".encode())
            os.close(descriptor)
        elif count == place:
            os.kill(os.getpid(), signal.SIGKILL)

    def inside(path: object) -> bool:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        return os.path.abspath(text).startswith(folder + os.sep)

    def hook(event: str, arguments: tuple) -> None:
        if event not in EVENTS or not inside(arguments[0]):
            return
        if event == "open":
            mode = arguments[1]
            writes = (
                arguments[2] & (os.O_WRONLY | os.O_RDWR)
                if mode is None
                else set(mode) & set("wax+")
            )
            if not writes:
                return
        reach(f"before {event} {Path(os.fsdecode(arguments[0])).name}")

    def following(function, name):
        def call(*arguments, **options):
            result = function(*arguments, **options)
            path = arguments[0]
            if name == "os.fsync":
                path = os.readlink(
                    f"/proc/self/fd/{path if isinstance(path, int) else path.fileno()}"
                )
            elif name == "open" and not set(
                arguments[1] if len(arguments) > 1 else options.get("mode", "r")
            ) & set("wax+"):
                return result
            if inside(path) or (name == "os.fsync" and os.path.abspath(path) == folder):
                reach(f"after {name} {Path(os.fsdecode(path)).name}")
            return result

        return call

    for name in ("rename", "replace", "remove", "unlink", "mkdir", "rmdir", "fsync"):
        setattr(os, name, following(getattr(os, name), f"os.{name}"))
    builtins.open = io.open = following(io.open, "open")
    sys.addaudithook(hook)
