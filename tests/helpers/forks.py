"""Commands as a user starts them, without the seconds that importing torch takes each time.

`python()` is put in place of `sys.executable`. It is a small program that sends its arguments,
environment, folder and open files to one server, which has imported what train.py, eval.py and
`caption` import; the server forks, and the fork runs the script as its own process: with its own
exit code, signals and children (whose sys.executable is the same). Where the imports themselves
are tested, sys.executable is the thing to use.
"""

import atexit
import contextlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = "CAPTIONER_FORKS"  # the environment variable that names the server's folder
FORWARDED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = [sys.argv[1:], dict(os.environ), os.getcwd(), os.getpgrp(), os.umask(0o77)]
data = json.dumps(request).encode()
socket.send_fds(server, [len(data).to_bytes(8, "big")], [0, 1, 2])
server.sendall(data)
replies = server.makefile()
pid, joined = map(int, replies.readline().split())
for name in {forwarded!r}:
    number = getattr(signal, name)
    if not (joined and name == "SIGINT"):  # a terminal's goes to the whole group
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    else:
        signal.signal(number, signal.SIG_IGN)
code = int(replies.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def start_server() -> subprocess.Popen[bytes] | None:
    """Start the server, which ends with this process; its folder is in the environment.

    None if the system lacks what it needs (Linux's pidfd_open).
    """
    if not hasattr(os, "pidfd_open"):
        return None
    folder = tempfile.mkdtemp(prefix="captioner-forks")
    client, address = Path(folder, "python"), f"{folder}/socket"
    text = CLIENT.format(python=sys.executable, address=address, forwarded=FORWARDED)
    client.write_text(text)
    client.chmod(0o755)
    os.environ[FOLDER] = folder
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(16)
        number = listener.fileno()
        command = [sys.executable, "-c", f"from tests.helpers import forks; forks.serve({number})"]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, pass_fds=[number]
        )


def stop_server(server: subprocess.Popen[bytes]) -> None:
    server.stdin.close()
    server.wait()
    shutil.rmtree(os.environ.pop(FOLDER))


def python() -> str:
    """The program to use in place of sys.executable."""
    return f"{os.environ[FOLDER]}/python" if FOLDER in os.environ else sys.executable


def serve(number: int) -> None:
    """Fork for each client, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    listener = socket.socket(fileno=number)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        client, _ = listener.accept()
        import_commands()
        if os.fork() == 0:
            listener.close()
            _watch(client)


def import_commands() -> None:
    """Import what the commands, and torchrun, import."""
    import torch.distributed.run  # noqa: F401

    import captioner.commands.caption  # noqa: F401
    import eval  # noqa: F401
    import train  # noqa: F401


def _watch(client: socket.socket) -> None:
    """Start one command, tell the client how it ends, and end it if the client ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    header, files, _, _ = socket.recv_fds(client, 8, 3)
    data = client.makefile("rb").read(int.from_bytes(header, "big"))
    arguments, environment, folder, group, umask = json.loads(data)
    pid = os.fork()
    if pid == 0:
        client.close()
        os.umask(umask)
        _become(arguments, environment, folder, group, files)
    for file in files:
        os.close(file)
    joined = True
    try:
        os.setpgid(pid, group)
    except OSError:  # another session
        joined = False
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
    client.sendall(f"{pid} {joined:d}\n".encode())
    ended = os.pidfd_open(pid)
    ready, _, _ = select.select([client, ended], [], [])
    if ended not in ready:  # the client was killed
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(arguments, environment, folder, group, files) -> None:
    """Run a script, `-m MODULE` or `-c CODE` as Python would, and exit."""
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        try:
            os.setpgid(0, group)
        except OSError:
            os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        os.fsync = lambda file: None
        sys.executable = f"{environment[FOLDER]}/python"
        sys.stdin, sys.stdout = open(0), open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        sys.path.remove("")  # the server's; Python adds its own after sitecustomize
        if places := environment.get("PYTHONPATH"):  # empty: as if it were not set
            sys.path[:0] = places.split(":")
        sys.modules.pop("sitecustomize", None)
        with contextlib.suppress(ImportError):
            __import__("sitecustomize")
        code = _run(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 120  # as Python's own
        os._exit(code)


def _run(arguments: list[str]) -> int:
    while arguments[0] == "-u":
        del arguments[0]
    first, *rest = arguments
    try:
        if first == "-c":
            sys.argv = ["-c", *rest[1:]]
            sys.path.insert(0, "")
            main = sys.modules["__main__"] = type(sys)("__main__")
            exec(rest[0], main.__dict__)
        elif first == "-m":
            sys.argv = rest
            sys.path.insert(0, os.getcwd())
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(first).resolve().parent))
            runpy.run_path(first, run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 255
        print(stop.code, file=sys.stderr)
        return 1
    return 0
