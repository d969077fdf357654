"""Makes the buckets landing and lake, and sets their policies: `python make_buckets.py http://seaweedfs:8333`.

Needs botocore, which the service's image has. The admin's keys come from s3.json beside this file, and the
policies from {bucket}-bucket-policy.json. It may be run again at any time, and ends with status 1 if it could not.
"""

import json
import sys
import time
from pathlib import Path

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

HERE = Path(__file__).resolve().parent
BUCKETS = ("landing", "lake")
PATIENCE_S = 120.0
THERE_ALREADY = ("BucketAlreadyExists", "BucketAlreadyOwnedByYou")


def main(endpoint: str) -> None:
    """Makes what is missing; waits for a server that does not answer yet."""
    identities = json.loads((HERE / "s3.json").read_text())["identities"]
    (keys,) = next(each["credentials"] for each in identities if "Admin" in each["actions"])
    client = get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys["accessKey"],
        aws_secret_access_key=keys["secretKey"],
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=5),
    )
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.list_buckets()
            break
        except (BotoCoreError, ClientError) as error:
            # A wrong key is told at once: waiting does not mend it.
            if (
                time.monotonic() > deadline
                or "AccessDenied" in str(error)
                or "InvalidAccessKey" in str(error)
            ):
                sys.exit(
                    f"error: {endpoint} can't be used: {error}\nhint: are the keys of {HERE}/s3.json its admin's?"
                )
            time.sleep(1)
    for bucket in BUCKETS:
        try:
            client.create_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in THERE_ALREADY:
                sys.exit(f"error: the bucket {bucket} can't be made: {error}")
        policy = (HERE / f"{bucket}-bucket-policy.json").read_text()
        try:
            client.put_bucket_policy(Bucket=bucket, Policy=policy)
        except ClientError as error:
            sys.exit(f"error: the policy of the bucket {bucket} can't be set: {error}")
        sys.stdout.write(f"bucket {bucket} is there, with its policy\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_buckets.py ENDPOINT, such as http://seaweedfs:8333")
    main(sys.argv[1])
