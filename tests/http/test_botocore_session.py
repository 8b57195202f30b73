"""boto3 signs, and its requests go through the same connections, policy and bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

from imagebroker.plugin import MalformedAnswer, PolicyViolation, TransferError, http
from tests.plugins.http_peers import answer, make_backend, serving, talking

boto3 = pytest.importorskip("boto3")

MISSING = b"<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>"


def boto_client(url: str) -> Any:
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="AKIDCANARY",
        aws_secret_access_key="secret-canary", config=Config(
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
        ),
    )  # fmt: skip


@pytest.fixture
def clients() -> Iterator[Any]:
    sessions = []

    def make(url: str, *, limit: int | None = None, origins: tuple[str, ...] = (), **options: Any):
        boto = boto_client(url)
        client = http.Client(make_backend(**options).host)
        sessions.append(http.botocore_session(client, boto, limit=limit, origins=origins))
        return boto

    yield make
    for session in sessions:
        session.close()


def test_a_signed_request_gets_its_answer(clients: Any) -> None:
    with serving(answer(b"data", 'ETag: "1"')) as server:
        found = clients(server.url).get_object(Bucket="b", Key="a b")
        assert_that(found["Body"].read(), Equals(b"data"))
        assert_that(found["ETag"], Equals('"1"'))
    asked = server.received[0]
    assert_that(asked, Contains(b"GET /b/a%20b HTTP/1.1"))
    assert_that(asked, Contains(b"Authorization: AWS4-HMAC-SHA256 Credential=AKIDCANARY"))
    assert_that(asked, Not(Contains(b"secret-canary")))


def test_a_body_is_sent_and_connections_are_used_again(clients: Any) -> None:
    with talking(answer(b"", 'ETag: "1"'), answer(b"one"), answer(b"two")) as server:
        boto = clients(server.url)
        assert_that(boto.put_object(Bucket="b", Key="k", Body=b"the body")["ETag"], Equals('"1"'))
        for expected in (b"one", b"two"):
            assert_that(boto.get_object(Bucket="b", Key="k")["Body"].read(), Equals(expected))
    assert_that(b"".join(server.received), Contains(b"\r\n\r\nthe body"))
    assert_that(b"".join(server.received), Not(Contains(b"100-continue")))


def test_an_error_of_the_service_is_botocores(clients: Any) -> None:
    from botocore.exceptions import ClientError

    with serving(answer(MISSING, status="404 Not Found")) as server:
        with pytest.raises(ClientError) as caught:
            clients(server.url).get_object(Bucket="b", Key="k")
        assert_that(caught.value.response["Error"]["Code"], Equals("NoSuchKey"))


def test_our_own_errors_pass_as_they_are_and_nothing_is_tried_again(clients: Any) -> None:
    with pytest.raises(PolicyViolation):
        clients("http://10.255.255.1").head_object(Bucket="b", Key="k")
    with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort") as server:
        with pytest.raises(TransferError):
            clients(server.url).list_objects_v2(Bucket="b")
        assert_that(server.connections, HasLength(1))
    with serving(b"nonsense\r\n\r\n") as server, pytest.raises(MalformedAnswer):
        clients(server.url).head_object(Bucket="b", Key="k")


def test_what_is_loaded_is_bounded(clients: Any) -> None:
    with serving(answer(b"x" * 2000)) as server, pytest.raises(TransferError, match="longer"):
        clients(server.url, limit=1000).list_objects_v2(Bucket="b")


def test_signed_requests_go_to_the_named_server_only(clients: Any) -> None:
    with serving(answer(b"")) as other:
        boto = clients(other.url, origins=("http://127.0.0.1:9",))
        with pytest.raises(PolicyViolation, match="would be sent on"):
            boto.head_object(Bucket="b", Key="k")
        assert_that(other.received, HasLength(0))


def test_a_redirect_is_not_followed_with_the_signature(clients: Any) -> None:
    with (
        serving(answer(b"")) as other,
        serving(answer(b"", f"Location: {other.url}/b/k", status="307 There")) as server,
    ):
        with pytest.raises(TransferError, match="redirects"):
            clients(server.url).get_object(Bucket="b", Key="k")
        assert_that(other.received, HasLength(0))


def test_the_environment_and_its_proxies_are_not_used(
    clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(answer(b"data")) as server:
        found = clients(server.url).get_object(Bucket="b", Key="k")
        assert_that(found["Body"].read(), Equals(b"data"))


def test_an_answer_to_head_has_a_length_and_no_body(clients: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nx-amz-meta-a: b\r\n\r\n"
    with serving(head) as server:
        found = clients(server.url).head_object(Bucket="b", Key="k")
        assert_that((found["ContentLength"], found["Metadata"]), Equals((1000, {"a": "b"})))
