"""Errors of the consumer, named by the next move; each is classified once, at the edge that met it.

```
LotusError
├── Unavailable            a dependency does not answer: wait, back off, try again
│   └── NeedsMending           it refuses us, or is full: wait too, but a person has to do something (`hint`)
├── NotFound               the bucket has no such key: gone, not there yet, or never there
├── UnexpectedAnswer       S3 refuses a request about one key in a way that we have no name for
├── LockLost               another process may be the writer by now: write nothing more, end the term
├── Misconfigured          something is set up wrong: stop with exit status 3 and say the cure (`hint`)
│   ├── SettingsError          a setting is missing, unknown or wrong: exit status 2
│   └── BrokerMisconfigured    a js_stream, subscription or permission on the NATS server is not ours
├── HeldBack               it is not this key's turn: give it back untried
├── CrashedProcess         the process died with this key too often: dead letter, never try it again
├── BadKeyEvent            a message is not a key event: dead letter, it can never become one
├── BadRequest             a request to one of our services can't be carried out as it is: say what is wrong
├── NoResponder            nobody answers requests on a subject: there is no writer, or it is another namespace
└── Undecodable            a raw notification is of no known form: dead letter, whole
```
"""


class LotusError(Exception):
    """Any error that this program raises on purpose."""


class Unavailable(LotusError):
    """A dependency does not answer, or not yet: wait and try again.

    Attributes:
        dependency: which one, as the operator knows it: "nats", "s3", "catalog", "filer".
    """

    def __init__(self, dependency: str, message: str) -> None:
        super().__init__(f"{dependency}: {message}")
        self.dependency = dependency


class NeedsMending(Unavailable):
    """A dependency answers, but refuses us or has no room. It is the service's trouble, never one key's.

    At run time it is waited for like any Unavailable, since a person may mend it meanwhile.

    Attributes:
        hint: what that person has to do.
        code: the dependency's own name for the trouble, e.g. "AccessDenied"; empty if it gave none.
    """

    def __init__(self, dependency: str, message: str, *, hint: str, code: str = "") -> None:
        super().__init__(dependency, f"{message} ({hint})")
        self.hint = hint
        self.code = code


class NotFound(LotusError):
    """The bucket has no object with this key."""


class UnexpectedAnswer(LotusError):
    """S3 refused a request in a way that we have no name for. The text is the server's code and message."""


class LockLost(LotusError):
    """The writer's lock is lost, or may be: nothing more may be written in this term."""


class Misconfigured(LotusError):
    """Something is set up wrong, and no waiting mends it.

    Attributes:
        hint: the command or setting that does.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(Misconfigured):
    """A setting is missing, unknown or wrong: exit status 2."""


class BrokerMisconfigured(Misconfigured):
    """The NATS server holds a configuration, or gives permissions, that we can't work with."""


class HeldBack(LotusError):
    """It is not this key's turn yet; nothing was tried."""


class CrashedProcess(LotusError):
    """The process died with this key too often.

    Attributes:
        deaths: how often, while it worked on this key and no other.
    """

    def __init__(self, deaths: int) -> None:
        super().__init__(f"the process died {deaths} times while it worked on this object and on no other")
        self.deaths = deaths


class BadKeyEvent(LotusError):
    """A value or message is not a key event. The text names the field and never quotes a whole payload."""


class Undecodable(LotusError):
    """A raw notification could not be understood.

    Attributes:
        reason: what was found, without the payload.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadRequest(LotusError):
    """A request from outside can't be carried out as it is. The text says what was found and expected.

    Attributes:
        hint: what to send instead.
        code: as in HTTP: 400, or 413 for too much.
    """

    def __init__(self, message: str, *, hint: str, code: int = 400) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class NoResponder(LotusError):
    """Nobody answers requests on a subject."""
