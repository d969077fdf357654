"""Logs: one JSON object a line on standard error, UTC, never a secret and never a row's value."""

import logging
import sys
import traceback

import structlog

MOST_FRAMES = 40


def configure_logs(level: str, *, instance: str) -> None:
    """Sets up structlog for the process; libraries' warnings go the same way."""
    number = logging.getLevelNamesMapping()[level.upper()]

    def add_instance(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["instance"] = instance
        return event

    shared: list[structlog.types.Processor] = [
        add_instance,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def frames(error: BaseException) -> list[str]:
    """Where an error was raised, outermost frame first, with those of its causes before it; no text of it."""
    lines: list[str] = []
    cause = error.__cause__ or error.__context__
    if cause is not None and cause is not error:
        lines += [f"{type(cause).__name__}:", *frames(cause)]
    for frame in traceback.extract_tb(error.__traceback__):
        lines.append(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}")
    return lines[-MOST_FRAMES:] or ["no frames"]
