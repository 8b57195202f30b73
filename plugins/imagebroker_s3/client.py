"""The server of one instance: boto3 signs the requests, the core's connections carry them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from imagebroker.plugin import BackendHost, BackendLoadError, ConfigError, http
from imagebroker_s3.errors import translated

#: Seconds that the URL of a download is valid: longer than any transfer may take.
_VALID = 7 * 86400
#: What a service's client has in place of what the environment says.
_NOTHING = {
    "profile": None, "config_file": os.devnull, "credentials_file": os.devnull,
    "use_fips_endpoint": False, "use_dualstack_endpoint": False, "defaults_mode": "legacy",
    "sigv4a_signing_region_set": None,
}  # fmt: skip
#: Where keys of a person may come from: not from services that botocore would connect to.
_PERSONAL = frozenset({"env", "shared-credentials-file", "config-file"})


class Server:
    """Requests of S3, with the keys of one instance. One serves all threads."""

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError, BackendLoadError: an option is wrong, or boto3 is missing."""
        try:
            import botocore  # noqa: F401 - only to check whether it is installed
        except ImportError as error:
            raise BackendLoadError(
                f"the s3 backend needs boto3, which cannot be imported: {error}",
                hint="pip install 'imagebroker[s3]'",
                scheme="s3",
            ) from error
        self._host, self._options = host, host.options
        self._check_keys()
        self.http = http.Client(host)
        self._lock = threading.Lock()
        self._client: Any = None
        self._session: Any = None

    def _check_keys(self) -> None:
        options = self._options
        if bool(options.access_key) != bool(options.secret_key):
            missing = "secret_key" if options.access_key else "access_key"
            raise ConfigError(
                f"[backend:{self._host.title}] {missing}: one of two keys is missing",
                hint=f"set {missing}",
            )
        if options.endpoint_url and not options.endpoint_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"[backend:{self._host.title}] endpoint_url: {options.endpoint_url!r} is no URL",
                hint="write it as https://host[:port]",
            )

    def call(self, subject: object, operation: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one operation, by the name of boto3's method.

        :raises: what the server's error means for `subject`.
        """
        with translated(subject):
            answer: dict[str, Any] = getattr(self.client, operation)(
                **{name: value for name, value in arguments.items() if value is not None}
            )
            return answer

    def url(self, subject: object, where: Mapping[str, str]) -> str:
        """A signed URL for the bytes of an object."""
        with translated(subject):
            url: str = self.client.generate_presigned_url(
                "get_object", Params=dict(where), ExpiresIn=_VALID
            )
        self._host.conceal(url.partition("?")[2])
        return url

    @property
    def client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._made()
                self._session = http.botocore_session(self.http, self._client)
            return self._client

    def _made(self) -> Any:
        from imagebroker_s3.signer import UNSIGNED, Config, new_session

        session = new_session()
        options, own = self._options, self._as_a_person
        keys = self._keys(session)
        region = options.region or (session.get_config_variable("region") if own else None)
        style = options.addressing_style
        if style == "auto" and not own:
            style = "path" if options.endpoint_url else "virtual"
        config = Config(
            signature_version="s3v4" if keys else UNSIGNED,
            s3={"addressing_style": style, "payload_signing_enabled": False},
            retries={"total_max_attempts": 1, "mode": "standard"},  # the core retries
            # The defaults of boto3 are refused by servers that do not know its trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=not own,
            parameter_validation=True,
        )
        return session.create_client(
            "s3", endpoint_url=options.endpoint_url or None, config=config,
            region_name=region or "us-east-1", **keys,
        )  # fmt: skip

    @property
    def _as_a_person(self) -> bool:
        """Whether keys, region and server are those of the environment and the AWS profile."""
        return self._host.personal and not self._options.access_key

    def _keys(self, session: Any) -> dict[str, str | None]:
        options = self._options
        if not self._as_a_person:
            # Nothing of the environment, of ~/.aws and of the metadata service.
            store = session.get_component("config_store")
            for name, value in _NOTHING.items():
                store.set_config_variable(name, value)
            session.get_component("credential_provider").providers = []
            if not options.access_key:
                return {}
            return _pair(options.access_key, options.secret_key, options.session_token)
        resolver = session.get_component("credential_provider")
        resolver.providers = [each for each in resolver.providers if each.METHOD in _PERSONAL]
        found = resolver.load_credentials()
        if found is None:
            return {}
        frozen = found.get_frozen_credentials()
        self._host.conceal(frozen.secret_key, frozen.token)
        return _pair(frozen.access_key, frozen.secret_key, frozen.token)

    @property
    def anonymous(self) -> bool:
        return not self._options.access_key and not self._host.personal

    def close(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.close()


def _pair(access: str, secret: str, token: str | None) -> dict[str, str | None]:
    return {
        "aws_access_key_id": access,
        "aws_secret_access_key": secret,
        "aws_session_token": token or None,
    }
