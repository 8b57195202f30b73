"""Options of curl, wget, aria2c, rclone and docker, and what to use here instead.

Read only after an error.
"""

from __future__ import annotations

from imagebroker.cli.console import NAME

#: Flags of `download` in other programs, without a value.
_NAME_IT = "the last part of REF is the name of the file; to choose one: {name} download REF DEST"
_FLAGS = {
    "resuming needs no option: the same command resumes": (
        "-C", "--continue-at", "--resume", "--resume-from"),
    "certificates are always checked; to trust a private authority: --ca-file FILE": (
        "-k", "--insecure", "--no-check-certificate", "--no-verify", "--no-ssl-verify",
        "--tls-no-verify", "--no-verify-tls", "--check-certificate"),
    "--ca-file FILE": ("--cacert", "--ca-certificate", "--ca-cert", "--os-cacert", "--cert-dir"),
    _NAME_IT: ("-O", "--remote-name", "--output-document", "--out", "-J",
               "--remote-header-name", "--content-disposition", "--filename"),
    "name the directory as DEST": (
        "-P", "--directory-prefix", "--output-dir", "-d", "--dir", "--destination"),
    "an existing DEST is replaced anyway; without DEST, nothing is overwritten": (
        "--clobber", "--replace", "--allow-overwrite"),
    "--no-overwrite": ("-nc", "--no-clobber", "--ignore-existing", "-n"),
    "--rate-limit SIZE": (
        "--bwlimit", "--max-download-limit", "--max-overall-download-limit", "--max-rate",
        "--speed"),
    "--min-rate SIZE and --stall-timeout SECONDS": (
        "--speed-limit", "-Y", "--lowest-speed-limit", "--speed-time", "-y"),
    "--deadline SECONDS": ("-m", "--max-time", "--time-limit"),
    "--stall-timeout SECONDS": ("-T", "--timeout", "--read-timeout"),
    "connect_timeout in the config file": ("--connect-timeout",),
    "--retries N": ("--retry", "-t", "--tries", "--max-tries", "--low-level-retries"),
    "--max-size SIZE": ("--max-filesize",),
    "redirects are followed anyway": ("-L", "--location", "--max-redirect", "--max-redirs"),
    "several connections are used anyway, if the server supports ranges": (
        "-s", "--split", "-x", "--max-connection-per-server", "-Z", "--parallel",
        "--multi-thread-streams", "--transfers", "-j", "--jobs"),
    "compressed transfers are not supported; to decompress an image: --decompress": (
        "--compressed",),
    "--quiet": ("--silent", "-sS", "-nv", "--no-verbose", "-S", "--show-error"),
    "--progress plain, json or none": (
        "--show-progress", "--progress-bar", "--no-progress", "--no-progress-meter", "-#",
        "--stats"),
    "--checksum sha256:HEX, or the URL of a SHA256SUMS file": (
        "--sha256", "--sha512", "--sha256sum", "--hash", "--digest", "--md5", "--verify"),
    "custom headers are not supported; put credentials into the config file": (
        "-H", "--header", "-A", "--user-agent", "-e", "--referer", "-b", "--cookie"),
    "username, password and endpoint in [backend:http] of the config file": (
        "-u", "--user", "--http-user", "--password", "--http-password", "--basic"),
    "set http_proxy or https_proxy, or proxy in the config file": (
        "--proxy", "--all-proxy", "--preproxy"),
    "see what would be read with: {name} resolve REF": (
        "--dry-run", "--head", "-I", "--spider"),
    "an image is always downloaded as a whole; ranges are used anyway": ("-r", "--range"),
}  # fmt: skip
FLAGS = {flag: use for use, flags in _FLAGS.items() for flag in flags}
#: The same for other commands than `download` and `copy`.
FLAGS_ELSEWHERE = {
    flag: FLAGS[flag]
    for flag in ("-k", "--insecure", "--no-check-certificate", "--cacert", "--os-cacert",
                 "--silent")
}  # fmt: skip

#: Of commands that set the fields of a record.
_VISIBILITY = "use --public, --private, --shared or --community"

#: Commands of other programs.
COMMANDS = {
    "ls": "list", "get": "download", "fetch": "download", "pull": "download", "save": "download",
    "wget": "download", "curl": "download", "cp": "copy", "rm": "delete", "remove": "delete",
    "upload": "create", "push": "create", "put": "create", "add": "create", "info": "show",
    "inspect": "show", "stat": "show", "set": "update", "edit": "update", "verify": "check",
    "validate": "check", "version": "--version",
}  # fmt: skip


def instead_of(flag: str, command: str) -> str:
    """The option here for a flag of another program; empty if it is none that people type."""
    flags = FLAGS if command in ("download", "copy", "cache load") else FLAGS_ELSEWHERE
    if flag in ("--visibility", "--is-public") and command in ("create", "update", "copy"):
        return _VISIBILITY
    text = flags.get(flag, "").format(name=NAME)
    return f"use {text}" if text.startswith("--") else text
