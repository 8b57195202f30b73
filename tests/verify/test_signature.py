"""Which signature must hold, and whether it does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from castellan.common.exception import Forbidden, KeyManagerError
from oslo_config import cfg
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, Not

from imagebroker.exceptions import (
    Cancelled,
    ConfigError,
    InvalidImageRef,
    NotAuthorized,
    SignatureError,
    TransferError,
    TransferTimeout,
)
from imagebroker.model.image import Image
from imagebroker.verify.signature import (
    PROPERTIES,
    Signature,
    SignatureCheck,
    SignaturePolicy,
    checked_certificates,
    required_signature,
)
from tests.bounds import in_time
from tests.verify.signing import MemoryKeyManager, issued, key, root, secret, signer

DATA = bytes(range(256)) * 40
POLICY = SignaturePolicy(timeout=5.0)


@pytest.fixture(autouse=True)
def key_manager() -> Iterator[type[MemoryKeyManager]]:
    """With the root and what it has issued."""
    MemoryKeyManager.reset()
    root().stored()
    signer().stored()
    yield MemoryKeyManager
    MemoryKeyManager.reset()


@pytest.fixture
def conf(tmp_path: Path) -> cfg.ConfigOpts:
    return configured(tmp_path, "tests.verify.signing.MemoryKeyManager")


def configured(folder: Path, driver: str) -> cfg.ConfigOpts:
    """A service's configuration, with the older name of the option."""
    path = folder / "service.conf"
    path.write_text(f"[key_manager]\napi_class = {driver}\n")
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)], default_config_dirs=[])
    return conf


@pytest.fixture
def required(conf: cfg.ConfigOpts) -> Any:
    """`required_signature` of an image with these properties; it trusts the root."""

    def of(
        properties: dict[str, Any], trusted: Any = ("root",), policy: Any = POLICY, **how: Any
    ) -> Signature:
        image = Image(ref="the image", properties=properties)
        context = how.pop("context", None)
        found = required_signature(context, trusted, policy, conf, image, **how)
        assert found is not None
        return found

    return of


def verified(signature: Signature, data: bytes = DATA, chunk: int = 1000) -> dict[str, Any]:
    check = signature.start()
    try:
        for start in range(0, len(data), chunk):
            check.feed(memoryview(data)[start : start + chunk])
        return check.evidence()
    finally:
        check.close()


class TestSignature:
    @pytest.mark.parametrize("method", ["SHA-256", "SHA-384", "SHA-512"])
    @pytest.mark.parametrize("kind", ["RSA-PSS", "DSA", "ECC_SECP384R1", "ECC_SECP521R1"])
    def test_a_good_one_is_verified_and_described(
        self, required: Any, kind: str, method: str
    ) -> None:
        made = signer(kind)
        made.stored()
        evidence = verified(required(made.properties(DATA, method)))
        expected = f"{kind} with {method} by the certificate {made.name}"
        assert_that(evidence, Equals({"signature": expected}))

    @pytest.mark.parametrize("chunk", [1, 4096, 1 << 20, 3 << 20])
    def test_the_size_of_the_chunks_does_not_matter(self, required: Any, chunk: int) -> None:
        data = DATA if chunk == 1 else DATA * 500
        verified(required(signer().properties(data)), data, chunk)

    def test_nothing_at_all_can_be_signed(self, required: Any) -> None:
        verified(required(signer().properties(b"")), b"")

    @pytest.mark.parametrize("kind", ["RSA-PSS", "DSA", "ECC_SECP384R1"])
    @pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b"x" + DATA[1:], b"", DATA[::-1]])
    def test_one_of_another_image_is_bad(self, required: Any, kind: str, data: bytes) -> None:
        made = signer(kind)
        made.stored()
        signature = required(made.properties(DATA))
        with pytest.raises(SignatureError, match="does not match its signature") as caught:
            verified(signature, data)
        assert_that(caught.value.retryable, Is(False))

    @pytest.mark.parametrize("bad", ["AAAA", "A" * 344, "AAAA" * 3000])
    def test_one_that_makes_no_sense_is_bad(self, required: Any, bad: str) -> None:
        signature = required(signer().properties(DATA, img_signature=bad))
        with pytest.raises(SignatureError):
            verified(signature)

    def test_one_by_another_method_is_bad(self, required: Any) -> None:
        properties = signer().properties(DATA, "SHA-512", img_signature_hash_method="SHA-256")
        with pytest.raises(SignatureError):
            verified(required(properties))

    def test_each_attempt_gets_a_verifier_that_has_seen_nothing(self, required: Any) -> None:
        signature = required(signer().properties(DATA))
        check = signature.start()
        check.feed(b"what a void attempt brought")
        check.close()
        verified(signature)

    @pytest.mark.parametrize("size", [1, 3 << 20])
    @pytest.mark.parametrize("fails", ["update", "verify"])
    def test_whatever_the_library_raises_the_bytes_are_not_verified(
        self, fails: str, size: int
    ) -> None:
        class Failing:
            def update(self, chunk: Any) -> None:
                if fails == "update":
                    raise OSError("out of entropy")

            def verify(self) -> None:
                raise KeyError("verify")

        check = SignatureCheck(Signature("the image", "a", "RSA-PSS with SHA-256", True, Failing))
        with pytest.raises(SignatureError):
            for _ in range(20):
                check.feed(bytes(size))
            check.evidence()
        check.close()


