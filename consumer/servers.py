"""Which of its servers answer this process, for /metrics. Whoever asks one tells what came of it."""

from consumer.metrics import Metrics

_NAMES = {"nats": "nats", "s3": "s3", "catalog": "postgresql", "postgresql": "postgresql", "filer": "filer"}
"""As errors name a dependency, and as the metrics do. Disk, spool and lake are no servers."""


class Servers:
    """What was last heard of each server. From any one thread at a time."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._is_up: dict[str, bool] = {}

    def answered(self, *dependencies: str) -> None:
        """These answered; of one that did not before, this is a reconnect."""
        for name in self._names(dependencies):
            if self._is_up.get(name) is False:
                self._metrics.reconnects.labels(dependency=name).inc()
            self._note(name, is_up=True)

    def silent(self, *dependencies: str) -> None:
        """These did not answer, or refused us."""
        for name in self._names(dependencies):
            self._note(name, is_up=False)

    def _names(self, dependencies: tuple[str, ...]) -> list[str]:
        return [_NAMES[each] for each in dependencies if each in _NAMES]

    def _note(self, name: str, *, is_up: bool) -> None:
        if self._is_up.get(name) is not is_up:
            self._metrics.reconnects.labels(dependency=name)  # a series from the start on: 0 is an answer too
        self._is_up[name] = is_up
        self._metrics.dependency_up.labels(dependency=name).set(is_up)
