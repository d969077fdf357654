"""`lotus-lake maintain`: merges small files and expires old snapshots, by hand."""

import json
import time
from dataclasses import asdict, replace
from typing import Annotated

import typer

from consumer.cli.common import errors_shown, stderr
from consumer.election import new_instance_name
from consumer.settings import Settings, load_settings
from feeders.lake import Lake
from feeders.maintenance import Done, Policy, Step, maintain_now, plan_steps


def maintain(
    *,
    retention_days: Annotated[
        float, typer.Option(min=0, help="Expire snapshots that are older: time travel to them ends.")
    ] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output, on one line.")] = False,
) -> None:
    """Merge small files and expire old snapshots of the lake, beside a running service or without one."""
    policy = Policy(retention_s=retention_days * 86400)
    started = time.monotonic()
    with errors_shown():
        settings = load_settings()
        if dry_run:
            show_plan(with_lake(settings, policy, dry_run=True)[0], as_json=as_json)
            return
        with stderr.status("maintaining the lake"):
            done = with_lake(settings, policy, dry_run=False)[1]
    show_done(done, seconds=time.monotonic() - started, as_json=as_json)


def with_lake(settings: Settings, policy: Policy, *, dry_run: bool) -> tuple[list[Step], list[Done]]:
    """Opens the lake; plans, or does, what is due."""
    config = replace(settings.lake(new_instance_name().replace("w-", "d-", 1)), may_create=False)
    lake = Lake(config)
    try:
        return (plan_steps(lake, policy), []) if dry_run else ([], list(maintain_now(lake, policy)))
    finally:
        lake.close()


def show_plan(steps: list[Step], *, as_json: bool) -> None:
    """Says what would be done."""
    if as_json:
        typer.echo(json.dumps([str(step) for step in steps]))
        return
    for step in steps:
        typer.echo(f"would {step}")
    if not steps:
        typer.echo("nothing is due")


def show_done(done: list[Done], *, seconds: float, as_json: bool) -> None:
    """Says what was done."""
    if as_json:
        typer.echo(json.dumps([{**asdict(each), "step": str(each.step)} for each in done]))
        return
    for each in done:
        typer.echo(f"{each.step!s:<44} {each.before:>8,} → {each.after:<8,} {each.seconds:>7.2f} s")
    typer.echo(f"{len(done)} steps in {seconds:.2f} s" if done else "nothing is due")
