"""Which CVAT server to talk to, and as whom.

Places are asked in this order, and each value comes from the first that has it:

1. what the caller gives
2. ``FIFTYONE_LABELPROP_URL``, ``_USERNAME`` (or ``_EMAIL``), ``_PASSWORD``, ``_TOKEN``
3. the ``labelprop`` entry of FiftyOne's annotation config
4. ``FIFTYONE_CVAT_URL``, ``_USERNAME`` (or ``_EMAIL``), ``_PASSWORD``, ``_TOKEN``
5. the ``cvat`` entry of FiftyOne's annotation config

A login is only ever sent to the server that it belongs to: a place that names a server of its own gives its login to no
other, and a password goes with the user name that it stands beside.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from labelprop_cvat.backend.cvat import Credentials
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.registration import BACKEND, read_config

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SETTINGS = ("url", "username", "email", "password", "token")
_FIFTYONE_DEFAULT = "https://app.cvat.ai"


class Connection(NamedTuple):
    """Where to connect and as whom.

    Args:
        url: scheme, host and port, maybe a path; no slash at the end
        credentials: the login; its repr shows no secret
        headers: further headers for every request; they may hold secrets too, so the repr shows their names only
    """

    url: str
    credentials: Credentials
    headers: dict[str, str]

    def __repr__(self) -> str:
        return f"Connection(url={self.url!r}, credentials={self.credentials!r}, headers={sorted(self.headers)})"


@dataclass(frozen=True)
class _Place:
    """One place where settings may stand."""

    url: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    # The server that the login belongs to; None when it may go to any.
    server: str | None = None


def resolve_connection(
    url: str | None = None,
    username: str | None = None,
    password: str | None = None,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    ask: bool = True,
) -> Connection:
    """Finds out where to connect and as whom; see the module for the order of the places.

    On a terminal a missing user name or password is asked for; without one nothing ever waits for an answer.

    Args:
        url: address of the CVAT server
        username: CVAT user name
        password: that user's password
        token: an access token; takes the place of user name and password
        headers: further headers for every request
        ask: whether a person on a terminal may be asked for what is missing

    Raises:
        ConfigurationError: no address, an address that is none, or no login
    """
    given = _given({"url": url, "username": username, "password": password, "token": token, "headers": headers})
    places = [_place(given, None), *_configured_places()]
    address = _checked_url(next((place.url for place in places if place.url), None))
    usable = [place for place in places if place.server is None or _server(place.server) == _server(address)]
    credentials = _login(usable) or _asked(usable, address, ask)
    found_headers = next((place.headers for place in usable if place.headers), None)
    return Connection(address, credentials, dict(found_headers or {}))


def resolve_url(url: str | None = None) -> str:
    """Finds out where to connect; nobody is asked for a login.

    Args:
        url: address of the CVAT server

    Raises:
        ConfigurationError: no address, or one that is none
    """
    places = [_Place(url=_text(url)), *_configured_places()]
    return _checked_url(next((place.url for place in places if place.url), None))


def configured_verify() -> bool | str:
    """How FiftyOne's annotation config wants TLS certificates checked: True unless it says something else."""
    verify = _annotation_config().get(BACKEND, {}).get("verify")
    return True if verify is None else verify


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the caller gave by himself.

    FiftyOne hands over the settings of its annotation config as if they were the caller's arguments, numbers for
    digits. They are looked up where they stand, so that a login stays with its server and a password with its user.
    """
    entry = _annotation_config().get(BACKEND, {})
    settings = [value for name, value in entry.items() if name != "url" and value is not None]

    def is_configured(value: object) -> bool:
        # Texts keep their identity on that way, and who gives an equal one means it; mappings are copied.
        return any(value is setting or (isinstance(value, Mapping) and value == setting) for setting in settings)

    return {name: value for name, value in values.items() if name == "url" or not is_configured(value)}


def _configured_places() -> Iterator[_Place]:
    in_file = _backends_in_file()
    for name in (BACKEND, "cvat"):
        entry = _annotation_config().get(name, {})
        prefix = f"FIFTYONE_{name.upper()}_"
        environment = {key: os.environ.get(prefix + key.upper()) for key in _SETTINGS}
        url = _text(entry.get("url"))
        # FiftyOne fills in the address of CVAT's public server for everybody: a default, which ties no login to it.
        server = None if url == _FIFTYONE_DEFAULT and not in_file.get(name, {}).get("url") else url
        yield _place(environment, environment["url"] or server)
        yield _place(entry, server)


def _place(values: Mapping[str, Any], server: str | None) -> _Place:
    headers = values.get("headers")
    return _Place(
        url=_text(values.get("url")),
        username=_text(values.get("username")) or _text(values.get("email")),
        password=_text(values.get("password")),
        token=_text(values.get("token")),
        headers=headers if isinstance(headers, Mapping) else None,
        server=server,
    )


def _text(value: object) -> str | None:
    # FiftyOne reads a numeric password from the environment as a number.
    return None if value is None or value == "" else str(value)


def _annotation_config() -> Mapping[str, Mapping[str, Any]]:
    import fiftyone as fo

    backends: Mapping[str, Mapping[str, Any]] = fo.annotation_config.backends
    return backends


def _backends_in_file() -> Mapping[str, Mapping[str, Any]]:
    try:
        backends: Mapping[str, Mapping[str, Any]] = read_config().get("backends", {})
    except ConfigurationError:
        return {}
    return backends


def _login(places: list[_Place]) -> Credentials | None:
    """The first complete login; None when there is none."""
    username: str | None = None
    password: str | None = None
    for place in places:
        if username is not None and place.username not in (None, username):
            continue
        if username is None and password is None and place.token:
            return Credentials(username=place.username, password=place.password, token=place.token)
        username = username or place.username
        password = password or place.password
        if username and password:
            return Credentials(username=username, password=password)
    return None


def _asked(places: list[_Place], address: str, ask: bool) -> Credentials:
    username = next((place.username for place in places if place.username), None)
    if not (ask and sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        missing = f"password for the user {username!r}" if username else "user name and password"
        raise ConfigurationError(
            f"Connecting to CVAT at {address} needs a {missing}, and none was found. Give username= and password=, "
            f"or set FIFTYONE_CVAT_USERNAME and FIFTYONE_CVAT_PASSWORD. (A login that is configured for another "
            f"server is not used for this one.)"
        )
    if username is None:
        sys.stderr.write(f"CVAT user name for {address}: ")
        sys.stderr.flush()
        username = sys.stdin.readline().strip()
    return Credentials(username=username, password=getpass.getpass(f"CVAT password of {username} at {address}: "))


def _checked_url(url: str | None) -> str:
    if not url:
        raise ConfigurationError(
            "No address of a CVAT server was found. Give url='http://localhost:8080', or set FIFTYONE_CVAT_URL. "
            "Without a server of your own, start one with: labelprop cvat serve"
        )
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not _has_valid_port(url):
        shown = url if "@" not in url else "one that holds a login"
        raise ConfigurationError(
            f"The address of a CVAT server looks like http://localhost:8080 or https://cvat.example.org, "
            f"but got {shown}."
        )
    if parts.username or parts.password:
        raise ConfigurationError(
            f"The address of the CVAT server at {parts.hostname} holds a login, which ends up in logs. Take it out and "
            f"give username= and password=, or set FIFTYONE_CVAT_USERNAME and FIFTYONE_CVAT_PASSWORD."
        )
    return url.rstrip("/")


def _has_valid_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _server(url: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme), parts.path.rstrip("/")


__all__ = ["Connection", "configured_verify", "resolve_connection", "resolve_url"]
