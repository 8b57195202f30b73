"""Stores and members: the other records of a service."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Store:
    """One of the places in which a service keeps the data of its images."""

    name: str
    description: str | None = None
    #: Whether it takes the data for which no store is named.
    default: bool = False
    read_only: bool = False


@dataclass(frozen=True)
class Member:
    """A project that an image is shared with."""

    project: str
    #: `pending`, `accepted` or `rejected`.
    status: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Target:
    """Where the data of an upload is to be kept."""

    #: The store, by its name; None: the default one.
    store: str | None = None
    #: The id of the image that a store can keep it as a difference from.
    base_image: str | None = None
