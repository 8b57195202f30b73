"""What keystoneauth's exceptions mean, and what to change: a login is named as it was set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from imagebroker.backends.backend import Options
from imagebroker.exceptions import (
    BackendError,
    ConfigError,
    ImageBrokerError,
    MalformedAnswer,
    NotAuthorized,
)

#: What to do where auth_url leads to something else.
_KEYSTONE = "set {auth_url} to the address of Keystone, such as https://HOST:5000/v3"


@dataclass(frozen=True)
class Login:
    """Whose options Keystone gets, and what they are called where they were set."""

    auth_type: str = ""
    #: They are variables of a person's environment: `OS_USERNAME`, not `username`.
    variables: bool = False

    @classmethod
    def of(
        cls, options: Options, *, personal: bool, environ: Mapping[str, str] = os.environ
    ) -> Login:
        """The login in `options`, which a person's environment may have set."""
        url = environ.get("OS_AUTH_URL")
        variables = personal and not environ.get("OS_CLOUD") and bool(url)
        return cls(
            str(options.get("auth_type") or "").removeprefix("v3"),
            variables and options.get("auth_url") == url,
        )

    def name(self, option: str) -> str:
        return f"OS_{option.upper()}" if self.variables else option

    def to_set(self, option: str, value: str) -> str:
        """What to type to set it."""
        return f"export {self.name(option)}={value}" if self.variables else f"set {option}"

    @property
    def whose(self) -> str:
        return "the login in the environment" if self.variables else "the service's credentials"

    def refused(self) -> str:
        """What to do if Keystone does not accept it."""
        if self.auth_type == "token":
            return self.to_set("token", "…") + ", a new one: this one is invalid or has expired"
        if self.auth_type == "applicationcredential":
            named = [self.name(f"application_credential_{each}") for each in ("id", "secret")]
            return f"check {' and '.join(named)}, and that it has not expired"
        if not self.variables:
            return "check username, password, project and their domains"
        names = map(self.name, ("username", "password", "project_name"))
        domains = map(self.name, ("user_domain_name", "project_domain_name"))
        return f"check {', '.join(names)}, and {' and '.join(domains)}"

    def remedy(self, status: int, said: str) -> str:
        """What to do about a status of Keystone."""
        if status >= 500:
            return "check Keystone's log"
        if status == 400 and "domain" in said:
            names = ("user_domain_name", "project_domain_name")
            if self.variables:
                return f"export {' '.join(f'{self.name(each)}=Default' for each in names)}"
            return f"set {' and '.join(names)} (often Default)"
        if status == 400:
            return "check the auth options"
        return _KEYSTONE.format(auth_url=self.name("auth_url"))

    def is_refused(self, status: int, said: str) -> bool:
        """Whether a status says that the login is wrong: Keystone looks for a token and for an
        application credential, and does not find it.
        """
        return status == 404 and (
            (self.auth_type == "token" and "token" in said.lower())
            or (self.auth_type == "applicationcredential" and "credential" in said.lower())
        )


@contextlib.contextmanager
def translated(where: str, service: str, option: str, login: Login | None = None) -> Iterator[None]:
    """Turn keystoneauth's exceptions, and those that a malformed answer causes in it, into ours.

    :param service: what is looked for in the catalogue.
    :param option: the one that names it instead.
    """
    from keystoneauth1 import exceptions as ks

    login = login or Login()
    address = _KEYSTONE.format(auth_url=login.name("auth_url"))
    try:
        yield
    except ImageBrokerError:
        raise
    except ks.EmptyCatalog as error:
        raise ConfigError(
            f"{where}: the catalogue for this login is empty: it names no project",
            hint=f"{login.to_set('project_name', '…')}, and {login.name('project_domain_name')}",
        ) from error
    except (ks.EndpointNotFound, ks.CatalogException) as error:
        places = "OS_REGION_NAME and OS_INTERFACE" if login.variables else (
            "region_name, valid_interfaces and service_type"
        )  # fmt: skip
        raise ConfigError(
            f"{where}: the catalogue has no such {service}: {error}",
            hint=f"check {places}, or set {option}",
        ) from error
    except (ks.Unauthorized, ks.Forbidden) as error:
        raise NotAuthorized(
            f"{where}: Keystone refuses {login.whose}", hint=login.refused()
        ) from error
    except ks.HttpError as error:
        said = str(error)
        if login.is_refused(error.http_status, said):
            raise NotAuthorized(
                f"{where}: Keystone refuses {login.whose}: {said}", hint=login.refused()
            ) from error
        raise BackendError(
            f"{where}: Keystone answered {error.http_status}: {said}",
            hint=login.remedy(error.http_status, said),
            retryable=error.http_status >= 500 or error.http_status == 429,
        ) from error
    except ks.ClientException as error:
        raise BackendError(
            f"{where}: cannot get a token from Keystone: {error}", hint=address, retryable=False
        ) from error
    except (
        AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError,
    ) as error:  # fmt: skip
        raise MalformedAnswer(
            f"{where}: invalid response from Keystone ({type(error).__name__})",
            hint=address,
            retryable=False,
        ) from error