class TestProperties:
    @pytest.mark.parametrize("missing", PROPERTIES)
    @pytest.mark.parametrize("value", [None, ""])
    def test_a_missing_property_is_named(self, required: Any, missing: str, value: Any) -> None:
        with pytest.raises(SignatureError, match=rf"lacks {missing}$"):
            required(signer().properties(DATA, **{missing: value}))
        assert_that(MemoryKeyManager.asked, Equals([]))

    def test_an_image_without_a_signature_is_refused(self, required: Any) -> None:
        with pytest.raises(SignatureError, match="has no signature"):
            required({"img_signature_other": "x"})
        with pytest.raises(SignatureError, match="has no signature"):
            required({}, None, SignaturePolicy(verify_signatures=True))

    @pytest.mark.promise("security-26")
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("img_signature_hash_method", "SHA-224"), ("img_signature_hash_method", "MD5"),
            ("img_signature_hash_method", "sha256"), ("img_signature_hash_method", "SHA-256 "),
            ("img_signature_key_type", "RSA"), ("img_signature_key_type", "ECC_SECP256R1"),
            ("img_signature_key_type", "none"), ("img_signature", "not base64!"),
            ("img_signature", "AAA"), ("img_signature", " \n"), ("img_signature", "\u00e4\u00e4"),
            ("img_signature", b"AAAA"), ("img_signature_hash_method", ["SHA-256"]),
            ("img_signature_certificate_uuid", "../v1/secrets/x"),
            ("img_signature_certificate_uuid", "http://host/v1/secrets/x"),
            ("img_signature_certificate_uuid", "a b"), ("img_signature_certificate_uuid", "."),
            ("img_signature_certificate_uuid", 7), ("img_signature_certificate_uuid", "x" * 256),
        ],
    )  # fmt: skip
    def test_what_cannot_be_verified_is_refused_before_the_key_manager_is_asked(
        self, required: Any, name: str, value: Any
    ) -> None:
        with pytest.raises(SignatureError, match=name) as caught:
            required(signer().properties(DATA, **{name: value}))
        assert caught.value.hint
        assert_that(MemoryKeyManager.asked, Equals([]))

    def test_without_cursive_the_error_says_what_to_install(
        self, required: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cursive", None)
        with pytest.raises(SignatureError, match="needs cursive") as caught:
            required(signer().properties(DATA))
        assert_that(caught.value.hint, Equals("pip install 'imagebroker[signature]'"))


class TestCertificate:
    def refusal(self, required: Any, made: Any, trusted: Any, **how: Any) -> str:
        with pytest.raises(SignatureError) as caught:
            required(made.properties(DATA), trusted, **how)
        assert caught.value.hint
        return str(caught.value)

    def test_a_chain_to_a_trusted_root_is_followed(self, required: Any) -> None:
        between = issued("between", root(), ca=True, path_length=0)
        last = issued("last", between)
        last.stored()
        trusted = [between.stored(), "root"]
        verified(required(last.properties(DATA), trusted))
        verified(required(last.properties(DATA), trusted[::-1]))
        said = self.refusal(required, last, ["root"])
        assert_that(said, Contains("the signing certificate last is not trusted"))
        assert_that(self.refusal(required, last, ["between"]), Contains("is not trusted"))

    def test_one_that_nobody_trusted_has_issued_is_refused(self, required: Any) -> None:
        other = issued("other", ca=True)
        foreign = issued("foreign", other)
        foreign.stored()
        self.refusal(required, foreign, ["root"])
        other.stored()
        self.refusal(required, foreign, ["root"])  # that it is in the key manager is no trust
        verified(required(foreign.properties(DATA), ["root", "other"]))

    def test_an_issuer_of_the_same_name_with_another_key_is_none(self, required: Any) -> None:
        impostor = issued("root", ca=True, private=key("RSA-PSS", "impostor"))
        forged = issued("forged", impostor)
        forged.stored()
        self.refusal(required, forged, ["root"])

    def test_a_self_signed_one_must_be_in_the_list_itself(self, required: Any) -> None:
        alone = issued("alone", ca=True)
        alone.stored()
        self.refusal(required, alone, ["root"])
        verified(required(alone.properties(DATA), ["alone"]))

    @pytest.mark.parametrize("days", [(-10, -1), (1, 10)])
    def test_one_that_is_not_valid_today_is_refused(self, required: Any, days: Any) -> None:
        late = issued("late", root(), days=days)
        late.stored()
        assert_that(self.refusal(required, late, ["root"]), Contains("date range"))
        stale = issued("stale", ca=True, days=days)
        signed = issued("signed", stale)
        signed.stored()
        self.refusal(required, signed, [stale.stored()])

    def test_an_issuer_must_be_allowed_to_sign_certificates(self, required: Any) -> None:
        last = issued("last", signer())
        last.stored()
        self.refusal(required, last, [signer().name, "root"])

    def test_the_path_length_of_an_issuer_holds(self, required: Any) -> None:
        short = issued("short", ca=True, path_length=0)
        between = issued("between", short, ca=True)
        last = issued("last", between)
        last.stored()
        said = self.refusal(required, last, [short.stored(), between.stored()])
        assert_that(said, Contains("chains of sufficient length"))
        direct = issued("direct", short)
        direct.stored()
        verified(required(direct.properties(DATA), ["short"]))

    def test_certificates_that_sign_one_another_are_no_root(self, required: Any) -> None:
        first, second = issued("first", ca=True), issued("second", ca=True)
        crossed = issued("first", second, ca=True, private=first.key)
        crossing = issued("second", first, ca=True, private=second.key)
        last = issued("last", first)
        last.stored()
        trusted = [crossed.stored("crossed"), crossing.stored("crossing"), first.stored()]
        assert_that(self.refusal(required, last, trusted), Contains("in a cycle"))
        verified(required(last.properties(DATA), trusted[::-1]))  # the root is found first

    @pytest.mark.parametrize(
        ("kind", "claimed"),
        [
            ("ECC_SECP384R1", "RSA-PSS"), ("RSA-PSS", "DSA"), ("DSA", "ECC_SECP521R1"),
            ("ECC_SECP384R1", "ECC_SECP521R1"), ("ECC_SECP256R1", "ECC_SECP384R1"),
        ],
    )  # fmt: skip
    def test_its_key_must_be_of_the_kind_that_the_image_names(
        self, required: Any, kind: str, claimed: str
    ) -> None:
        made = signer(kind)
        made.stored()
        with pytest.raises(SignatureError, match="img_signature_key_type"):
            required(made.properties(DATA, img_signature_key_type=claimed))

    def test_one_that_the_key_manager_does_not_have_is_named(self, required: Any) -> None:
        gone = issued("gone", root())
        said = self.refusal(required, gone, ["root"])
        assert_that(said, Contains("the key manager has no certificate gone"))

    def test_a_trusted_one_that_is_gone_is_not_trusted(self, required: Any) -> None:
        self.refusal(required, signer(), ["gone"])
        verified(required(signer().properties(DATA), ["gone", "root"]))

    @pytest.mark.parametrize("data", [b"the secret of another", b"", b"\x30\x82" + bytes(50)])
    def test_what_is_no_certificate_is_refused_and_not_shown(
        self, required: Any, data: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        name = secret("not-a-certificate", data)
        with pytest.raises(SignatureError) as caught:
            required(signer().properties(DATA, img_signature_certificate_uuid=name))
        assert_that(str(caught.value) + caught.value.hint + caplog.text, Not(Contains("another")))

    def test_without_validation_any_certificate_may_sign_and_the_evidence_says_so(
        self, required: Any
    ) -> None:
        loose = SignaturePolicy(verify_signatures=True, enable_certificate_validation=False)
        alone = issued("alone")
        alone.stored()
        evidence = verified(required(alone.properties(DATA), None, loose))
        assert_that(evidence["signature"], Contains("not validated"))
        self.refusal(required, alone, ["root"], policy=loose)  # a caller who names some means it
        self.refusal(required, alone, [], policy=loose)

    def test_the_configured_certificates_are_trusted_where_the_call_names_none(
        self, required: Any
    ) -> None:
        policy = SignaturePolicy(verify_signatures=True, trusted_certificate_ids=("root",))
        for trusted in (None, []):
            verified(required(signer().properties(DATA), trusted, policy))
        issued("other", ca=True).stored()
        self.refusal(required, signer(), ["other"], policy=policy)

    def test_where_nobody_is_trusted_no_signature_is_good(self, required: Any) -> None:
        policy = SignaturePolicy(verify_signatures=True)
        said = self.refusal(required, signer(), None, policy=policy)
        assert_that(said, Contains("no certificate is trusted"))
        self.refusal(required, signer(), [])


class TestKeyManager:
    def test_it_is_asked_in_the_name_of_the_caller(self, required: Any) -> None:
        context = RequestContext(user_id="alice")
        required(signer().properties(DATA), context=context)
        expected = [(context, signer().name), (context, "root")]
        assert_that(MemoryKeyManager.asked, Equals(expected))

    @pytest.mark.parametrize(
        "error",
        [KeyManagerError(reason="500"), ConnectionError("refused"), RuntimeError(), OSError()],
    )
    @pytest.mark.parametrize("failing", ["root", "signer-RSA-PSS"])
    def test_one_that_is_down_is_an_error_that_may_go_away(
        self, required: Any, error: Exception, failing: str
    ) -> None:
        def fail(name: str) -> None:
            if name == failing:
                raise error

        MemoryKeyManager.before_answer = fail
        with pytest.raises(TransferError, match="the key manager") as caught:
            required(signer().properties(DATA))
        assert_that(caught.value.retryable, Is(True))
        assert caught.value.hint

    def test_one_that_is_slow_is_not_waited_for(self, required: Any) -> None:
        answers = threading.Event()
        MemoryKeyManager.before_answer = lambda name: answers.wait(30)
        began = monotonic()
        with pytest.raises(TransferTimeout) as caught:
            required(signer().properties(DATA), policy=SignaturePolicy(timeout=0.3))
        assert_that(monotonic() - began, in_time(1))
        assert_that(caught.value.retryable, Is(True))
        answers.set()

    def test_whoever_waits_for_it_can_be_cancelled(self, required: Any) -> None:
        answers = threading.Event()
        MemoryKeyManager.before_answer = lambda name: answers.wait(30)

        def cancelled() -> None:
            raise Cancelled("enough")

        with pytest.raises(Cancelled):
            required(signer().properties(DATA), waiting=cancelled)
        answers.set()

    def test_a_refusal_is_one(self, required: Any) -> None:
        def refuse(name: str) -> None:
            try:
                raise Forbidden
            except Forbidden as error:
                raise KeyManagerError(reason=error) from None

        MemoryKeyManager.before_answer = refuse
        with pytest.raises(NotAuthorized):
            required(signer().properties(DATA))

    def test_a_driver_that_cannot_be_loaded_is_an_error_of_the_configuration(
        self, tmp_path: Path
    ) -> None:
        conf = configured(tmp_path, "no.such.module.Class")
        image = Image(ref="the image", properties=signer().properties(DATA))
        with pytest.raises(ConfigError, match="the key manager cannot be used"):
            required_signature(None, ["root"], POLICY, conf, image)


class TestArguments:
    @pytest.mark.parametrize(
        "wrong", ["root", b"root", 7, {"root"}, [None], ["a/b"], [""], ["a"] * 51, ["a\n"]]
    )
    def test_what_are_no_ids_of_certificates_is_refused(self, wrong: Any) -> None:
        with pytest.raises(InvalidImageRef, match="trusted_certs"):
            checked_certificates(wrong)

    def test_ids_are_taken_as_they_are(self) -> None:
        assert_that(checked_certificates(["a", "B-1_2.c"]), Equals(("a", "B-1_2.c")))
        assert_that(checked_certificates(None), Is(None))
