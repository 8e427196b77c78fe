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


_PAGE = """<!doctype html>
<title>labelprop-cvat local server</title>
<h1>A local CVAT server, without CVAT's web pages</h1>
<p>It answers the REST API that labelprop, FiftyOne and cvat-sdk speak. To see this and annotate by hand,
use a full CVAT.</p>
"""


def _explain(call: Call) -> Response:
    """What a person sees who follows a link that was made for CVAT's web pages."""
    return Response(_PAGE, media_type="text/html")


ROUTES = [
    route("/", GET=_explain, anonymous=True),
    route("/tasks/{rest:path}", GET=_explain, anonymous=True),
    route("/projects/{rest:path}", GET=_explain, anonymous=True),
    route("/api/server/about", GET=_about, anonymous=True),
    route("/api/server/annotation/formats", GET=_formats),
    route("/api/server/plugins", GET=_plugins),
]
