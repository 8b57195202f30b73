"""Whether an image that failed a check is fetched again, from the backend itself alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from imagebroker.exceptions import ChecksumMismatch, CompressionError, VerificationError
from imagebroker.transfer.account import Account
from imagebroker.transfer.fetch.versions import MAX_CHANGES, Joining


@dataclass
class SecondChance:
    """Bytes that came from elsewhere, or of several versions, say nothing about the image."""

    #: The versions that the next round may join.
    joining: Joining = Joining()  # noqa: RUF009 - it is frozen
    #: The versions that were met in all rounds.
    met: set[str] = field(default_factory=set)

    def allows(self, error: VerificationError, account: Account) -> bool:
        """Look at a round that failed; whether another may help."""
        damaged = isinstance(error, (ChecksumMismatch, CompressionError))
        from_elsewhere = damaged and (account.located or account.doubtful)
        # Not in one line: what came of the round is noted in any case.
        mixed = self._was_mixed(error, account)
        return mixed or from_elsewhere or account.secondhand

    def _was_mixed(self, error: VerificationError, account: Account) -> bool:
        self.met |= account.versions
        if account.mixed:
            self.joining = self.joining._replace(allowed=False)
            return True
        if self.joining.allowed or not isinstance(error, ChecksumMismatch):
            return False
        avoid = self.joining.avoid | account.versions
        again = bool(self.met - avoid) and len(avoid) < MAX_CHANGES
        self.joining = self.joining._replace(avoid=frozenset(avoid))
        return again
