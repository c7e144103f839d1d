"""The cage around a decoder: from then on the process can compute, read and write what it was handed, and nothing else.

No privilege can be gained, no file be opened (Landlock without any path), no system call be made but those of the list
(seccomp). It holds for the process and all its threads, for good. A part that the kernel lacks is left out, and told.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from workers.errors import SettingsError

#: `APF_DECODER_CAGE`.
Wanted = Literal["require", "best", "off"]

#: Descriptors below this may be open: the three standard ones (of /dev/null), the worker's, and the lent memory.
MAX_FILES = 16
#: Threads of the user's that there may be at least: codecs start a few. New processes are refused by system call.
LEAST_THREADS, MORE_THREADS = 4096, 1024

#: The system calls of decoding, encoding and Python's interpreter, and no more.
ALLOWED = (
    *("read", "readv", "pread64", "preadv", "write", "writev", "pwrite64", "recvmsg", "close"),
    *("munmap", "mremap", "brk", "madvise", "futex", "membarrier", "rseq", "set_robust_list", "get_robust_list"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("getpid", "gettid", "getppid", "sched_yield", "sched_getaffinity", "sched_getparam", "sched_getscheduler"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "times"),
    *("getrandom", "getrusage", "sysinfo", "get_mempolicy", "exit", "exit_group"),
)

#: No sound decoder does this: one that tries was taken over, and is ended at once, by SIGSYS. All else that is not
#: allowed fails with EPERM, as libraries try things that they can do without.
DEADLY = (
    *("execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "kill", "tkill"),
    *("pidfd_open", "pidfd_getfd", "pidfd_send_signal", "open_by_handle_at"),
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "sendmsg", "sendmmsg"),
    *("bpf", "unshare", "setns", "mount", "chroot", "pivot_root", "keyctl", "add_key"),
    *("io_uring_setup", "userfaultfd", "perf_event_open", "init_module", "finit_module", "kexec_load"),
)

_CLONE_THREAD, _PROT_EXEC, _MAP_ANONYMOUS = 0x10000, 0x4, 0x20
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _INSTRUCTION_BYTES = 22, 2, 8


@dataclass(frozen=True)
class Cage:
    """The confinement of a decoder."""

    #: The parts that are there, and those that are not, each with its reason.
    holds: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return bool(self.holds) and not self.lacks

    @property
    def held(self) -> Literal["whole", "part", "none"]:
        """As the metric has it."""
        return "whole" if self.whole else "part" if self.holds else "none"

    def check(self, wanted: Wanted) -> None:
        """Raise SettingsError where all of it is wanted, and some is not there."""
        if wanted == "require" and not self.whole:
            raise SettingsError(
                f"APF_DECODER_CAGE is require, and decoders here are without {'; without '.join(self.lacks)}. "
                "Or set it to best, where only known people hand in photos"
            )

    def __str__(self) -> str:
        return "; ".join([*self.holds, *(f"without {one}" for one in self.lacks)]) or "none"


def prepare() -> None:
    """Load what `close` needs, before there are no files any more."""
    if sys.platform == "linux":
        for part in (_landlock_abi, _seccomp_program):
            with suppress(_Lacking):
                part()


def end_with(parent: int) -> None:
    """Have this process end with the one that made it, whatever it is at then."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # ended already
        os._exit(1)


def limit(memory_bytes: int, threads: int) -> None:
    """No more memory, descriptors and threads than this, and no core dump of a photo."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_NPROC, threads),
    ):
        hard = resource.getrlimit(what)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (limit, limit))


def enter() -> Cage:
    """Close it around this process, which must have one thread. Says what holds, and why the rest does not."""
    if sys.platform != "linux":
        return Cage(lacks=(f"a cage: {sys.platform} has neither Landlock nor seccomp",))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # no neighbour of the same user looks into it
    holds, lacks = ["no new privileges"], []
    for part in (_enter_landlock, _enter_seccomp):  # the second forbids the first's system calls
        try:
            holds.append(part())
        except (OSError, _Lacking) as error:
            lacks.append(str(error))
    return Cage(tuple(holds), tuple(lacks))


class _Lacking(Exception):
    """Raised where the machine does not have a part, with the cure."""


def _landlock_abi() -> int:
    try:
        import landlockpy  # noqa: PLC0415  it is of Linux alone

        return landlockpy.abi_version()
    except (ImportError, OSError) as error:
        raise _Lacking(f"Landlock ({error}): Linux 5.13 or newer has it, with landlock in its list of LSMs") from error


def _enter_landlock() -> str:
    abi = _landlock_abi()
    from landlockpy import Ruleset, Scope  # noqa: PLC0415  as above

    with Ruleset(scoped=Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET) as ruleset:
        ruleset.restrict()
    return f"Landlock (ABI {abi})"


def _enter_seccomp() -> str:
    program = ctypes.create_string_buffer(_seccomp_program())
    kept = _Program(len(program) // _INSTRUCTION_BYTES, ctypes.cast(program, ctypes.c_void_p))
    try:
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(kept))
    except OSError as error:
        raise _Lacking(f"seccomp ({error}): the kernel needs CONFIG_SECCOMP_FILTER") from error
    return "seccomp"


class _Program(ctypes.Structure):
    """As the kernel takes a filter: `struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


@cache
def _seccomp_program() -> bytes:
    """Return the rules as the kernel takes them: made once, as that takes longer than all else of a new decoder."""
    try:
        import pyseccomp as seccomp  # noqa: PLC0415  it is of Linux alone
    except (ImportError, RuntimeError, OSError) as error:
        raise _Lacking(f"seccomp ({error}): install libseccomp (Debian: libseccomp2)") from error
    rules = seccomp.SyscallFilter(seccomp.ERRNO(1))  # EPERM
    for action, names in ((seccomp.ALLOW, ALLOWED), (seccomp.KILL_PROCESS, DEADLY)):
        for name in names:
            if seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) >= 0:  # each kind of machine lacks some
                rules.add_rule(action, name)
    masked, equal = seccomp.MASKED_EQ, seccomp.EQ
    # Threads, and no processes; the C library asks for `clone3` first, whose flags cannot be seen from here.
    rules.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, masked, _CLONE_THREAD, _CLONE_THREAD))
    rules.add_rule(seccomp.ERRNO(38), "clone3")
    # Memory of its own that is not to be run; none of a file, so that what was lent is not mapped.
    not_run = seccomp.Arg(2, masked, _PROT_EXEC, 0)
    rules.add_rule(seccomp.ALLOW, "mmap", not_run, seccomp.Arg(3, masked, _MAP_ANONYMOUS, _MAP_ANONYMOUS))
    rules.add_rule(seccomp.ALLOW, "mprotect", not_run)
    # Limits may be read, of this process.
    rules.add_rule(seccomp.ALLOW, "prlimit64", seccomp.Arg(0, equal, 0), seccomp.Arg(2, equal, 0))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _prctl(option: int, value: int, more: Any = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, more, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def threads_allowed() -> int:
    """How many threads the user may have: those of now and some more, as the limit counts all of the user's."""
    now, me = 0, os.getuid()
    for tasks in Path("/proc").glob("[0-9]*/task"):
        with suppress(OSError):  # ended meanwhile
            now += sum(1 for _ in tasks.iterdir()) if tasks.stat().st_uid == me else 0
    return max(LEAST_THREADS, now + MORE_THREADS)
