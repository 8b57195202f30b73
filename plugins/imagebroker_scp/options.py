"""The options of `[backend:scp]`."""

from __future__ import annotations

from oslo_config import cfg

OPTIONS = (
    cfg.StrOpt(
        "known_hosts", default="/etc/imagebroker/known_hosts",
        help="File with the host keys of the allowed servers, in OpenSSH's format. If it does not "
        "exist, every host is unknown, and refused."),
    cfg.StrOpt(
        "identity_file",
        help="Private key to log in with (Ed25519, ECDSA or RSA), readable only by this service. "
        "It is offered only to hosts in known_hosts and, if endpoint is set, only to the hosts "
        "in endpoint."),
    cfg.StrOpt(
        "identity_passphrase", secret=True, help="Passphrase of identity_file, if it has one."),
    cfg.StrOpt(
        "username",
        help="User to log in as. A ref with another user is refused. If not set, the user is taken "
        "from endpoint or from the ref."),
    cfg.BoolOpt(
        "require_strict_kex", default=True,
        help="Refuse servers without strict key exchange, the protection against Terrapin "
        "(CVE-2023-48795). OpenSSH has it since 9.6, and in updates of older versions."),
    cfg.BoolOpt(
        "legacy_scp", default=False,
        help="Use the old scp protocol for servers without SFTP. It runs `scp -f PATH` in the "
        "login shell of the server; paths with characters other than letters, digits and "
        "/ . _ + - are refused. Cannot be combined with endpoint."),
)  # fmt: skip
