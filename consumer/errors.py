"""Errors of the consumer, named by the next move; each is classified once, at the edge that met it.

```
LotusError
├── Unavailable            a dependency does not answer: wait, back off, try again
├── Misconfigured          something is set up wrong: stop with exit status 3 and say the cure (`hint`)
│   └── BrokerMisconfigured    a js_stream, subscription or permission on the NATS server is not ours
├── BadKeyEvent            a message is not a key event: dead letter, it can never become one
└── Undecodable            a raw notification is of no known form: dead letter, whole
```
"""


class LotusError(Exception):
    """Any error that this program raises on purpose."""


class Unavailable(LotusError):  # noqa: N818 - named by the next move
    """A dependency does not answer, or not yet: wait and try again.

    Attributes:
        dependency: which one, as the operator knows it: "nats", "s3", "catalog", "filer".
    """

    def __init__(self, dependency: str, message: str) -> None:
        super().__init__(f"{dependency}: {message}")
        self.dependency = dependency


class Misconfigured(LotusError):  # noqa: N818 - named by the next move
    """Something is set up wrong, and no waiting mends it.

    Attributes:
        hint: the command or setting that does.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class BrokerMisconfigured(Misconfigured):
    """The NATS server holds a configuration, or gives permissions, that we can't work with."""


class BadKeyEvent(LotusError):  # noqa: N818 - named by the next move
    """A value or message is not a key event. The text names the field and never quotes a whole payload."""


class Undecodable(LotusError):  # noqa: N818 - named by the next move
    """A raw notification could not be understood.

    Attributes:
        reason: what was found, without the payload.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
