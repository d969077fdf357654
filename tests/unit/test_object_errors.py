"""Whose trouble an answer of S3 is: the key's, the service's, or a person's."""

import pytest
from botocore.exceptions import ClientError

from consumer.errors import LotusError, NeedsMending, NotFound, Unavailable, UnexpectedAnswer
from consumer.objects import classify


def answered(status: int, code: str) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": "what the server said"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },  # pyright: ignore[reportArgumentType] - only what is read
        "GetObject",
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", NotFound),
        (404, "404", NotFound),
        (404, "NoSuchBucket", NeedsMending),
        (401, "Unauthorized", NeedsMending),
        (403, "AccessDenied", NeedsMending),
        (403, "403", NeedsMending),
        (403, "InvalidAccessKeyId", NeedsMending),
        (403, "SignatureDoesNotMatch", NeedsMending),
        (403, "RequestTimeTooSkewed", NeedsMending),
        (400, "RequestTimeout", Unavailable),
        (400, "SlowDown", Unavailable),
        (408, "", Unavailable),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unavailable),
        (502, "502", Unavailable),
        (503, "SlowDown", Unavailable),
        (507, "InsufficientStorage", Unavailable),
        (400, "InvalidRequest", UnexpectedAnswer),
        (400, "KeyTooLongError", UnexpectedAnswer),
        (416, "InvalidRange", UnexpectedAnswer),
    ],
)
def test_an_answer_is_named_by_the_next_move(status: int, code: str, expected: type[LotusError]) -> None:
    error = classify(answered(status, code), "raw/a")

    assert type(error) is expected
    assert "raw/a" in str(error)
    assert str(status) in str(error)
    if isinstance(error, Unavailable):
        assert error.dependency == "s3"
    if isinstance(error, NeedsMending):
        assert error.hint
        assert error.hint in str(error)


def test_a_refusal_that_is_about_the_key_alone_is_not_waited_for() -> None:
    assert type(classify(answered(403, "AccessDenied"), "raw/a\nb")) is UnexpectedAnswer
