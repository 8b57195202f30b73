"""In a sticky directory, a file of another user is refused before the transfer, not after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

SOMEBODY = 65534
#: What somebody is told of three files. Everything is imported before: they may not read it.
PROGRAM = """
import encodings.ascii, json, os, sys
from imagebroker.exceptions import DestinationError
from imagebroker.transfer.store.replaceable import check_replaceable

folder, user = sys.argv[1], int(sys.argv[2])
directory = os.open(folder, os.O_RDONLY)
os.seteuid(user)
said = {}
for name in ("of-root", "own", "new"):
    try:
        check_replaceable(directory, name.encode(), name)
        said[name] = ""
    except DestinationError as error:
        said[name] = f"{error}; {error.hint}"
print(json.dumps(said))
"""


def said(folder: Path, user: int) -> dict[str, str]:
    for name, owner in (("of-root", 0), ("own", SOMEBODY)):
        (folder / name).touch()
        os.chown(folder / name, owner, owner)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(user)], check=True, capture_output=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(os.getuid() != 0, reason="run it as root: it acts for two users")
@pytest.mark.parametrize("mode", [0o1777, 0o777])
def test_a_file_of_another_user_is_refused_where_the_directory_is_sticky(
    mode: int, tmp_path: Path
) -> None:
    tmp_path.chmod(mode)
    found = said(tmp_path, SOMEBODY)
    refused = found.pop("of-root")
    assert_that(bool(refused), Equals(mode == 0o1777))
    if refused:
        assert_that(refused, Contains("its directory is sticky; choose another name"))
    assert_that(set(found.values()), Equals({""}))
    assert_that(set(said(tmp_path, 0).values()), Equals({""}))
