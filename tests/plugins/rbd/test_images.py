"""Images are stored, listed, changed and removed, and what hangs on them is left alone."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
from imagebroker_rbd import RbdBackend
from imagebroker_rbd.options import OPTIONS
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan, Not

from imagebroker.exceptions import Conflict, ImageChanged, InvalidImageRef, PolicyViolation
from imagebroker.plugin import BackendHost, Options
from tests.plugins.rbd.conftest import Images

MIB = 1024 * 1024


def backend(images: Images, **options: Any) -> RbdBackend:
    values = {option.dest: option.default for option in OPTIONS}
    return RbdBackend(BackendHost("rbd", Options(values | images.server.options(**options))))


def test_an_upload_is_a_protected_snapshot_with_the_digest_of_its_bytes(images: Images) -> None:
    import rbd

    data = os.urandom(3 * MIB) + bytes(6 * MIB) + b"end"
    broker, info = images.broker(), images.info(properties={"os": "x"}, tags=["gold"])
    made = broker.create(None, info, io.BytesIO(data), backend="rbd")
    assert_that(made.ref, Equals(images.ref(info["name"])))
    assert_that(made.checksums["sha256"], Equals(hashlib.sha256(data).hexdigest()))
    with images.server.opened() as pool, rbd.Image(pool, info["name"], "snap") as image:
        assert_that(image.is_protected_snap("snap"), Equals(True))
        assert_that(image.size(), Equals(len(data)))
        assert_that(image.read(0, len(data)) == data, Equals(True))
        filled: list[int] = []
        image.diff_iterate(0, len(data), None, lambda at, size, exists: filled.append(size))
        assert_that(sum(filled), LessThan(6 * MIB))
    listed = list(broker.get_all(None, filters={"tag": "gold"}, backend="rbd"))
    assert_that([each.ref for each in listed], Contains(made.ref))


def test_data_of_unknown_size_is_stored_in_an_image_of_its_size(images: Images) -> None:
    data = os.urandom(9 * MIB + 17)
    pieces = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
    broker, found = images.broker(), io.BytesIO()
    made = broker.create(None, images.info(), iter(pieces), backend="rbd")
    broker.download(None, made.ref, found)
    assert_that((made.size, found.getvalue() == data), Equals((len(data), True)))


def test_a_name_is_used_once(images: Images) -> None:
    broker, info = images.broker(), images.info()
    broker.create(None, info, b"the first", backend="rbd")
    with pytest.raises(Conflict):
        broker.create(None, info, b"the second", backend="rbd")
    found = io.BytesIO()
    broker.download(None, images.ref(info["name"]), found)
    assert_that(found.getvalue(), Equals(b"the first"))
    for name in ("a/b", "a@b", "a\0b", "."):
        with pytest.raises(InvalidImageRef):
            broker.create(None, images.info(name=name), b"data", backend="rbd")


def test_an_image_with_clones_is_not_deleted_and_they_are_named(images: Images) -> None:
    import rbd

    broker = images.broker()
    made = broker.create(None, images.info(), b"parent" * 1000, backend="rbd")
    name = str(made.name)
    with images.server.opened() as pool:
        rbd.RBD().clone(pool, name, "snap", pool, f"{name}-clone")
    for ref in (made.ref, images.ref(name, None)):
        with pytest.raises(Conflict, match=f"images/{name}-clone") as caught:
            broker.delete(None, ref)
        assert_that(caught.value.hint, Contains("rbd flatten"))
    assert_that(broker.get(None, made.ref).size, Equals(6000))
    images.server.remove(f"{name}-clone")
    broker.delete(None, made.ref)
    assert_that(images.server.names(), Not(Contains(name)))


def test_an_image_that_somebody_has_locked_is_not_waited_for(images: Images) -> None:
    """Ceph would wait for the lock of `rbd lock add` without end."""
    import rbd

    name = images.publish(b"data", None)
    with images.server.opened() as place, rbd.Image(place, name) as image:
        image.lock_exclusive("a lock")
    with pytest.raises(Conflict) as caught:
        images.broker().delete(None, images.ref(name, None))
    found = re.search(r"rbd lock rm images/\S+ 'a lock' (client\.\d+)", caught.value.hint)
    assert found is not None, caught.value.hint
    with images.server.opened() as place, rbd.Image(place, name) as image:
        image.break_lock(found[1], "a lock")
    images.broker().delete(None, images.ref(name, None))
    assert_that(images.server.names(), Not(Contains(name)))


def test_a_snapshot_of_somebody_elses_disk_is_deleted_without_the_disk(images: Images) -> None:
    name, broker = images.publish(b"a disk"), images.broker()
    broker.delete(None, images.ref(name))
    assert_that(images.server.names(), Contains(name))
    assert_that(broker.get(None, images.ref(name, None)).version, Equals(None))
    broker.delete(None, images.ref(name, None))
    assert_that(images.server.names(), Not(Contains(name)))


def test_a_protected_record_is_not_deleted_through_any_ref(images: Images) -> None:
    broker = images.broker()
    made = broker.create(None, images.info(protected=True), b"kept", backend="rbd")
    for ref in (made.ref, images.ref(str(made.name), None)):
        with pytest.raises(PolicyViolation):
            broker.delete(None, ref)
    broker.update(None, made.ref, {"protected": False})
    broker.delete(None, made.ref)


def test_each_snapshot_is_a_version_of_its_own_and_the_image_itself_is_none(
    images: Images,
) -> None:
    import rbd

    name, broker = images.publish(b"1" * MIB), images.broker()
    with images.server.opened() as pool, rbd.Image(pool, name) as image:
        image.write(b"2" * 1000, 0)
        image.create_snap("later")
    first, second = (broker.get(None, images.ref(name, each)) for each in ("snap", "later"))
    assert_that(first.version == second.version, Equals(False))
    listed = {each.ref for each in broker.get_all(None, backend="rbd")}
    assert_that({first.ref, second.ref} <= listed, Equals(True))
    for ref, begin in ((first.ref, b"1"), (second.ref, b"2"), (images.ref(name, None), b"2")):
        found = io.BytesIO()
        broker.download(None, ref, found)
        assert_that(found.getvalue()[:1], Equals(begin))


@pytest.mark.parametrize("snapshot", ["snap", None])
def test_an_image_that_is_removed_while_it_is_read_never_ends_in_zeros(
    images: Images, snapshot: str | None
) -> None:
    data = os.urandom(64 * MIB)
    name = images.publish(data, snapshot)
    made = backend(images, chunk_size=1)
    from imagebroker.model.reference import in_form, parse

    source = made.open(None, in_form(parse(images.ref(name, snapshot)), RbdBackend.ref_form))
    reading = iter(source.read())
    found = bytearray(next(reading))
    images.server.remove(name)
    with pytest.raises(ImageChanged):
        for chunk in reading:
            found += chunk
    assert_that(bytes(found) == data[: len(found)], Equals(True))
    source.close()
    made.close()


def test_a_sparse_image_costs_its_data_and_leaves_holes(images: Images, tmp_path: Path) -> None:
    data, size = os.urandom(8 * MIB), 2 << 30
    name = images.publish(data, size=size, at=size - 40 * MIB)
    made = backend(images)
    from imagebroker.model.reference import in_form, parse

    ref = in_form(parse(images.ref(name)), RbdBackend.ref_form)
    source = made.open(None, ref)
    before = _read_bytes(images)
    total = sum(len(chunk) for chunk in source.read())
    read = _read_bytes(images) - before
    source.close()
    made.close()
    assert_that(total, Equals(size))
    assert_that(len(data) <= read < 4 * len(data), Equals(True))
    images.broker().download(None, images.ref(name), tmp_path / "disk")
    with open(tmp_path / "disk", "rb") as file:
        file.seek(size - 40 * MIB)
        assert_that(file.read(len(data)) == data, Equals(True))
    assert_that((tmp_path / "disk").stat().st_blocks * 512, LessThan(64 * MIB))


def _read_bytes(images: Images) -> int:
    """Bytes that the OSD has sent to clients since it started."""
    return images.server.counter("osd", "op_r_out_bytes")


def test_a_location_of_glance_is_read_from_the_cluster(images: Images) -> None:
    data = os.urandom(MIB)
    name, broker, found = images.publish(data), images.broker(), io.BytesIO()
    location = f"rbd://{images.server.fsid}/{images.server.pool}/{name}/snap"
    assert_that(broker.get(None, location).ref, Equals(images.ref(name)))
    broker.download(None, location, found)
    assert_that(found.getvalue() == data, Equals(True))


def test_images_in_a_namespace_are_apart(images: Images) -> None:
    import rbd

    with images.server.opened() as pool:
        rbd.RBD().namespace_create(pool, "tenant")
    broker = images.broker(pool=f"{images.server.pool}/tenant")
    made = broker.create(None, images.info(), b"in a namespace", backend="rbd")
    assert_that(made.ref, Equals(f"rbd://images/tenant/{made.name}@snap"))
    assert_that([each.ref for each in broker.get_all(None, backend="rbd")], Equals([made.ref]))
    assert_that(images.server.names(), Not(Contains(made.name)))
    broker.delete(None, made.ref)


def test_an_instance_by_name_answers_with_refs_that_lead_back_to_it(images: Images) -> None:
    lines = "".join(f"{n} = {v}\n" for n, v in images.server.options().items())
    broker = images.broker(more=f"[backend:rbd:west]\n{lines}")
    made = broker.create(None, images.info(), b"west", backend="rbd:west")
    assert_that(made.ref, Equals(f"rbd:west://images/{made.name}@snap"))
    assert_that(broker.resolve(made.ref).backend, Equals("rbd:west"))
    found = io.BytesIO()
    broker.download(None, made.ref, found)
    assert_that(found.getvalue(), Equals(b"west"))


def test_a_copy_in_one_cluster_is_a_clone(images: Images) -> None:
    import rbd

    data = os.urandom(5 * MIB)
    lines = "".join(f"{n} = {v}\n" for n, v in images.server.options().items())
    broker = images.broker(more=f"[backend:rbd:west]\n{lines}")
    original = broker.create(None, images.info(), data, backend="rbd")
    for backend in ("rbd", "rbd:west"):
        info = images.info()
        made = broker.copy(None, original.ref, {"name": info["name"]}, backend=backend)
        found = io.BytesIO()
        broker.download(None, made.ref, found)
        assert_that(found.getvalue() == data, Equals(True))
        assert_that(made.checksums["sha256"], Equals(original.checksums["sha256"]))
        with images.server.opened() as pool, rbd.Image(pool, info["name"]) as image:
            assert_that(image.parent_info(), Equals(("images", original.name, "snap")))
            assert_that(image.is_protected_snap("snap"), Equals(True))
    with pytest.raises(Conflict, match=str(info["name"])):
        broker.delete(None, original.ref)


def test_an_image_without_a_snapshot_is_copied_byte_by_byte(images: Images) -> None:
    import rbd

    data = os.urandom(MIB)
    name, broker, info = images.publish(data, None), images.broker(), images.info()
    made = broker.copy(None, images.ref(name, None), {"name": info["name"]}, backend="rbd")
    assert_that(made.checksums["sha256"], Equals(hashlib.sha256(data).hexdigest()))
    with images.server.opened() as pool, rbd.Image(pool, info["name"]) as image:
        with pytest.raises(rbd.ImageNotFound):
            image.parent_info()
