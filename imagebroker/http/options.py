"""The options of backends that speak HTTP with servers of any kind."""

from __future__ import annotations

from oslo_config import cfg

#: TLS, and who we are.
OPTIONS = (
    cfg.StrOpt(
        "ca_file",
        help="PEM file of the authorities that may sign a server's certificate. By default those "
        "of the operating system."),
    cfg.StrOpt(
        "cert_file",
        help="PEM file of a client certificate. Shown only to the servers that endpoint names; "
        "without an endpoint to the server of a ref, and to none that it redirects to."),
    cfg.StrOpt(
        "key_file",
        help="PEM file of the client certificate's key, not readable by every user. By default it "
        "stands in cert_file."),
    cfg.StrOpt(
        "key_passphrase", secret=True,
        help="Passphrase of the key. Let nobody else read the file that holds it."),
    cfg.BoolOpt(
        "insecure", default=False,
        help="Believe every server certificate. Needs allow_insecure too."),
    cfg.BoolOpt(
        "allow_insecure", default=False,
        help="Confirms insecure: whoever is between here and a server may then change images."),
    cfg.StrOpt(
        "min_tls", default="TLSv1.2", choices=["TLSv1.2", "TLSv1.3"],
        help="Oldest version of TLS that is spoken."),
    cfg.StrOpt(
        "username",
        help="User name for Basic authentication. Sent only to the scheme, host and port of an "
        "endpoint, which must be set."),
    cfg.StrOpt(
        "password", secret=True,
        help="Password for Basic authentication. Let nobody else read the file that holds it."),
)  # fmt: skip
