"""Signatures of images that are downloaded or read."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from castellan.common.exception import KeyManagerError
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

import imagebroker
from imagebroker.exceptions import (
    Cancelled,
    ConfigError,
    InvalidImageRef,
    SignatureError,
    TransferError,
    TransferTimeout,
)
from imagebroker.plugin import Image, ImageRef, Location
from tests.conftest import SMALL_AND_QUICK, Scripted
from tests.distributions import install
from tests.scripted import IMAGES, RecordBackend, Script
from tests.verify.signing import CONFIG, MemoryKeyManager, issued, root, signer
from tests.verify.ways import WAYS, ToPath, Way

DATA = bytes(range(256)) * 40
WRONG = DATA[:-1] + b"x"
SHA256 = hashlib.sha256(DATA).hexdigest()
#: What a call says to have the signature checked.
ASKED = {"trusted_certs": ["root"]}


@pytest.fixture(autouse=True)
def key_manager() -> Iterator[None]:
    """With the root and what it has issued."""
    MemoryKeyManager.reset()
    root().stored()
    signer().stored()
    yield
    MemoryKeyManager.reset()


@pytest.fixture
def broker(scripted: Scripted) -> imagebroker.Broker:
    return scripted.configured(backend=CONFIG)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


def signed(data: bytes = DATA, **other: Any) -> dict[str, Any]:
    return {"properties": signer().properties(data, **other)}


@pytest.mark.promise("security-27")
def test_a_signed_image_arrives_whole_and_once(
    scripted: Scripted, broker: imagebroker.Broker, way: Way
) -> None:
    ref, _ = scripted.image(DATA, record=signed())
    data, evidence = way.get(broker, ref, **ASKED)
    assert_that(data, Equals(DATA))
    said = "RSA-PSS with SHA-256 by the certificate signer-RSA-PSS"
    assert_that(evidence["signature"], Equals(said))
    assert_that(evidence["checked_against"], Equals((f"signature {said}",)))


@pytest.mark.promise("security-27")
def test_a_bad_signature_leaves_nothing(
    scripted: Scripted, broker: imagebroker.Broker, way: Way
) -> None:
    for data in (WRONG, DATA[:-1], b""):
        ref, _ = scripted.image(data, record=signed(), image_id="x")
        with pytest.raises(SignatureError, match="does not match its signature"):
            way.get(broker, ref, **ASKED)
        way.assert_nothing_came(len(data))


def test_the_signature_of_another_image_is_bad_though_the_checksum_is_right(
    scripted: Scripted, broker: imagebroker.Broker, way: Way
) -> None:
    ref, _ = scripted.image(DATA, record=signed(WRONG), checksums={"sha256": SHA256})
    with pytest.raises(SignatureError):
        way.get(broker, ref, **ASKED)
    way.assert_nothing_came(len(DATA))


@pytest.mark.promise("security-27")
@pytest.mark.parametrize(
    "properties",
    [{}, signer().properties(DATA, img_signature=None),
     signer().properties(DATA, img_signature_hash_method="SHA-224"),
     issued("foreign", issued("other", ca=True)).properties(DATA)],
)  # fmt: skip
def test_what_cannot_be_verified_is_refused_before_the_first_byte(
    scripted: Scripted, broker: imagebroker.Broker, way: Way, properties: dict[str, Any]
) -> None:
    issued("foreign", issued("other", ca=True)).stored()
    ref, script = scripted.image(DATA, record={"properties": properties})
    with pytest.raises(SignatureError):
        way.get(broker, ref, **ASKED)
    way.assert_nothing_came(len(DATA))
    assert_that((script.reads, script.opened, script.closed), Equals(([], 1, 1)))


@pytest.mark.promise("security-27")
@pytest.mark.parametrize("seekable", [True, False])
def test_an_attempt_that_begins_again_is_verified_by_itself(
    scripted: Scripted, broker: imagebroker.Broker, way: Way, seekable: bool
) -> None:
    breaks: list[Any] = [(5000, None), (0, None), (9000, None)]
    ref, script = scripted.image(DATA, record=signed(), seekable=seekable, breaks=breaks)
    data, evidence = way.get(broker, ref, **ASKED)
    assert_that(data, Equals(DATA))
    assert_that(evidence["signature"], Contains("RSA-PSS"))
    assert_that(len(script.reads), Equals(4))


@pytest.mark.parametrize("right", [True, False])
def test_a_large_image_is_verified_behind_the_writes(
    scripted: Scripted, broker: imagebroker.Broker, way: Way, right: bool
) -> None:
    data = DATA * 1000
    ref, _ = scripted.image(data, record=signed(data if right else data + b"x"), chunk=300_000)
    if right:
        assert_that(way.get(broker, ref, **ASKED)[0], Equals(data))
        return
    with pytest.raises(SignatureError):
        way.get(broker, ref, **ASKED)
    way.assert_nothing_came(len(data))


@pytest.mark.parametrize("tuning", [SMALL_AND_QUICK], indirect=True, ids=["quick"])
def test_ranges_that_arrive_in_any_order_are_verified_in_theirs(
    scripted: Scripted, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    data = DATA * 7000
    ref, script = scripted.image(
        data, record=signed(data), chunk=1 << 17, parallel_reads=4, version="v1",
        before_chunk=lambda offset: threading.Event().wait(0.004),
    )  # fmt: skip
    done = broker.download(None, ref, tmp_path / "image", **ASKED)
    assert_that(done.evidence["signature"], Contains("RSA-PSS"))
    assert script.most_alive > 1


@pytest.mark.parametrize("right", [True, False])
def test_a_file_of_this_host_is_verified_after_it_was_cloned(
    scripted: Scripted, broker: imagebroker.Broker, way: Way, tmp_path: Path, right: bool
) -> None:
    local = tmp_path / "local"
    local.write_bytes(DATA)
    ref, _ = scripted.image(DATA, local_path=local, record=signed(DATA if right else WRONG))
    if right:
        data, evidence = way.get(broker, ref, **ASKED)
        assert_that(data, Equals(DATA))
        assert_that(evidence["signature"], Contains("RSA-PSS"))
        return
    with pytest.raises(SignatureError):
        way.get(broker, ref, **ASKED)
    way.assert_nothing_came(len(DATA))


@pytest.mark.parametrize("rest", [DATA, DATA[:-1] + b"x"])
def test_what_an_earlier_process_left_is_verified_with_the_rest(
    scripted: Scripted, broker: imagebroker.Broker, tmp_path: Path, rest: bytes
) -> None:
    dest = tmp_path / "folder" / "image"
    dest.parent.mkdir()
    how: dict[str, Any] = {"retries": 0, "keep_partial": True, **ASKED}
    ref, script = scripted.image(DATA, record=signed(), version="v1", breaks=[(5000, None)])
    with pytest.raises(TransferError):
        broker.download(None, ref, dest, **how)
    script.data = rest
    script.reads.clear()
    if rest == DATA:
        assert_that(broker.download(None, ref, dest, **how).resumed_from, Equals(5000))
        assert_that(dest.read_bytes(), Equals(DATA))
    else:
        with pytest.raises(SignatureError):
            broker.download(None, ref, dest, **how)
        assert_that(list(dest.parent.iterdir()), Equals([]))
    assert_that(script.reads, Equals([5000]))


class TestDeployment:
    """What the configuration demands of every download."""

    STRICT = "verify_signatures = true\ntrusted_certificate_ids = gone, root\n"

    def test_every_image_must_be_signed(self, scripted: Scripted, way: Way) -> None:
        broker = scripted.configured(self.STRICT, CONFIG)
        ref, _ = scripted.image(DATA)
        with pytest.raises(SignatureError, match="has no signature"):
            way.get(broker, ref)
        way.assert_nothing_came(len(DATA))
        ref, _ = scripted.image(DATA, record=signed())
        assert_that(way.get(broker, ref)[1]["signature"], Contains("RSA-PSS"))

    def test_a_copy_is_read_from_a_signed_image_only(self, scripted: Scripted) -> None:
        broker = scripted.configured(self.STRICT, CONFIG)
        ref, _ = scripted.image(DATA)
        with pytest.raises(SignatureError), broker.open(None, ref) as reader:
            reader.read()

    def test_without_validation_the_evidence_says_so(self, scripted: Scripted, way: Way) -> None:
        loose = "verify_signatures = true\nenable_certificate_validation = false\n"
        broker = scripted.configured(loose, CONFIG)
        ref, _ = scripted.image(DATA, record=signed())
        assert_that(way.get(broker, ref)[1]["signature"], Contains("not validated"))

    def test_what_are_no_ids_is_said_when_the_broker_is_made(self, scripted: Scripted) -> None:
        with pytest.raises(ConfigError, match="trusted_certificate_ids"):
            scripted.configured("trusted_certificate_ids = http://host/key")

    def test_what_are_no_ids_is_said_before_anybody_is_asked(
        self, scripted: Scripted, broker: imagebroker.Broker, way: Way
    ) -> None:
        ref, script = scripted.image(DATA, record=signed())
        for wrong in ("root", ["../root"], 7):
            with pytest.raises(InvalidImageRef):
                way.get(broker, ref, trusted_certs=wrong)
        assert_that(script.opened, Equals(0))


class TestKeyManager:
    def test_one_that_is_down_ends_the_call_and_the_next_may_work(
        self, scripted: Scripted, broker: imagebroker.Broker, way: Way
    ) -> None:
        def down(name: str) -> None:
            raise KeyManagerError(reason="connection refused")

        MemoryKeyManager.before_answer = down
        ref, script = scripted.image(DATA, record=signed())
        with pytest.raises(TransferError, match="key manager") as caught:
            way.get(broker, ref, **ASKED)
        assert_that(caught.value.retryable, Is(True))
        way.assert_nothing_came(len(DATA))
        assert_that(script.reads, Equals([]))
        MemoryKeyManager.before_answer = lambda name: None
        assert_that(way.get(broker, ref, **ASKED)[0], Equals(DATA))

    def test_one_that_is_slow_is_not_waited_for(self, scripted: Scripted, way: Way) -> None:
        answers = threading.Event()
        MemoryKeyManager.before_answer = lambda name: answers.wait(30)
        quick = scripted.configured("connect_timeout = 0.1\nstall_timeout = 0.2\n", CONFIG)
        ref, _ = scripted.image(DATA, record=signed())
        with pytest.raises(TransferTimeout, match="key manager"):
            way.get(quick, ref, **ASKED)
        way.assert_nothing_came(len(DATA))
        answers.set()

    def test_a_caller_who_cancels_does_not_wait_for_it(
        self, scripted: Scripted, broker: imagebroker.Broker, way: Way
    ) -> None:
        answers, cancel = threading.Event(), threading.Event()

        def answer(name: str) -> None:
            cancel.set()
            answers.wait(30)

        MemoryKeyManager.before_answer = answer
        ref, _ = scripted.image(DATA, record=signed())
        with pytest.raises(Cancelled):
            way.get(broker, ref, cancel=cancel, **ASKED)
        answers.set()


UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"


class SignedBackend(RecordBackend):
    """Images with ids, whose records name locations and a signature."""

    name = "signed"
    locations: list[str] = []
    properties: dict[str, Any] = {}

    def get(self, context: Any, ref: ImageRef, **flags: bool) -> Image:
        return Image(
            ref=ref.text, id=ref.id, size=len(DATA), checksums={"sha256": SHA256},
            properties=self.properties,
            locations=tuple(Location(url, {}) for url in self.locations),
        )  # fmt: skip


class TestLocations:
    @pytest.fixture
    def broker(
        self, on_path: Path, make_broker: Callable[..., imagebroker.Broker]
    ) -> imagebroker.Broker:
        """The backend has the right bytes; what a location has is for each test to say."""
        schemes = {
            "signed": f"{__name__}:SignedBackend", "scripted": "tests.scripted:ScriptedBackend",
        }  # fmt: skip
        install(on_path, "imagebroker-signed", schemes)
        IMAGES.clear()
        IMAGES[UUID] = Script(DATA)
        SignedBackend.locations = ["scripted://host/location"]
        SignedBackend.properties = signer().properties(DATA)
        return make_broker(
            "[imagebroker]\nenabled_schemes = signed, scripted\nretries = 0\n"
            f"direct_url_schemes = scripted\n{CONFIG}"
        )

    def test_a_location_with_the_right_bytes_is_enough(
        self, broker: imagebroker.Broker, way: Way
    ) -> None:
        IMAGES["/location"] = Script(DATA)
        data, evidence = way.get(broker, f"signed:{UUID}", **ASKED)
        assert_that(data, Equals(DATA))
        assert_that(evidence["signature"], Contains("RSA-PSS"))
        assert_that(IMAGES[UUID].opened, Equals(0))

    @pytest.mark.promise("security-27")
    @pytest.mark.parametrize("sent", [DATA, WRONG])
    def test_after_a_bad_signature_nobody_else_is_asked(
        self, broker: imagebroker.Broker, way: Way, sent: bytes
    ) -> None:
        IMAGES["/location"] = Script(sent)
        if sent == DATA:
            SignedBackend.properties = signer().properties(WRONG)
        with pytest.raises(SignatureError):
            way.get(broker, f"signed:{UUID}", **ASKED)
        way.assert_nothing_came(len(DATA))
        assert_that(IMAGES[UUID].opened, Equals(0))

    @pytest.mark.parametrize(
        "broken",
        [{"open_error": TransferError("no route")}, {"breaks": ((5000, None),)}, {"size": 7}],
    )
    def test_a_location_that_breaks_is_replaced_by_the_next_place(
        self, broker: imagebroker.Broker, way: Way, broken: dict[str, Any]
    ) -> None:
        IMAGES["/location"] = Script(DATA, **broken)
        IMAGES["/location"].breaks = list(broken.get("breaks", ()))
        data, evidence = way.get(broker, f"signed:{UUID}", **ASKED)
        assert_that(data, Equals(DATA))
        assert_that(evidence["signature"], Contains("RSA-PSS"))
        assert_that(IMAGES[UUID].opened, Equals(1))

    def test_a_record_that_cannot_be_verified_opens_no_place(
        self, broker: imagebroker.Broker, way: Way
    ) -> None:
        IMAGES["/location"] = Script(DATA)
        SignedBackend.properties = {}
        with pytest.raises(SignatureError, match="has no signature"):
            way.get(broker, f"signed:{UUID}", **ASKED)
        assert_that((IMAGES["/location"].opened, IMAGES[UUID].opened), Equals((0, 0)))

    def test_the_certificates_are_fetched_once(
        self, broker: imagebroker.Broker, tmp_path: Path
    ) -> None:
        IMAGES["/location"] = Script(DATA, breaks=[(5000, None)])
        ToPath(tmp_path).get(broker, f"signed:{UUID}", **ASKED)
        assert_that([name for _, name in MemoryKeyManager.asked], Equals([signer().name, "root"]))
