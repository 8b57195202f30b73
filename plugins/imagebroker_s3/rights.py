"""Who else may use an object: a copy has the rights of a new object, unless it says these again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from imagebroker.plugin import NotAuthorized, UnsupportedOperation
from imagebroker_s3.client import Server

LOG = logging.getLogger(__name__)
#: The arguments of a copy, by permission.
_ARGUMENTS = {
    "FULL_CONTROL": "GrantFullControl", "READ": "GrantRead", "READ_ACP": "GrantReadACP",
    "WRITE_ACP": "GrantWriteACP",
}  # fmt: skip
#: How those who have one are named: in an answer, and in an argument.
_NAMES = {"ID": "id", "URI": "uri", "EmailAddress": "emailAddress"}


def of(server: Server, subject: object, where: Mapping[str, str]) -> dict[str, str]:
    """The arguments that give a copy the ACL of an object; none if it is only its owner's."""
    try:
        acl = server.call(subject, "get_object_acl", **where)
    except UnsupportedOperation:
        return {}  # this server has none
    except NotAuthorized as error:
        LOG.warning(
            "%s: these keys may not read its ACL, and its update leaves it to its owner alone: %s",
            subject, error,
        )  # fmt: skip
        return {}
    return arguments_of(acl)


def arguments_of(acl: Mapping[str, Any]) -> dict[str, str]:
    """The same, from the answer of the server."""
    owner = (acl.get("Owner") or {}).get("ID")
    found: dict[str, list[str]] = {}
    others = False
    for grant in acl.get("Grants") or ():
        who, argument = grant.get("Grantee") or {}, _ARGUMENTS.get(str(grant.get("Permission")))
        named = next((name for name in _NAMES if who.get(name)), None)
        if argument is None or named is None:
            continue  # WRITE means nothing for an object
        others |= who.get("ID") != owner or argument != "GrantFullControl"
        found.setdefault(argument, []).append(f'{_NAMES[named]}="{who[named]}"')
    return {name: ", ".join(each) for name, each in found.items()} if others else {}
