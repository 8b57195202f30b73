"""The contract, for pytest, stestr and unittest. Tests of your own go beside it."""

from imagebroker_ftp import contract


class TestFtp(contract.FtpContract):
    """Each test is named after a clause of imagebroker's docs/contract.md."""
