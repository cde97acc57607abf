"""Runs a candidate's program, and ends it together with everything that it started.

    python -I -S supervisor.py SOCKET MEMORY PROGRAM ARGS...

The check holds the other end of SOCKET.  When it closes that end or dies, or when the program
ends, all descendants of the program are killed.  On Linux a descendant whose parent is gone becomes
a child of this process, even in a session of its own, so that a daemon is found too.

Sends one line to the check: the process id of the program, or why it could not be started.  Leaves
as the program did: with its exit status, or by the same signal.  Imports the standard library
alone, so that it starts in a few milliseconds.
"""

import os
import select
import signal
import socket
import sys
import time

PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h
RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them; a program expects the default
OVERHEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # not what ends this one
SECONDS_TO_END = 5.0  # longer only where a process cannot be killed


def main(descriptor, memory, *command):
    check = socket.socket(fileno=int(descriptor))
    check.set_inheritable(False)
    adopt_orphans()
    woken = wake_on_signals()
    try:
        program = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigdef=RESTORED)
    except (OSError, ValueError) as e:
        check.sendall(f"{getattr(e, 'strerror', e)}\n".encode())
        return
    set_limits(program, int(memory))
    hide_streams()
    check.sendall(b"%d\n" % program)
    status = None
    while status is None and check not in select.select([check, woken], [], [])[0]:
        os.read(woken, 4096)
        status = reap().get(program)
    leave(end(program, status))


def adopt_orphans():
    """Become the parent of every descendant that loses its own (Linux)."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def wake_on_signals():
    """A pipe that becomes readable when a child has ended."""
    woken, alarm = os.pipe()
    os.set_blocking(alarm, False)
    for signal_ in (signal.SIGCHLD, *OVERHEARD):
        signal.signal(signal_, lambda *_: None)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    return woken


def set_limits(pid, memory):
    """Bound a process's data and files, and forbid core dumps, where the system can (Linux)."""
    try:
        import resource

        prlimit = resource.prlimit
    except (ImportError, AttributeError):
        return
    wanted = {resource.RLIMIT_DATA: memory, resource.RLIMIT_FSIZE: memory, resource.RLIMIT_CORE: 0}
    for limit, size in wanted.items():
        try:
            hard = prlimit(pid, limit)[1]
            least = size if hard == resource.RLIM_INFINITY else min(size, hard)
            prlimit(pid, limit, (least, least))
        except (OSError, ValueError):
            continue


def hide_streams():
    """Leave the program's streams to the program alone: their ends mean that it closed them."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def reap():
    """The wait status of every child that has ended, by process id."""
    ended: dict[int, int] = {}
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return ended
            ended[pid] = status
    except ChildProcessError:
        return ended


def end(program, status):
    """Kill until nothing is left; the program's wait status."""
    deadline = time.monotonic() + SECONDS_TO_END
    while alive := descendants() or (status is None and [program]):
        if time.monotonic() > deadline:
            return signal.SIGKILL if status is None else status
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.001)
        ended = reap()
        status = ended.get(program, status)
    return status


def descendants():
    """The living processes below this one; none where there is no /proc."""
    parents = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it has just ended
    found: list[int] = []
    below = {os.getpid()}
    while below:
        below = {pid for pid, parent in parents.items() if parent in below}
        found += below
    return found


def leave(status):
    """End as the program did."""
    if os.WIFSIGNALED(status):
        signal_ = os.WTERMSIG(status)
        set_limits(os.getpid(), 1 << 40)  # no core dump of this process
        if signal_ != signal.SIGKILL:
            signal.signal(signal_, signal.SIG_DFL)
        os.kill(os.getpid(), signal_)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
