"""What a config file has that nothing reads, and that was probably meant to be something else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from oslo_config import cfg

from imagebroker.config.options import CORE_OPTIONS, GROUP
from imagebroker.config.settings import BACKEND_NAME, PREFIX, Settings
from imagebroker.system.spelling import nearest


def names_of(options: Iterable[cfg.Opt]) -> set[str]:
    """The names that these options may have in a file, those that are deprecated too."""
    found: set[str] = set()
    for option in options:
        found |= {option.dest}
        found |= {old.name.replace("-", "_") for old in option.deprecated_opts if old.name}
    return found


def misspelt(settings: Settings, backends: Iterable[str]) -> Iterator[str]:
    """A sentence for each section and each option of the core with a typing error in its name. Of
    names that are like no other, nothing is said: the file may be one of a whole service.

    :param backends: the names of all that could have a section.
    """
    titles = {GROUP, *(PREFIX + name for name in backends)}
    for title, line in settings.titles():
        base = _without_instance(title)
        # Cinder's deployers have sections such as [backend_rbd].
        like = titles if ":" in title else {GROUP}
        if base not in titles and (near := nearest(base, like)):
            meant = near[0] + title.removeprefix(base)
            yield f"{line}: nothing reads the section [{title}]; did you mean [{meant}]?"
    known = names_of(CORE_OPTIONS)
    for name, line in settings.written(GROUP):
        if name not in known and (near := nearest(name, known)):
            yield f"{line}: [{GROUP}] has no option {name}; did you mean {near[0]}?"


def _without_instance(title: str) -> str:
    match = BACKEND_NAME.fullmatch(title.removeprefix(PREFIX))
    return PREFIX + match["name"] if match is not None and title.startswith(PREFIX) else title
