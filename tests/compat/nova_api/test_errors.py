"""Every error is one of Nova's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, IsInstance, Not

import imagebroker
from imagebroker import exceptions as ours
from imagebroker.compat.errors import OF_DELETE, OF_IMAGE, OF_SERVICE, OF_UPDATE, Errors
from imagebroker.compat.nova import API
from tests.compat import exceptions
from tests.compat.nova_api.callers import ALICE, MISSING, Collector


class TestErrors:
    @pytest.mark.parametrize("identifier", ["", "x", "a b", "1234", f"{MISSING}x", "%2e/x"])
    def test_what_is_no_identifier_is_not_found(self, api: API, identifier: str) -> None:
        """Glance says 404 to any odd id, and Nova's REST API relies on it."""
        for call in (api.get, api.delete, api.download):
            with pytest.raises(exceptions.ImageNotFound):
                call(ALICE, identifier)

    def test_each_call_says_not_found_in_the_same_way(self, api: API) -> None:
        calls: list[Callable[..., Any]] = [api.get, api.delete, api.download]
        calls += [lambda *args: api.update(*args, {})]
        for call in calls:
            with pytest.raises(exceptions.ImageNotFound) as caught:
                call(ALICE, MISSING)
            assert_that(str(caught.value), Equals(f"Image {MISSING} could not be found."))
            assert_that(caught.value.__cause__, IsInstance(imagebroker.ImageNotFound))

    def test_a_url_of_a_service_that_is_not_configured_is_unacceptable(self, api: API) -> None:
        url = f"http://evil.example:9292/v2/images/{MISSING}"
        with pytest.raises(exceptions.ImageUnacceptable) as caught:
            api.get(ALICE, url)
        assert_that(caught.value.kwargs["image_id"], Equals(MISSING))
        assert_that(caught.value.__notes__, Not(Equals([])))

    def test_the_secrets_of_a_url_are_not_shown(self, api: API) -> None:
        with pytest.raises(exceptions.ImageUnacceptable) as caught:
            api.get(ALICE, "https://host.example/disk?signature=geheim")
        assert "geheim" not in str(caught.value)

    @pytest.mark.parametrize(
        ("error", "table", "name"),
        [
            (ours.Gone("x"), OF_IMAGE, "ImageNotFound"),
            (ours.NotAuthorized("x"), OF_IMAGE, "ImageNotAuthorized"),
            (ours.NotAuthorized("x"), OF_SERVICE, "Forbidden"),
            (ours.NotAuthorized("x"), OF_DELETE, "ImageNotAuthorized"),
            (ours.ImageNotFound("x"), OF_SERVICE, "NotFound"),
            (ours.InvalidImageRef("x"), OF_IMAGE, "ImageBadRequest"),
            (ours.InvalidImageRef("x"), OF_SERVICE, "Invalid"),
            (ours.QuotaExceeded("x"), OF_UPDATE, "ImageQuotaExceeded"),
            (ours.QuotaExceeded("x"), OF_SERVICE, "ImageQuotaExceeded"),
            (ours.Conflict("x"), OF_DELETE, "ImageDeleteConflict"),
            (ours.Conflict("x"), OF_UPDATE, "ImageBadRequest"),
            (ours.PolicyViolation("x"), OF_DELETE, "ImageNotAuthorized"),
            (ours.TooLarge("x"), OF_IMAGE, "ImageUnacceptable"),
            (ours.ChecksumMismatch("x"), OF_IMAGE, "ImageUnacceptable"),
            (ours.FormatError("x"), OF_SERVICE, "ImageUnacceptable"),
            (ours.NotReady("x"), OF_IMAGE, "ImageUnacceptable"),
            (ours.BackendError("x"), OF_IMAGE, "GlanceConnectionFailed"),
            (ours.TransferTimeout("x"), OF_SERVICE, "GlanceConnectionFailed"),
            (ours.UploadFailed("x"), OF_UPDATE, "GlanceConnectionFailed"),
            (ours.ImageChanged("x"), OF_IMAGE, "GlanceConnectionFailed"),
        ],
    )
    def test_the_table(self, error: ours.ImageBrokerError, table: Any, name: str) -> None:
        raised = Errors(exceptions).of(error, table, MISSING)
        assert_that(type(raised).__name__, Equals(name))
        assert_that(type(raised).__module__, Equals(exceptions.__name__))

    def test_every_error_of_a_call_is_in_the_table_or_is_the_operators(self) -> None:
        operators = {"ImageBrokerError", "ConfigError", "BackendLoadError"}
        for table in (OF_IMAGE, OF_UPDATE, OF_DELETE, OF_SERVICE):
            left = {
                name
                for name in ours.__all__
                if type(Errors(exceptions).of(getattr(ours, name)("x"), table)).__module__
                not in (exceptions.__name__, "imagebroker.compat.errors")
            }
            assert_that(left, Equals(operators))

    def test_without_a_module_the_errors_are_ours(self, broker: imagebroker.Broker) -> None:
        api = API(broker)
        with pytest.raises(imagebroker.ImageNotFound):
            api.get(ALICE, MISSING)
        with pytest.raises(imagebroker.UnsupportedOperation):
            api.copy_image_to_store(ALICE, MISSING, "ceph")

    def test_a_name_that_the_module_lacks_is_ours(self, broker: imagebroker.Broker) -> None:
        class Found(Exception):
            """Takes a text and nothing else, as other services' exceptions do."""

        module = SimpleNamespace(ImageNotFound=Found, ImageUnacceptable="no exception")
        api = API(broker, module)
        with pytest.raises(Found, match=MISSING):
            api.get(ALICE, MISSING)
        queued = api.create(ALICE, {"name": "queued"})
        with pytest.raises(imagebroker.BackendError):
            api.download(ALICE, queued["id"])

    def test_what_is_not_ours_passes(self, api: API, image_id: str) -> None:
        class Stop(BaseException):
            pass

        class Target(Collector):
            def write(self, chunk: bytes) -> None:
                raise Stop

        with pytest.raises(Stop):
            api.download(ALICE, image_id, data=Target())
