"""``/api/server``: what this server is."""

from __future__ import annotations

from starlette.responses import Response

from ..replies import Call, json_response
from ..representations import ABOUT
from ..routing import route


def _about(call: Call) -> Response:
    return json_response({**ABOUT, "logo_url": call.url("/static/logo.svg")})


def _formats(call: Call) -> Response:
    return json_response({"importers": [], "exporters": []})


def _plugins(call: Call) -> Response:
    return json_response({"GIT_INTEGRATION": False, "ANALYTICS": False, "MODELS": False, "PREDICT": False})


ROUTES = [
    route("/api/server/about", GET=_about, anonymous=True),
    route("/api/server/annotation/formats", GET=_formats),
    route("/api/server/plugins", GET=_plugins),
]
