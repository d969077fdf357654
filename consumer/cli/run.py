"""`lotus-lake run`: the long-lived consumer."""

from consumer.app import Service
from consumer.cli.common import errors_shown
from consumer.cli.loop import run_on_uvloop
from consumer.logs import configure_logs
from consumer.settings import Settings, load_settings


def run() -> None:
    """Run the consumer until SIGTERM or Ctrl-C. Settings come from the environment."""
    with errors_shown():
        run_on_uvloop(run_service(load_settings()))


async def run_service(settings: Settings) -> None:
    """Runs one service, its log lines on standard error."""
    service = Service(settings)
    configure_logs(settings.log_level, instance=service.instance)
    await service.run()
