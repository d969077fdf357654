"""`lotus-lake check`: can the service run here, and if not, what mends it?"""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from consumer.check import Finding, run_checks
from consumer.cli.common import WRONG_ENVIRONMENT, errors_shown
from consumer.settings import Settings, load_settings

COLOURS = {"ok": "green", "note": "yellow", "unreachable": "red", "wrong": "red"}


def check(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON array of the lines on standard output.")
    ] = False,
) -> None:
    """Look at every dependency and every fact that the service needs; changes nothing but missing js_streams."""
    with errors_shown():
        findings = asyncio.run(collect(load_settings(), show=not as_json))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    raise typer.Exit(WRONG_ENVIRONMENT if any(finding.is_bad for finding in findings) else 0)


async def collect(settings: Settings, *, show: bool) -> list[Finding]:
    """Runs the checks; shows each finding as it comes."""
    console = Console(highlight=False)
    findings: list[Finding] = []
    async for finding in run_checks(settings):
        findings.append(finding)
        if show:
            colour = COLOURS[finding.status]
            console.print(
                f"[{colour}]{finding.status:<11}[/] {escape(finding.subject):<14} {escape(finding.found)}",
                soft_wrap=True,
            )
            if finding.cure:
                console.print(f"{'':<26} → {escape(finding.cure)}", soft_wrap=True)
    return findings
