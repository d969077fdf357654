"""What becomes of the models, as metrics and log lines."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import structlog

from consumer.metrics import Metrics
from feeders.checks import Check
from feeders.increment import ModelRun
from feeders.models import Model
from feeders.transform import Followed
from feeders.verify import Checked, Compared

log = structlog.get_logger()


class ModelReport:
    """Tells of runs, samples and checks. From the writer's thread."""

    def __init__(self, metrics: Metrics, models: Iterable[Model] = ()) -> None:
        self._metrics = metrics
        for model in models:
            metrics.model_errors.labels(model=model.name).set(0)
            # A counter that begins with its first event hides that from rate().
            metrics.model_keys.labels(model=model.name)
            metrics.model_rebuilds.labels(model=model.name)

    def ran(self, runs: Sequence[ModelRun]) -> None:
        """Models ran, or are held back by an error."""
        metrics = self._metrics
        for run in runs:
            metrics.model_errors.labels(model=run.model).set(0 if run.error is None else 1)
            if run.error is not None:
                log.error("model held back", model=run.model, error=run.error)
                continue
            metrics.transform_seconds.labels(model=run.model).observe(run.seconds)
            if run.how == "rebuild":
                metrics.model_rebuilds.labels(model=run.model).inc()
                detail = {"how": run.how, "reason": run.reason}
            else:
                metrics.model_keys.labels(model=run.model).inc(run.keys)
                detail = {"how": run.how, "keys": run.keys}
            log.info("model", model=run.model, rows=run.rows, seconds=round(run.seconds, 4), **detail)

    def followed(self, followed: Followed) -> None:
        """What was loaded is in all models below."""
        now = datetime.now(UTC)
        for each in followed.landings:
            self._metrics.put_to_fct.labels(source=each.stream.source, stream=each.stream.stream).observe(
                max(0.0, (now - each.at).total_seconds())
            )

    def compared(self, result: Compared) -> None:
        """A sample of a model was held against its SELECT."""
        model = result.model.name
        self._metrics.model_mismatch_rows.labels(model=model).set(result.rows)
        if result.rows:
            log.error(
                "model is wrong",
                model=model,
                keys=result.keys,
                rows=result.rows,
                hint=f"`lotus-lake transform rebuild {model}` mends it; please report what went before",
            )

    def checked(self, result: Checked) -> None:
        """A check ran."""
        check = result.check
        self._metrics.check_rows.labels(check=check.name, severity=check.severity).set(result.rows)
        if result.rows:
            log.log(
                40 if check.severity == "error" else 30,
                "check returned rows",
                check=check.name,
                rows=result.rows,
                hint=f"`lotus-lake transform test {check.name}` shows them",
            )

    def failed(self, what: Model | Check | None, error: Exception) -> None:
        """A sample or a check could not be read."""
        self._metrics.verify_errors.inc()
        log.warning("not verified", what="the models" if what is None else what.name, error=str(error))
