"""What can go wrong with the embedded servers.

StackError                  the base; the message says what was found and what to do
├── FolderInUseError        another live supervisor holds the folder: stop it, or choose another folder
└── ServerDiedError         a server ended, or never answered, at its start: the message ends with its log
"""

from pathlib import Path


class StackError(Exception):
    """The embedded servers cannot be run as asked."""


class FolderInUseError(StackError):
    """Another live supervisor holds the folder."""


class ServerDiedError(StackError):
    """A server ended or did not answer while it was being started."""

    def __init__(self, what: str, log: Path, output: str) -> None:
        self.log = log
        self.output = output
        tail = "\n".join(f"  | {line}" for line in output.splitlines()[-20:]) or "  | (nothing)"
        super().__init__(f"{what}. The end of its log {log}:\n{tail}")

    @property
    def address_in_use(self) -> bool:
        """Says whether a port was the trouble."""
        return "address already in use" in self.output.lower()
