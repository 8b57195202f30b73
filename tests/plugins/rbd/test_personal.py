"""A person without a config file has the cluster and the key that Ceph's own commands would use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import ConfigError
from imagebroker.plugin import BackendHost, Options
from tests.plugins.rbd.conftest import Images

pytest.importorskip("rbd")
from imagebroker_rbd import RbdBackend
from imagebroker_rbd.options import OPTIONS
from imagebroker_rbd.personal import personal_options

DEFAULTS = {"ceph_conf": "/etc/ceph/ceph.conf", "user": "admin", "keyring": None}


def personal(environ: dict[str, str], **options: Any) -> dict[str, Any]:
    return dict(personal_options(Options(DEFAULTS | options), environ))


def backend(*, personal: bool = False, **options: Any) -> RbdBackend:
    values = {option.dest: option.default for option in OPTIONS} | options
    return RbdBackend(BackendHost("rbd", Options(values), personal=personal))


def test_the_cluster_and_the_key_come_from_the_environment(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = images.server
    monkeypatch.setenv("CEPH_CONF", str(server.folder / "client.conf"))
    monkeypatch.setenv("CEPH_ARGS", f"--id {server.user} --keyring={server.keyring(server.user)}")
    (found,) = backend(personal=True).check(None)
    assert_that(found.what, Contains(f"the cluster {server.fsid} accepts the key of client.broker"))


def test_the_usual_arguments_are_understood() -> None:
    found = personal({"CEPH_CONF": "/c", "CEPH_ARGS": "-n client.me --debug-rbd 0 -k '/my key'"})
    assert_that(found, Equals({"ceph_conf": "/c", "user": "me", "keyring": "/my key"}))
    own = {"ceph_conf": "/own", "user": "own", "keyring": "/own.keyring"}
    assert_that(personal({"CEPH_CONF": "/c", "CEPH_ARGS": "--id me"}, **own), Equals(own))
    with pytest.raises(ConfigError, match="CEPH_ARGS cannot be read"):
        personal({"CEPH_ARGS": "--id 'me"})


def test_the_config_file_of_a_person_is_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.path.exists(DEFAULTS["ceph_conf"] or ""):
        pytest.skip("this host has a cluster of its own")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_that(personal({})["ceph_conf"], Equals("/etc/ceph/ceph.conf"))
    (tmp_path / ".ceph").mkdir()
    (tmp_path / ".ceph" / "ceph.conf").write_text("[global]\n")
    assert_that(personal({})["ceph_conf"], Equals(str(tmp_path / ".ceph" / "ceph.conf")))


def test_a_key_that_is_nowhere_is_named_with_the_files_that_were_read(
    images: Images, tmp_path: Path
) -> None:
    conf = tmp_path / "ceph.conf"
    text = (images.server.folder / "client.conf").read_text()
    others = tmp_path / "others.keyring"
    others.write_text("[client.other]\n\tkey = AQC7Wgxr9zH6ORAAbd4tKWTMEiT6B/jTqtCfkw==\n")
    conf.write_text(text.replace(f"{images.server.folder}/none", str(others)))
    with pytest.raises(ConfigError, match=r"no key of client.broker in .*others\.keyring"):
        next(iter(backend(ceph_conf=str(conf), user="broker").check(None)))


@pytest.mark.parametrize("key", ["bad", "AQC7Wgxr", "", "AQ==AQ"])
def test_a_key_that_is_none_is_no_fault_of_the_cluster(
    key: str, images: Images, tmp_path: Path
) -> None:
    keyring = tmp_path / "broken.keyring"
    keyring.write_text(f"[client.broker]\n\tkey = {key}\n[client.other]\n\tkey = {'A' * 40}\n")
    conf = str(images.server.folder / "client.conf")
    with pytest.raises(ConfigError, match=r"broken\.keyring has no valid key of client\.broker"):
        next(iter(backend(ceph_conf=conf, user="broker", keyring=str(keyring)).check(None)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_keyring_that_this_user_may_not_read_is_named(images: Images, tmp_path: Path) -> None:
    conf, keyring = tmp_path / "ceph.conf", tmp_path / "secret.keyring"
    keyring.write_text("[client.broker]\n\tkey = canary\n")
    keyring.chmod(0)
    text = (images.server.folder / "client.conf").read_text()
    conf.write_text(text.replace(f"{images.server.folder}/none", str(keyring)))
    with pytest.raises(ConfigError, match=r"this user may not read .*secret\.keyring"):
        next(iter(backend(ceph_conf=str(conf), user="broker").check(None)))
