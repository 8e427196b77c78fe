"""Addresses of CVAT servers: what users write, and where a server may redirect to."""

from __future__ import annotations

from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from labelprop_cvat.backend.cvat.credentials import Credentials
from labelprop_cvat.backend.cvat.errors import NotCVAT
from labelprop_cvat.errors import ConfigurationError


def split_address(url: str) -> tuple[str, Credentials]:
    """Splits an address into its base, without trailing slash and ``/api``, and the login inside it.

    Raises:
        ConfigurationError: it is not an http or https address; the message holds no login
    """
    try:
        parts = urlsplit(url.strip())
        hostname, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(
            "The CVAT URL cannot be read; expected something like https://cvat.example.org."
        ) from None
    if parts.scheme not in ("http", "https") or not hostname:
        shown = url.strip().rpartition("@")[2]
        raise ConfigurationError(
            f"A CVAT URL begins with http:// or https:// and names a host, got {shown!r}. Example: "
            f"https://cvat.example.org"
        )
    path = parts.path.rstrip("/")
    path = path[: -len("/api")] if path.endswith("/api") else path
    host = f"[{hostname}]" if ":" in hostname else hostname
    netloc = f"{host}:{port}" if port is not None else host
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password is not None else None
    return urlunsplit((parts.scheme, netloc, path.rstrip("/"), "", "")), Credentials(username, password)


def host_of(url: str) -> str:
    """Scheme, host and port, for sentences and the ``Origin`` header."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def redirected(url: str, location: str) -> str:
    """Resolves a redirect that stays on the host, or goes from http to https there.

    Raises:
        NotCVAT: it leads elsewhere, where credentials must not be sent
    """
    old, new = urlsplit(url), urlsplit(urljoin(url, location))
    same_place = (new.scheme, new.hostname, _port(new)) == (old.scheme, old.hostname, _port(old))
    to_tls = old.scheme == "http" and new.scheme == "https" and new.hostname == old.hostname
    if not (same_place or to_tls):
        target = f"{new.scheme}://{new.hostname or ''}" + (f":{new.port}" if new.port else "")
        raise NotCVAT(
            f"{host_of(url)} redirects to {target}; credentials are not sent there. If that is your CVAT server, use "
            f"its address as URL."
        )
    return urlunsplit((new.scheme, new.netloc.rpartition("@")[2], new.path, new.query, ""))


def moved_base(base: str, old: str, new: str) -> str:
    """The server's address after a request to ``old`` was redirected to ``new``: its https twin where that is all."""
    before, after, parts = urlsplit(old), urlsplit(new), urlsplit(base)
    if before.scheme == after.scheme or before.path != after.path:
        return base
    return urlunsplit((after.scheme, after.netloc, parts.path, "", ""))


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


__all__ = ["host_of", "moved_base", "redirected", "split_address"]
