"""Where a step of the plugin finds CVAT, and as whom it logs in.

A step that is scheduled is stored in FiftyOne's database with its parameters, and its result with it. So an address
and a user name may be parameters, and passwords, tokens and headers never are: they come from the secrets of the
plugin, the environment or FiftyOne's annotation config of the process that works, and live in its memory only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from labelprop_cvat.backend.credentials import resolve_connection
from labelprop_cvat.errors import ConfigurationError

#: Parameters that no step takes.
SECRET = ("password", "token", "headers")

_PREFIXES = ("FIFTYONE_LABELPROP_", "FIFTYONE_CVAT_")
_SETTINGS = ("url", "username", "email", "password", "token")


def login_of(ctx: Any, url: str | None = None, username: str | None = None) -> dict[str, Any]:
    """What to give to functions that connect to CVAT, besides what they find by themselves.

    Secrets that a manager of secrets holds, and not the environment, are found here alone. As everywhere, a login goes
    to no other server than the one that it stands beside.

    Args:
        ctx: FiftyOne's execution context
        url: the address that was asked for; None where any will do
        username: the user that was asked for

    Returns:
        some of ``url``, ``username``, ``password`` and ``token``; never to be stored
    """
    given = {"url": url or None, "username": username or None}
    for prefix in _PREFIXES:
        place = {name: _managed(ctx, prefix + name.upper()) for name in _SETTINGS}
        name = place["username"] or place["email"]
        if place["url"] and given["url"] and place["url"].rstrip("/") != given["url"].rstrip("/"):
            continue
        if given["username"] and name and name != given["username"]:
            continue
        given["url"] = given["url"] or place["url"]
        if place["password"] or (place["token"] and not given["username"]):
            login = {"username": given["username"] or name, "password": place["password"], "token": place["token"]}
            given |= login if not login["password"] else {**login, "token": None}
            break
    return {name: value for name, value in given.items() if value}


def check_login(ctx: Any, url: str | None = None, username: str | None = None, *, run_url: str | None = None) -> None:
    """Checks that an address and a login are to be found in this process. Asks neither a person nor the server.

    Args:
        ctx: FiftyOne's execution context
        url: the address that was asked for
        username: the user that was asked for
        run_url: the address that a run was sent to, which counts where no other was asked for

    Raises:
        ConfigurationError: something is missing; the message says how the process of the App gets it
    """
    found = login_of(ctx, url or run_url, username)
    try:
        resolve_connection(
            found.get("url"), found.get("username"), found.get("password"), found.get("token"), ask=False
        )
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error} For steps of the App, set FIFTYONE_CVAT_URL, FIFTYONE_CVAT_USERNAME and FIFTYONE_CVAT_PASSWORD "
            f"where the App is started, and for scheduled ones also where 'fiftyone delegated launch' is; or write "
            f"them into FiftyOne's annotation config."
        ) from error


def secret_params(params: Mapping[str, Any]) -> list[str]:
    """Names of parameters that hold a secret, which a step does not take."""
    return [name for name in SECRET if params.get(name)]


def _managed(ctx: Any, name: str) -> str | None:
    """A secret that only FiftyOne's manager of secrets knows; the environment is looked at by whoever connects."""
    if name not in list(ctx.secrets):
        return None
    value = ctx.secret(name)
    return str(value) if value and str(value) != os.environ.get(name) else None


__all__ = ["SECRET", "check_login", "login_of", "secret_params"]
