"""What the project's SQL files say: tables, streams, models and checks."""

from dataclasses import dataclass

from consumer.settings import ProjectSettings
from feeders.checks import Check, load_checks
from feeders.lake import describe_create_table
from feeders.models import Model, load_models
from feeders.project import find_project
from feeders.streams import StreamTable, load_streams
from feeders.tables import Table, load_meta_tables, load_staging_tables


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """The project's tables, streams, models and checks; `origin` says where its files were found."""

    origin: str
    tables: tuple[Table, ...]
    streams: StreamTable
    models: tuple[Model, ...]
    checks: tuple[Check, ...]


def load_definitions(settings: ProjectSettings) -> Definitions:
    """Reads `ddl/` and `transforms/`.

    Raises:
        ProjectError: a file is missing or wrong.
    """
    project = find_project(settings.project_dir)
    tables = (
        *load_meta_tables(project, describe_create_table),
        *load_staging_tables(project, describe_create_table),
    )
    models = load_models(project)
    return Definitions(
        origin=project.origin,
        tables=tables,
        streams=load_streams(project, prefix=settings.landing_prefix, describe=describe_create_table),
        models=models,
        checks=load_checks(project, models, tables),
    )
