"""How much memory a process has, as the kernel counts it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_KIB_A_MIB = 1024


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A process's memory in MiB.

    Attributes:
        rss_mib: what is resident, files that are mapped (programs and libraries) included.
        anonymous_mib: the part of it that is no file's.
        peak_mib: the most that was ever resident, or since `forget_peak`.
    """

    rss_mib: int
    anonymous_mib: int
    peak_mib: int

    @classmethod
    def of(cls, pid: int | None = None) -> Self:
        """Reads it, of this process or another. Raises ProcessLookupError or FileNotFoundError after its end."""
        values: dict[str, int] = {}
        for line in (_folder(pid) / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                values[name] = round(int(value.split()[0]) / _KIB_A_MIB)
        return cls(rss_mib=values["VmRSS"], anonymous_mib=values["RssAnon"], peak_mib=values["VmHWM"])


def forget_peak(pid: int | None = None) -> int:
    """Lets the peak be what is resident now; returns that, in MiB."""
    (_folder(pid) / "clear_refs").write_text("5")
    return Memory.of(pid).rss_mib


def _folder(pid: int | None) -> Path:
    return Path("/proc") / str(os.getpid() if pid is None else pid)
