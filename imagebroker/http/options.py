"""The options of backends that speak HTTP with servers of any kind."""

from __future__ import annotations

from oslo_config import cfg

#: TLS, and who we are.
OPTIONS = (
    cfg.StrOpt(
        "ca_file",
        help="PEM file with the CA certificates to trust. By default those of the operating "
        "system."),
    cfg.StrOpt(
        "cert_file",
        help="PEM file with a client certificate. Sent only to the servers that endpoint names; "
        "without an endpoint, to the server of a ref, and to no server that it redirects to."),
    cfg.StrOpt(
        "key_file",
        help="PEM file with the key of the client certificate; must not be readable by every user. "
        "By default the key is read from cert_file."),
    cfg.StrOpt(
        "key_passphrase", secret=True,
        help="Passphrase of the key. Keep the config file private."),
    cfg.BoolOpt(
        "insecure", default=False,
        help="Do not verify server certificates. Also needs allow_insecure."),
    cfg.BoolOpt(
        "allow_insecure", default=False,
        help="Confirms insecure: anybody on the network path can then change images."),
    cfg.StrOpt(
        "min_tls", default="TLSv1.2", choices=["TLSv1.2", "TLSv1.3"],
        help="Minimum version of TLS."),
    cfg.StrOpt(
        "username",
        help="User name for Basic authentication. Sent only to the scheme, host and port of an "
        "endpoint, which must be set."),
    cfg.StrOpt(
        "password", secret=True,
        help="Password for Basic authentication. Keep the config file private."),
)  # fmt: skip
