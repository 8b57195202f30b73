"""What Ironic takes by mistake, and ours refuses; and credentials of a node."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, Not

from tests.compat.ironic_service.conftest import Ironic
from tests.compat.service_process import ServiceError
from tests.servers.images import random_file
from tests.servers.nginx import Nginx

EXCEPTION = "ironic.common.exception."


def refused(ironic: Ironic, href: str, path: Path, **more: str | None) -> str:
    """The class of what our download raises."""
    with pytest.raises(ServiceError) as caught:
        ironic.download("ours", href, path, **more)
    return caught.value.kind.removeprefix(EXCEPTION)


def test_a_page_is_no_image(ironic: Ironic, nginx: Nginx, tmp_path: Path) -> None:
    name = f"{tmp_path.name}.html"
    (nginx.root / name).write_text("<html><body><h1>Index of /</h1></body></html>" * 6)
    ironic.download("ironic", nginx.url(name), tmp_path / "theirs")
    assert_that((tmp_path / "theirs").stat().st_size, Not(Equals(0)))
    assert_that(refused(ironic, nginx.url(name), tmp_path / "ours"), Equals("ImageDownloadFailed"))
    assert_that((tmp_path / "ours").stat().st_size, Equals(0))


def test_the_checksum_of_a_file_is_compared(ironic: Ironic, tmp_path: Path) -> None:
    path = random_file(ironic.files / f"{tmp_path.name}.img", 1000)
    wrong = {"checksum": "0" * 64, "algo": "sha256"}
    assert_that(ironic.download("ironic", path.as_uri(), tmp_path / "x", **wrong), Is(None))
    assert_that(
        refused(ironic, path.as_uri(), tmp_path / "x", **wrong), Equals("ImageChecksumError")
    )
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    done = ironic.download("ours", path.as_uri(), tmp_path / "x", checksum=right, algo="sha256")
    assert_that(done, Equals(f"sha256:{right}"))


def test_a_file_is_never_a_link_to_its_source(ironic: Ironic, tmp_path: Path) -> None:
    path = random_file(ironic.files / f"{tmp_path.name}.img", 1000)
    ironic.download("ours", path.as_uri(), tmp_path / "x")
    assert_that((tmp_path / "x").stat().st_nlink, Equals(1))


@pytest.mark.parametrize("algo", ["sha2048", "crc32", "shake_128"])
def test_an_unknown_algorithm_is_not_ignored(
    ironic: Ironic, nginx: Nginx, tmp_path: Path, algo: str
) -> None:
    href = _served(nginx, tmp_path)
    kind = refused(ironic, href, tmp_path / "x", checksum="ab" * 32, algo=algo)
    assert_that(kind, Equals("ImageChecksumAlgorithmFailure"))


@pytest.mark.parametrize("algo", ["SHA256", "sha-256", None])
def test_a_digest_counts_however_its_algorithm_is_written(
    ironic: Ironic, nginx: Nginx, tmp_path: Path, algo: str | None
) -> None:
    href = _served(nginx, tmp_path)
    kind = refused(ironic, href, tmp_path / "x", checksum="ab" * 32, algo=algo)
    assert_that(kind, Equals("ImageChecksumError"))


def test_md5_is_taken_as_long_as_ironic_allows_it(
    one_ironic: Ironic, nginx: Nginx, tmp_path: Path
) -> None:
    href = _served(nginx, tmp_path)
    digest = hashlib.md5((nginx.root / f"{tmp_path.name}.img").read_bytes()).hexdigest()
    given = {"checksum": digest, "algo": "md5"}
    one_ironic.use()
    assert_that(one_ironic.download("ours", href, tmp_path / "x", **given), Equals(f"md5:{digest}"))
    one_ironic.use("[agent]\nallow_md5_checksum = false\n")
    kind = refused(one_ironic, href, tmp_path / "x", **given)
    assert_that(kind, Equals("ImageChecksumAlgorithmFailure"))


class TestCredentials:
    @pytest.mark.parametrize("api", ["ironic", "ours"])
    def test_those_of_the_configuration_go_to_the_server_of_each_href(
        self, one_ironic: Ironic, nginx: Nginx, tmp_path: Path, api: str
    ) -> None:
        one_ironic.use(
            "[deploy]\nimage_server_auth_strategy = http_basic\n"
            f"image_server_user = {nginx.user}\nimage_server_password = {nginx.password}\n"
        )
        href = _served(nginx, tmp_path, "private")
        one_ironic.download(api, href, tmp_path / "dest")
        assert_that((tmp_path / "dest").stat().st_size, Equals(1000))

    def test_those_of_a_node_are_its_own(
        self, ironic: Ironic, nginx: Nginx, tmp_path: Path
    ) -> None:
        href = _served(nginx, tmp_path, "private")
        assert_that(refused(ironic, href, tmp_path / "x"), Equals("ImageRefValidationFailed"))
        node = {"username": nginx.user, "password": nginx.password}
        ironic.download("ours", href, tmp_path / "x", auth=node)
        assert_that((tmp_path / "x").stat().st_size, Equals(1000))
        assert_that(refused(ironic, href, tmp_path / "x"), Equals("ImageRefValidationFailed"))

    def test_a_password_without_a_name_is_a_bearer_token(
        self, ironic: Ironic, nginx: Nginx, tmp_path: Path
    ) -> None:
        href = _served(nginx, tmp_path)
        ironic.download("ours", href, tmp_path / "x", auth={"username": "", "password": "t0ken"})
        sent = [each.authorization for each in nginx.requests(f"{tmp_path.name}.img", at_least=1)]
        assert_that(set(sent), Equals({"Bearer t0ken"}))


def _served(nginx: Nginx, tmp_path: Path, prefix: str = "") -> str:
    name = f"{tmp_path.name}.img"
    random_file(nginx.root / name, 1000)
    return nginx.url(name, prefix=prefix)
