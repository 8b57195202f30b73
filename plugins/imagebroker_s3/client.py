"""The server of one instance: boto3 signs the requests, the core's connections carry them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from shlex import quote
from typing import Any

from imagebroker.plugin import (
    BackendError,
    BackendHost,
    BackendLoadError,
    ConfigError,
    ImageBrokerError,
    NotAuthorized,
    http,
)
from imagebroker_s3.errors import translated
from imagebroker_s3.machine_keys import MachineKeys
from imagebroker_s3.options import KMS, METADATA

#: What a service's client has in place of what the environment says.
_NOTHING = {
    "profile": None, "config_file": os.devnull, "credentials_file": os.devnull,
    "use_fips_endpoint": False, "use_dualstack_endpoint": False, "defaults_mode": "legacy",
    "sigv4a_signing_region_set": None,
}  # fmt: skip
#: Entries of a profile whose keys come from elsewhere.
_HANDED_OUT = (
    "sso_session", "sso_start_url", "credential_process", "role_arn", "web_identity_token_file",
    "login_session",
)  # fmt: skip
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
        self._region = ""
        self._session: Any = None
        #: botocore's; None where requests are anonymous.
        self._keys: Any = None
        #: For a person without keys: what to do.
        self._where_keys_are = ""
        #: The regions of buckets that are not in that of the options, as the server told them.
        self._regions: dict[str, str] = {}

    def _check_keys(self) -> None:
        options, title = self._options, f"[backend:{self._host.title}]"
        if bool(options.access_key) != bool(options.secret_key):
            missing = "secret_key" if options.access_key else "access_key"
            raise ConfigError(
                f"{title} {missing}: only one of two keys is set", hint=f"set {missing}"
            )
        if self._of_machine and options.access_key:
            raise ConfigError(
                f"{title} has keys, and credentials is {METADATA}",
                hint="remove access_key and secret_key, or credentials",
            )
        if options.kms_key_id and options.encryption != KMS:
            raise ConfigError(
                f"{title} kms_key_id: encryption is {options.encryption or 'not set'}",
                hint=f"set encryption = {KMS}, or remove kms_key_id",
            )
        for name in ("endpoint_url", "metadata_url"):
            if options[name] and not options[name].startswith(("http://", "https://")):
                raise ConfigError(
                    f"{title} {name}: {options[name]!r} is not a URL",
                    hint="write it as https://host[:port]",
                )

    def call(self, subject: object, operation: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one operation, by the name of boto3's method.

        :raises: what the server's error means for `subject`.
        """
        try:
            with translated(subject):
                answer: dict[str, Any] = getattr(self.client, operation)(
                    **{name: value for name, value in arguments.items() if value is not None}
                )
                return answer
        except NotAuthorized as error:
            if self._keys is None and self._as_a_person:
                error.hint = self._where_keys_are
            raise

    def head(self, subject: object, where: Mapping[str, str]) -> dict[str, Any]:
        """What the server says of an object.

        :raises NotAuthorized, BackendError: with the server's reason, and so on.
        """
        try:
            return self.call(subject, "head_object", **where)
        except (NotAuthorized, BackendError) as error:
            if error.retryable:
                raise
            reason = self.reason(subject, where)
            if reason is not None:
                raise reason from error
        # With the error to a GET, the server has told the bucket's region.
        return self.call(subject, "head_object", **where)

    def reason(self, subject: object, where: Mapping[str, str]) -> ImageBrokerError | None:
        """Why an object cannot be read: an answer to a HEAD does not say it. None if it can be."""
        try:
            self.call(subject, "get_object", **where)["Body"].close()
        except ImageBrokerError as reason:
            return reason
        return None

    def location(
        self, subject: object, where: Mapping[str, str]
    ) -> tuple[str, http.Credentials | None]:
        """The URL of the bytes of an object, and what signs each request for them."""
        from imagebroker_s3.signed import SignedReads, unsigned

        with translated(subject):
            url, region = unsigned(
                self.client.generate_presigned_url("get_object", Params=dict(where))
            )
        if self._keys is None:
            return url, None
        region = self.other_region(where["Bucket"]) or region
        return url, SignedReads(self._keys, url, region, self._further())

    def other_region(self, bucket: str) -> str | None:
        """Where a bucket is, if the server has said that it is not in the region of the options."""
        return self._regions.get(bucket)

    def _further(self) -> dict[str, str]:
        return {"x-amz-request-payer": "requester"} if self._options.requester_pays else {}

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
        self._keys = self._found_keys(session)
        region = options.region or (session.get_config_variable("region") if own else None)
        self._region = region or "us-east-1"
        style = options.addressing_style
        if style == "auto" and not own:
            style = "path" if options.endpoint_url else "virtual"
        config = Config(
            signature_version="s3v4" if self._keys else UNSIGNED,
            s3={"addressing_style": style, "payload_signing_enabled": False},
            retries={"total_max_attempts": 1, "mode": "standard"},  # the core retries
            # The defaults of boto3 are refused by servers that do not know its trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=not own,
            parameter_validation=True,
        )
        made = session.create_client(
            "s3", endpoint_url=options.endpoint_url or None, config=config,
            region_name=self._region,
        )  # fmt: skip
        made.meta.events.register("before-sign.s3", self._add_further)
        # After botocore, which follows where the server says that a bucket is.
        made.meta.events.register("before-endpoint-resolution.s3", self._note_region)
        return made

    def _note_region(
        self, builtins: Mapping[str, Any], params: Mapping[str, Any], **_: Any
    ) -> None:
        bucket, region = params.get("Bucket"), builtins.get("AWS::Region")
        if bucket and region and region != self._region:
            self._regions[bucket] = region

    def _add_further(self, request: Any, **_: Any) -> None:
        for name, value in self._further().items():
            request.headers[name] = value

    @property
    def _of_machine(self) -> bool:
        return bool(self._options.credentials == METADATA)

    @property
    def _as_a_person(self) -> bool:
        """Whether keys, region and server are those of the environment and the AWS profile."""
        return self._host.personal and not (self._options.access_key or self._of_machine)

    def _found_keys(self, session: Any) -> Any:
        from imagebroker_s3.signer import Known

        if not self._as_a_person:
            # Nothing of the environment and of ~/.aws.
            store = session.get_component("config_store")
            for name, value in _NOTHING.items():
                store.set_config_variable(name, value)
        resolver = session.get_component("credential_provider")
        if self._as_a_person:
            resolver.providers = [each for each in resolver.providers if each.METHOD in _PERSONAL]
            found = resolver.load_credentials()
            self._where_keys_are = _where_keys_are(session)
        else:
            found = self._configured_keys()
        resolver.providers = [Known(found)] if found is not None else []
        if found is not None:
            frozen = found.get_frozen_credentials()
            self._host.conceal(frozen.secret_key, frozen.token)
        return found

    def _configured_keys(self) -> Any:
        from imagebroker_s3.signer import Credentials, RefreshableCredentials

        options = self._options
        if self._of_machine:
            ask = MachineKeys(self._host).ask
            return RefreshableCredentials.create_from_metadata(
                ask(), refresh_using=ask, method=METADATA
            )
        if not options.access_key:
            return None
        return Credentials(options.access_key, options.secret_key, options.session_token or None)

    @property
    def anonymous(self) -> bool:
        return not (self._options.access_key or self._of_machine or self._host.personal)

    def close(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.close()


def _where_keys_are(session: Any) -> str:
    """What a person does whose keys are not read: those that a program or a service hands out."""
    profile = session.get_config_variable("profile") or "default"
    entries = session.full_config.get("profiles", {}).get(profile, {})
    if found := next((name for name in _HANDED_OUT if name in entries), None):
        return (
            f"the keys of the AWS profile {profile} come from its {found}; set them with: "
            f'eval "$(aws configure export-credentials --profile {quote(profile)} --format env)"'
        )
    return "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
