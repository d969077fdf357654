"""`lotus-lake maintain`: what the service does in its idle moments, by hand."""

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import typer

from consumer.cli.common import errors_shown, stderr
from consumer.election import new_instance_name
from consumer.settings import Settings, load_settings
from feeders.janitor import clean, find_orphans, janitor_config, remove_orphans
from feeders.lake import Lake
from feeders.maintenance import Done, Policy, Step, look_and_plan, maintain_now


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be done: steps, and how many files the janitor would remove; None without a janitor."""

    steps: list[Step]
    waiting_files: int
    orphans: int | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done; None for what needs a janitor where there is none."""

    steps: list[Done]
    cleaned_files: int | None
    orphans: int | None
    removed_orphans: int | None


def maintain(
    *,
    retention_days: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Expire snapshots that are older: time travel to them ends."
            " LOTUS_SNAPSHOT_RETENTION_DAYS if not given.",
        ),
    ] = None,
    remove: Annotated[
        bool,
        typer.Option(
            "--remove-orphans", help="Remove files below the lake's path that the catalog does not know."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output, on one line.")] = False,
) -> None:
    """Merge small files, expire old snapshots and remove what nobody needs, beside a running service or without one."""
    started = time.monotonic()
    with errors_shown():
        settings = load_settings()
        policy = settings.maintenance_policy
        if retention_days is not None:
            policy = replace(policy, retention_s=retention_days * 86400)
        if dry_run:
            show_plan(plan(settings, policy), as_json=as_json)
            return
        with stderr.status("maintaining the lake"):
            report = carry_out(settings, policy, remove=remove)
    show_report(report, seconds=time.monotonic() - started, as_json=as_json)


def plan(settings: Settings, policy: Policy) -> Plan:
    """Says what is due; changes nothing."""
    lake = open_lake(settings)
    try:
        health, steps = look_and_plan(lake, policy, expire_at_least=1)
    finally:
        lake.close()
    janitor = open_janitor(settings)
    if janitor is None:
        return Plan(steps=steps, waiting_files=health.removable_files, orphans=None)
    try:
        orphans = len(find_orphans(janitor, older_than_s=settings.cleanup_after_hours * 3600))
    finally:
        janitor.close()
    return Plan(steps=steps, waiting_files=health.removable_files, orphans=orphans)


def carry_out(settings: Settings, policy: Policy, *, remove: bool) -> Report:
    """Does what is due, as the loader, and then as the janitor if there is one."""
    lake = open_lake(settings)
    try:
        steps = list(maintain_now(lake, policy))
    finally:
        lake.close()
    janitor = open_janitor(settings)
    if janitor is None:
        return Report(steps=steps, cleaned_files=None, orphans=None, removed_orphans=None)
    after_s = settings.cleanup_after_hours * 3600
    try:
        cleaned = clean(janitor, after_s=after_s)
        orphans = len(find_orphans(janitor, older_than_s=after_s))
        removed = remove_orphans(janitor, older_than_s=after_s) if remove else 0
    finally:
        janitor.close()
    return Report(
        steps=steps, cleaned_files=cleaned.files, orphans=orphans - removed, removed_orphans=removed
    )


def open_lake(settings: Settings) -> Lake:
    """Opens the lake as the loader."""
    return Lake(replace(settings.lake(new_instance_name("d")), may_create=False))


def open_janitor(settings: Settings) -> Lake | None:
    """Opens the lake as the janitor; None where there is none."""
    if (store := settings.janitor_store) is None:
        return None
    name = new_instance_name("j")
    return Lake(janitor_config(settings.lake(name), store, instance=name))


NO_JANITOR = (
    "no janitor: set LOTUS_JANITOR_S3_ACCESS_KEY_ID and its secret, else unneeded files stay in the bucket"
)


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Says what would be done."""
    if as_json:
        document = {
            "steps": [str(step) for step in plan.steps],
            "removable_files": plan.waiting_files,
            "orphans": plan.orphans,
        }
        typer.echo(json.dumps(document))
        return
    for step in plan.steps:
        typer.echo(f"would {step}")
    if not plan.steps:
        typer.echo("no step is due")
    typer.echo(
        f"{plan.waiting_files:,} files wait to be removed, each until LOTUS_CLEANUP_AFTER_HOURS are over"
    )
    typer.echo(NO_JANITOR if plan.orphans is None else f"{plan.orphans:,} orphans")


def show_report(report: Report, *, seconds: float, as_json: bool) -> None:
    """Says what was done."""
    if as_json:
        steps = [{**asdict(each), "step": str(each.step)} for each in report.steps]
        typer.echo(json.dumps({**asdict(replace(report, steps=[])), "steps": steps}))
        return
    for each in report.steps:
        size = f"{each.before.bytes:>15,} → {each.after.bytes:<15,} bytes" if each.before.bytes else " " * 40
        numbers = f"{each.before.number:>8,} → {each.after.number:<8,}"
        typer.echo(f"{each.step!s:<44} {numbers} {size} {each.seconds:>7.2f} s")
    if report.cleaned_files is None:
        typer.echo(NO_JANITOR)
    else:
        typer.echo(f"{report.cleaned_files:,} files removed, {report.removed_orphans:,} orphans removed")
        if report.orphans:
            typer.echo(f"{report.orphans:,} orphans are left: --remove-orphans removes them")
    typer.echo(f"{len(report.steps)} steps in {seconds:.2f} s" if report.steps else "no step was due")
