"""Starts one server: `python -I -S launch.py JSON`. It becomes the server by exec, so the pid stays.

A program of its own and not a `preexec_fn`: Python code between fork and exec can deadlock in a process
with threads. It imports the standard library only and nothing of this package. On Linux it

1. makes the server receive a signal when the supervisor's launching thread ends (a kill -9 included);
2. as root, changes to an unprivileged account. If that account cannot reach what the server needs (a
   virtual environment below /root, say), it keeps CAP_DAC_READ_SEARCH, or CAP_DAC_OVERRIDE if that is all
   there is, and nothing else.
"""

import ctypes
import json
import os
import sys
from typing import NoReturn, TypedDict, cast

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = (
    1 << 2
)  # setuid() keeps capabilities, and access() honours them, as PostgreSQL needs
_CAPSET_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


class Need(TypedDict):
    """A path that the server must reach, and how: os.R_OK, os.W_OK, os.X_OK, combined."""

    path: str
    mode: int


class Order(TypedDict):
    """What to start, and as whom; `uid` null keeps the account."""

    argv: list[str]
    parent: int
    death_signal: int
    uid: int | None
    gid: int | None
    needs: list[Need]


def main() -> NoReturn:
    """Follows the order in argv[1]; exits with 126 and a reason on standard error if it can't."""
    order = cast("Order", json.loads(sys.argv[1]))
    argv = order["argv"]
    try:
        if order["uid"] is not None and order["gid"] is not None:
            _become(order["uid"], order["gid"], order["needs"])
        if sys.platform == "linux":
            # After the change of account, which clears it. The parent may have ended before it: ask then.
            _prctl(_PR_SET_PDEATHSIG, order["death_signal"])
            if os.getppid() != order["parent"]:
                _refuse("the supervisor ended before the server began")
        os.execv(argv[0], argv)  # noqa: S606 (no shell is wanted)
    except OSError as error:
        _refuse(f"cannot start {argv[0]}: {error}")


def _become(uid: int, gid: int, needs: list[Need]) -> None:
    try:
        os.setgroups([])
        os.setegid(gid)
        os.seteuid(uid)  # drops the effective capabilities until it is taken back
    except PermissionError:
        _refuse(
            f"PostgreSQL refuses to run as root, and this root has no right (CAP_SETUID, CAP_SETGID) to run it as user "
            f"{uid}: run as a normal user"
        )
    unreachable = _unreachable(needs)
    os.seteuid(0)
    if not unreachable:
        os.setgid(gid)
        os.setuid(uid)
        return
    _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if _holds(capability) and not _unreachable_with(capability, needs):
            _keep_only(capability)
            return
    _refuse(
        f"user {uid} cannot reach {', '.join(unreachable)}, and this process holds no CAP_DAC_READ_SEARCH or "
        "CAP_DAC_OVERRIDE to let it. PostgreSQL refuses to run as root: put the folder and the virtual "
        "environment where every user can read, or run as a normal user."
    )


def _unreachable(needs: list[Need]) -> list[str]:
    return [need["path"] for need in needs if not os.access(need["path"], need["mode"], effective_ids=True)]


def _unreachable_with(capability: int, needs: list[Need]) -> list[str]:
    permitted = _permitted()
    _capset(effective=1 << capability, permitted=permitted, inheritable=0)
    return _unreachable(needs)


def _keep_only(capability: int) -> None:
    bit = 1 << capability
    _capset(effective=bit, permitted=bit, inheritable=bit)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _holds(capability: int) -> bool:
    return bool(_permitted() >> capability & 1)


def _permitted() -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 (pathlib would double the start-up)
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm:"))


def _capset(*, effective: int, permitted: int, inheritable: int) -> None:
    words = [part >> shift & 0xFFFFFFFF for shift in (0, 32) for part in (effective, permitted, inheritable)]
    header = (ctypes.c_uint32 * 2)(_CAPSET_VERSION_3, 0)
    _checked(_libc().capset(header, (ctypes.c_uint32 * 6)(*words)), "capset")


def _prctl(option: int, *values: int) -> None:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _checked(_libc().prctl(ctypes.c_int(option), *arguments), f"prctl {option}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"launch: {reason}\n")
    sys.exit(126)


if __name__ == "__main__":
    main()
