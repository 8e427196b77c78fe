"""The CVAT client when things go wrong: every fault is a function from request to answer."""

from __future__ import annotations

import base64
import contextlib
import logging
import sys
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.header import Header
from email.utils import format_datetime
from pathlib import Path

import pytest
import requests
import responses
import urllib3
from fixtures_cvat_client import ABOUT, USER, Answer, FunctionAdapter

from labelprop_cvat.backend.cvat import (
    ConnectionCut,
    Credentials,
    CVATClient,
    CVATError,
    DataFailed,
    Invalid,
    LabelSpec,
    LoginRefused,
    NotCVAT,
    NotFound,
    PayloadTooLarge,
    PermissionRefused,
    RetryPolicy,
    ServerFailure,
    Throttled,
    Timeout,
    TLSFailed,
    Unreachable,
    UploadFile,
)
from labelprop_cvat.backend.cvat import session as session_module
from labelprop_cvat.backend.cvat import upload as upload_module
from labelprop_cvat.errors import ConfigurationError

URL = "http://cvat.test"
PASSWORD = "pa55-word-secret"
KEY = "0123456789abcdef0123456789abcdef01234567"
LOGIN = Credentials("ann", PASSWORD)
FAST = RetryPolicy(attempts=4, first_delay=0.001, max_delay=0.002, total=30.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits pass at once; returns the list of all waits."""
    now = [1000.0]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    for module in (session_module, upload_module):
        monkeypatch.setattr(module, "sleep", sleep)
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return waits


def server(handle: Callable[[requests.PreparedRequest], Answer | None]) -> Callable[[requests.PreparedRequest], Answer]:
    """A server that knows about, login and users/self, and asks ``handle`` first."""

    def answer(request: requests.PreparedRequest) -> Answer:
        special = handle(request)
        if special is not None:
            return special
        path = request.path_url.split("?")[0]
        known: dict[str, Answer] = {
            "/api/server/about": (200, ABOUT),
            "/api/auth/login": (200, {"key": KEY}),
            "/api/users/self": (200, USER),
        }
        return known.get(path, (404, {"detail": "Not found."}))

    return answer


def client_of(
    handle: Callable[[requests.PreparedRequest], Answer | None],
    *,
    url: str = URL,
    login: Credentials = LOGIN,
    **options: object,
) -> tuple[CVATClient, FunctionAdapter]:
    adapter = FunctionAdapter(server(handle))
    options = {"retry": FAST, **options}
    return CVATClient(url, login, adapter=adapter, **options), adapter  # type: ignore[arg-type]


def only(
    path: str, *answers: Answer | Exception, method: str = "GET"
) -> Callable[[requests.PreparedRequest], Answer | None]:
    """Gives these answers to a path in turn, then nothing special."""
    waiting = list(answers)

    def handle(request: requests.PreparedRequest) -> Answer | None:
        if request.path_url.split("?")[0] != path or request.method != method or not waiting:
            return None
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handle


def nothing(request: requests.PreparedRequest) -> None:
    return None


# Login


def test_logs_in_once_with_json_and_sends_the_key_as_token() -> None:
    client, adapter = client_of(nothing)
    client.whoami()
    client._me = None
    client.whoami()
    assert adapter.calls("POST", "/api/auth/login") == 1
    login = next(r for r in adapter.sent if r.path_url == "/api/auth/login")
    assert login.headers["Content-Type"] == "application/json"
    assert "Authorization" not in login.headers
    assert "Authorization" not in adapter.sent[0].headers
    assert all(r.headers["Authorization"] == f"Token {KEY}" for r in adapter.sent if r.path_url == "/api/users/self")


@pytest.mark.parametrize(
    ("token", "header"),
    [
        (KEY, f"Token {KEY}"),
        ("pat_abc.def123", "Bearer pat_abc.def123"),
        ("Token odd", "Token odd"),
        ("Bearer " + KEY, "Bearer " + KEY),
    ],
)
def test_a_token_needs_no_login(token: str, header: str) -> None:
    client, adapter = client_of(nothing, login=Credentials(token=token))
    client.whoami()
    assert adapter.calls("POST", "/api/auth/login") == 0
    assert adapter.sent[-1].headers["Authorization"] == header


def test_wrong_password_is_one_sentence() -> None:
    refused = (400, {"non_field_errors": ["Unable to log in with provided credentials."]})
    client, adapter = client_of(only("/api/auth/login", refused, refused, method="POST"))
    with pytest.raises(LoginRefused, match=r'refused the login as "ann" \(400\): wrong user name or password'):
        client.whoami()
    assert adapter.calls("POST", "/api/auth/login") == 1


def test_no_login_configured() -> None:
    client, _ = client_of(nothing, login=Credentials())
    assert client.about().version == "2.54.1"
    with pytest.raises(LoginRefused, match="no user name with password and no token is configured"):
        client.whoami()


def test_a_login_that_expires_is_renewed_once() -> None:
    gone = (401, {"detail": "Invalid token."})
    client, adapter = client_of(only("/api/users/self", gone))
    assert client.whoami().username == "ann"
    assert adapter.calls("POST", "/api/auth/login") == 2

    client, adapter = client_of(only("/api/users/self", gone, gone, gone))
    with pytest.raises(LoginRefused, match="Invalid token"):
        client.whoami()
    assert adapter.calls("POST", "/api/auth/login") == 2


@pytest.mark.parametrize("token", [KEY, "pat_abc.def123", f"Token {KEY}"])
def test_a_stale_token_without_password_is_refused(token: str) -> None:
    gone = (401, {"detail": "Invalid token."})
    client, _ = client_of(only("/api/users/self", gone, gone), login=Credentials(token=token))
    with pytest.raises(LoginRefused, match="Has the token expired"):
        client.whoami()


def test_an_access_token_that_looks_like_a_login_key_is_tried_as_both() -> None:
    def only_bearer(request: requests.PreparedRequest) -> Answer | None:
        bearer = request.headers.get("Authorization") == f"Bearer {KEY}"
        return None if bearer or "about" in request.path_url else (401, {"detail": "Invalid token."})

    client, adapter = client_of(only_bearer, login=Credentials(token=KEY))
    client.whoami()
    client._me = None
    client.whoami()
    sent = [r.headers["Authorization"].split()[0] for r in adapter.sent if r.path_url == "/api/users/self"]
    assert sent == ["Token", "Bearer", "Bearer"]


def test_a_login_that_is_renewed_repeats_a_write() -> None:
    created = {"id": 3, "name": "t"}
    refused = (401, {"detail": "Invalid token."})

    def handle(request: requests.PreparedRequest) -> Answer | None:
        if request.path_url.startswith("/api/tasks?"):
            return 200, {"count": 0, "next": None, "results": []}
        return only_post(request)

    only_post = only("/api/tasks", refused, (201, created), method="POST")
    client, adapter = client_of(handle)
    assert client.create_task("t", [LabelSpec("car")]).id == 3
    assert adapter.calls("POST", "/api/tasks") == 2


# Retries


@pytest.mark.parametrize(
    "fault",
    [
        requests.ConnectionError("cut"),
        requests.ReadTimeout("slow"),
        requests.exceptions.ChunkedEncodingError("half an answer"),
        (502, "<html><title>Bad Gateway</title></html>"),
        (503, {"detail": "busy"}),
        (504, "<html></html>"),
    ],
    ids=lambda f: str(f)[:20],
)
def test_reads_are_repeated(fault: Answer | Exception) -> None:
    client, adapter = client_of(only("/api/users/self", fault, fault, fault))
    assert client.whoami().id == 7
    assert adapter.calls("GET", "/api/users/self") == 4


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (requests.ConnectionError("cut"), ConnectionCut),
        (requests.ReadTimeout("slow"), Timeout),
        (requests.ConnectTimeout("nobody"), Unreachable),
        ((503, {"detail": "busy"}), ServerFailure),
        ((429, {"detail": "slow down"}), Throttled),
    ],
    ids=lambda f: str(f)[:20],
)
def test_reads_end_at_last(fault: Answer | Exception, kind: type[CVATError]) -> None:
    client, adapter = client_of(only("/api/users/self", *[fault] * 99))
    with pytest.raises(kind) as caught:
        client.whoami()
    assert adapter.calls("GET", "/api/users/self") == FAST.attempts
    assert (caught.value.method, caught.value.path) == ("GET", "/api/users/self")


def test_waits_double_up_to_a_cap_and_differ(clock: list[float]) -> None:
    policy = RetryPolicy(attempts=8, first_delay=1.0, max_delay=8.0, total=1000.0)
    client, _ = client_of(only("/api/users/self", *[(503, {})] * 99), retry=policy)
    with pytest.raises(ServerFailure):
        client.whoami()
    assert len(clock) == 7
    for wait, longest in zip(clock, [1, 2, 4, 8, 8, 8, 8], strict=True):
        assert longest / 2 <= wait <= longest
    assert len({round(w / longest, 6) for w, longest in zip(clock, [1, 2, 4, 8, 8, 8, 8], strict=True)}) > 1


def test_the_total_time_is_bounded(clock: list[float]) -> None:
    policy = RetryPolicy(attempts=1000, first_delay=5.0, max_delay=5.0, total=60.0)
    client, _ = client_of(only("/api/users/self", *[(503, {})] * 999), retry=policy)
    with pytest.raises(ServerFailure):
        client.whoami()
    assert sum(clock) <= 60.0


def test_retry_after_is_honoured(clock: list[float]) -> None:
    wait = (429, {"detail": "Request was throttled. Expected available in 34 seconds."}, {"Retry-After": "34"})
    client, _ = client_of(only("/api/users/self", wait), retry=RetryPolicy())
    assert client.whoami().id == 7
    assert clock == [34.0]


def test_retry_after_may_be_a_date(clock: list[float]) -> None:
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=20), usegmt=True)
    client, _ = client_of(only("/api/users/self", (429, {}, {"Retry-After": later})), retry=RetryPolicy())
    client.whoami()
    assert 15.0 < clock[0] < 21.0


def test_a_server_that_wants_too_long_a_wait_is_not_waited_for(clock: list[float]) -> None:
    client, _ = client_of(only("/api/users/self", (429, {"detail": "later"}, {"Retry-After": "3600"})))
    with pytest.raises(Throttled, match=r"asks to send fewer requests.*later"):
        client.whoami()
    assert clock == []


def test_login_waits_when_throttled(clock: list[float]) -> None:
    client, _adapter = client_of(
        only("/api/auth/login", (429, {}, {"Retry-After": "33"}), method="POST"), retry=RetryPolicy()
    )
    client.whoami()
    assert clock == [33.0]


@pytest.mark.parametrize(
    ("status", "kind", "times"),
    [
        (400, Invalid, 1),
        (403, PermissionRefused, 1),
        (404, NotFound, 1),
        (409, Invalid, 1),
        (413, PayloadTooLarge, 1),
        (501, ServerFailure, 1),
        # CVAT says so while its database restarts; otherwise it says so again.
        (500, ServerFailure, 3),
    ],
)
def test_a_refusal_is_not_repeated(status: int, kind: type[CVATError], times: int) -> None:
    client, adapter = client_of(only("/api/users/self", *[(status, {"detail": "no"})] * 9))
    with pytest.raises(kind, match="no") as caught:
        client.whoami()
    assert caught.value.status == status
    assert adapter.calls("GET", "/api/users/self") == times


def test_500_of_a_task_without_data_is_explained() -> None:
    page = "<!doctype html><html><head><title>Server Error (500)</title></head><body></body></html>"
    client, _ = client_of(only("/api/tasks/33/data/meta", *[(500, page)] * 3))
    with pytest.raises(ServerFailure, match=r"Server Error \(500\).* data is not in"):
        client.data_meta(task_id=33)


def test_every_request_has_a_timeout(tmp_path: Path) -> None:
    def page_or_ok(request: requests.PreparedRequest) -> Answer | None:
        return None

    client, adapter = client_of(page_or_ok, timeout=(3.0, 7.0))
    image = tmp_path / "a.jpg"
    image.write_bytes(b"x")
    verbs: list[Callable[[], object]] = [
        client.about,
        client.whoami,
        lambda: client.find_user("bob"),
        lambda: client.create_task("t", []),
        lambda: client.task(1),
        lambda: client.delete_task(1),
        lambda: client.upload_images(1, [UploadFile("a.jpg", image)], jobs=None),
        lambda: client.labels(1),
        lambda: client.jobs(1),
        lambda: client.job(1),
        lambda: client.update_job(1, state="completed"),
        lambda: client.data_meta(task_id=1),
        lambda: client.annotations(job_id=1),
        lambda: client.create_annotations({"tags": [{"label_id": 1, "frame": 0}]}, job_id=1),
        lambda: client.delete_annotations({"tags": [{"id": 1, "label_id": 1, "frame": 0}]}, job_id=1),
        lambda: client.issues(1),
        lambda: client.frame(1, 0),
    ]
    for verb in verbs:
        before = len(adapter.sent)
        with contextlib.suppress(NotFound):
            verb()
        assert len(adapter.sent) > before or verb in (client.about,)
    assert all(o["timeout"] == (3.0, 7.0) for o in adapter.options)
    assert all(o["verify"] is not False for o in adapter.options)


# Addresses


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://cvat.test", "http://cvat.test"),
        ("http://cvat.test/", "http://cvat.test"),
        ("http://cvat.test/api", "http://cvat.test"),
        ("http://cvat.test:8080/api/", "http://cvat.test:8080"),
        ("https://x.test/tools/cvat/", "https://x.test/tools/cvat"),
        ("https://x.test/tools/cvat/api/", "https://x.test/tools/cvat"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("  http://cvat.test  ", "http://cvat.test"),
    ],
)
def test_addresses_in_all_their_forms(url: str, base: str) -> None:
    seen: list[str] = []

    def handle(request: requests.PreparedRequest) -> Answer | None:
        seen.append(str(request.url))
        return 200, {**ABOUT, **USER, "key": KEY}

    client, _ = client_of(handle, url=url)
    assert client.whoami().id == 7
    assert client.url == base
    assert all(u.startswith(base + "/api/") for u in seen)


@pytest.mark.parametrize("url", ["cvat.test", "ftp://cvat.test", "http://", "", "http://x:port", "localhost:8080"])
def test_a_bad_address_is_a_sentence(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"https://cvat\.example\.org"):
        CVATClient(url, LOGIN)


@pytest.mark.parametrize(
    "answer",
    [
        (200, "<!doctype html><html><title>Router login</title></html>"),
        (200, {"hello": "world"}),
        (200, [1]),
        (404, "<html>"),
    ],
    ids=["page", "json", "list", "404"],
)
def test_something_else_behind_the_address(answer: Answer) -> None:
    client, adapter = client_of(only("/api/server/about", answer))
    with pytest.raises(NotCVAT) as caught:
        client.whoami()
    assert "\n" not in str(caught.value)
    assert len(adapter.sent) == 1, "nothing more, no password above all, may be sent there"


def test_nobody_there() -> None:
    client = CVATClient("http://127.0.0.1:9", LOGIN, retry=FAST)
    with pytest.raises(
        Unreachable, match=r"No CVAT server can be reached at http://127\.0\.0\.1:9 \(connection refused\)"
    ):
        client.whoami()


def test_an_unknown_host() -> None:
    with pytest.raises(Unreachable, match=r"host of http://no-such-host\.invalid is unknown"):
        CVATClient("http://no-such-host.invalid", LOGIN, retry=FAST).whoami()


def test_certificates_are_verified_by_default_and_failures_not_repeated() -> None:
    fault = requests.exceptions.SSLError("certificate verify failed")
    client, adapter = client_of(only("/api/server/about", fault, fault), url="https://cvat.test")
    with pytest.raises(TLSFailed, match="Point `verify` to your CA bundle"):
        client.about()
    assert len(adapter.sent) == 1


@pytest.mark.parametrize("verify", [True, False, "/etc/ssl/own-ca.pem"])
def test_verify_is_passed_on(verify: bool | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    client, adapter = client_of(nothing, verify=verify)
    client.whoami()
    assert {o["verify"] for o in adapter.options} == {verify}


def test_a_missing_ca_bundle_is_a_sentence() -> None:
    client = CVATClient("https://127.0.0.1:9", LOGIN, verify="/no/such/ca.pem", retry=FAST)
    with pytest.raises(TLSFailed, match=r"CA bundle '/no/such/ca.pem'"):
        client.about()


# Redirects


def test_a_redirect_to_tls_keeps_method_and_body_and_comes_before_the_password() -> None:
    def handle(request: requests.PreparedRequest) -> Answer | None:
        if str(request.url).startswith("http://"):
            return 301, None, {"Location": str(request.url).replace("http://", "https://")}
        if request.path_url.startswith("/api/tasks?"):
            return 200, {"count": 0, "next": None, "results": []}
        if request.path_url == "/api/tasks":
            return 201, {"id": 5, "name": "t"}
        return None

    client, adapter = client_of(handle)
    assert client.create_task("t", [LabelSpec("car")]).id == 5
    assert client.url == "https://cvat.test"
    plain = [r for r in adapter.sent if str(r.url).startswith("http://")]
    assert [r.path_url for r in plain] == ["/api/server/about"]
    assert all("Authorization" not in r.headers for r in plain)
    posted = next(r for r in adapter.sent if r.path_url == "/api/tasks" and r.method == "POST")
    assert b'"name": "t"' in (posted.body or b"")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(
    "target", ["https://evil.test/api/users/self", "//evil.test/x", "http://cvat.test:81/api/users/self"]
)
def test_credentials_are_not_sent_to_another_host(status: int, target: str) -> None:
    client, adapter = client_of(only("/api/users/self", (status, None, {"Location": target})))
    with pytest.raises(NotCVAT, match="credentials are not sent there") as caught:
        client.whoami()
    assert (caught.value.method, caught.value.path, caught.value.status) == ("GET", "/api/users/self", status)
    assert {r.url.split("/api")[0] for r in adapter.sent if r.url} == {URL}


def test_tls_is_never_left() -> None:
    client, adapter = client_of(
        only("/api/users/self", (302, None, {"Location": "http://cvat.test/api/users/self"})), url="https://cvat.test"
    )
    with pytest.raises(NotCVAT):
        client.whoami()
    assert all(str(r.url).startswith("https://") for r in adapter.sent)


def test_redirects_in_circles_end() -> None:
    client, adapter = client_of(lambda r: (301, None, {"Location": str(r.url)}))
    with pytest.raises(NotCVAT, match="circles"):
        client.about()
    assert len(adapter.sent) < 10


def test_a_slash_more_is_followed() -> None:
    def handle(request: requests.PreparedRequest) -> Answer | None:
        if request.path_url == "/api/users/self":
            return 301, None, {"Location": "/api/users/self/"}
        return (200, USER) if request.path_url == "/api/users/self/" else None

    client, _ = client_of(handle)
    assert client.whoami().id == 7


# Secrets


def _everything(error: BaseException) -> str:
    """All that a log or a crash reporter could show of an exception."""
    shown = "".join(traceback.format_exception(error))
    seen: list[BaseException | None] = [error]
    while seen:
        current = seen.pop()
        if current is not None:
            shown += repr(current) + str(current.args) + repr(vars(current))
            request = getattr(current, "request", None)
            shown += (
                repr(getattr(request, "headers", ""))
                + repr(getattr(request, "body", ""))
                + repr(getattr(request, "url", ""))
            )
            seen += [current.__cause__, current.__context__]
    return shown


@pytest.mark.parametrize(
    "fault",
    [
        requests.ConnectionError("cut"),
        (500, f"<title>Oops {PASSWORD} {KEY}</title>"),
        (400, {"detail": f"bad token {KEY} of {PASSWORD}"}),
        (401, {"detail": KEY}),
    ],
    ids=["cut", "500", "400", "401"],
)
def test_no_secret_shows_anywhere(fault: Answer | Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"http://ann:{PASSWORD}@cvat.test"
    client, adapter = client_of(
        only("/api/users/self", *[fault] * 20), url=url, login=Credentials(), headers={"X-Proxy-Auth": "proxy-secret"}
    )
    with pytest.raises(CVATError) as caught:
        client.whoami()
    if isinstance(fault, Exception):
        fault.__traceback__ = None
    shown = _everything(caught.value) + caplog.text + repr(client) + repr(client._session) + client.url
    shown += repr(vars(client._session._authorization)) if client._session._authorization is None else ""
    for secret in (PASSWORD, KEY, "proxy-secret"):
        assert secret not in shown
    assert any("Authorization" in r.headers for r in adapter.sent), "the login in the URL must have been used"


def test_a_wrong_password_does_not_show(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client, _ = client_of(only("/api/auth/login", (400, {"detail": f"{PASSWORD} is wrong"}), method="POST"))
    with pytest.raises(LoginRefused) as caught:
        client.whoami()
    assert PASSWORD not in _everything(caught.value) + caplog.text


def test_secrets_do_not_show_in_reprs_or_bad_addresses() -> None:
    assert PASSWORD not in repr(LOGIN)
    assert KEY not in repr(Credentials(token=KEY))
    with pytest.raises(ConfigurationError) as caught:
        CVATClient(f"ftp://ann:{PASSWORD}@cvat.test", Credentials())
    assert PASSWORD not in _everything(caught.value)


def test_an_error_of_the_network_shows_no_password_of_the_address() -> None:
    client = CVATClient(f"http://ann:{PASSWORD}@127.0.0.1:9/", Credentials(), retry=FAST)
    with pytest.raises(Unreachable) as caught:
        client.whoami()
    assert PASSWORD not in _everything(caught.value)


def test_netrc_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine cvat.test login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    client, adapter = client_of(nothing)
    client.whoami()
    assert not any(r.headers.get("Authorization", "").startswith("Basic") for r in adapter.sent)
    client, adapter = client_of(nothing, login=Credentials(), headers={"Authorization": "Custom mine"})
    client.whoami()
    assert {r.headers["Authorization"] for r in adapter.sent} == {"Custom mine"}


# Lists, headers


def test_pages_are_followed_by_number_whatever_next_says() -> None:
    def handle(request: requests.PreparedRequest) -> Answer | None:
        if not request.path_url.startswith("/api/users?"):
            return None
        assert str(request.url).startswith(URL)
        page = 2 if "page=2" in request.path_url else 1
        users = [{"id": 10 * page, "username": f"user{page}"}]
        return 200, {
            "count": 2,
            "next": "http://internal:8080/api/users?page=2" if page == 1 else None,
            "results": users,
        }

    client, _ = client_of(handle)
    assert client.find_user("user2").id == 20
    with pytest.raises(NotFound, match='no user "nobody"'):
        client.find_user("nobody")


def test_organization_and_headers_go_along() -> None:
    client, adapter = client_of(nothing, organization="acme", headers={"X-Team": "blue"}, user_agent="me/1")
    client.whoami()
    assert adapter.sent[-1].headers["X-Organization"] == "acme"
    for request in adapter.sent[:-1]:
        assert "X-Organization" not in request.headers, "an unknown organization must not look like a missing server"
    for request in adapter.sent:
        assert request.headers["X-Team"] == "blue"
        assert request.headers["User-Agent"] == "me/1"


def test_an_authorization_header_of_the_user_replaces_the_login() -> None:
    client, adapter = client_of(nothing, login=Credentials(), headers={"Authorization": "Basic abcdef"})
    client.whoami()
    assert adapter.sent[-1].headers["Authorization"] == "Basic abcdef"


# Writes whose answer is lost


def _tasks(
    handle: Callable[[requests.PreparedRequest, list[dict[str, object]]], Answer | None],
) -> tuple[CVATClient, FunctionAdapter, list[dict[str, object]]]:
    """A server that keeps tasks; ``handle`` may spoil the creation."""
    tasks: list[dict[str, object]] = []

    def answer(request: requests.PreparedRequest) -> Answer | None:
        if request.path_url.startswith("/api/tasks?"):
            return 200, {"count": len(tasks), "next": None, "results": list(tasks)}
        if request.path_url == "/api/tasks":
            return handle(request, tasks)
        return None

    client, adapter = client_of(answer)
    return client, adapter, tasks


def _add(tasks: list[dict[str, object]], tracker: str = "") -> dict[str, object]:
    tasks.append({"id": len(tasks) + 1, "name": "t", "bug_tracker": tracker})
    return tasks[-1]


@pytest.mark.parametrize("fault", [requests.ReadTimeout("slow"), requests.ConnectionError("cut"), (504, "")], ids=str)
def test_a_created_task_whose_answer_is_lost_is_found_again(fault: Answer | Exception) -> None:
    def handle(request: requests.PreparedRequest, tasks: list[dict[str, object]]) -> Answer:
        _add(tasks)
        if isinstance(fault, Exception):
            raise fault
        return fault

    client, adapter, tasks = _tasks(handle)
    _add(tasks)
    assert client.create_task("t", [LabelSpec("car")]).id == 2
    assert len(tasks) == 2
    assert adapter.calls("POST", "/api/tasks") == 1


def test_a_task_that_was_not_created_is_created() -> None:
    def handle(request: requests.PreparedRequest, tasks: list[dict[str, object]]) -> Answer:
        if adapter.calls("POST", "/api/tasks") < 3:
            raise requests.ConnectionError("cut")
        return 201, _add(tasks)

    client, adapter, tasks = _tasks(handle)
    _add(tasks)
    assert client.create_task("t", [LabelSpec("car")]).id == 2, "the task that was there before is another one"
    assert len(tasks) == 2


def test_a_task_of_that_name_made_by_somebody_else_is_not_taken_for_ours() -> None:
    def handle(request: requests.PreparedRequest, tasks: list[dict[str, object]]) -> Answer:
        if len(tasks) == 0:
            _add(tasks, "somebody's")
            raise requests.ConnectionError("cut")
        return 201, _add(tasks, "#mark")

    client, _, _ = _tasks(handle)
    assert client.create_task("t", [LabelSpec("car")], marker="mark").id == 2


def test_a_marked_task_is_made_once_over_two_processes() -> None:
    client, adapter, _ = _tasks(lambda request, tasks: (201, _add(tasks, "https://bugs.test#m1")))
    first = client.create_task("t", [LabelSpec("car")], marker="m1", bug_tracker="https://bugs.test")
    again = client.create_task("t", [LabelSpec("car")], marker="m1", bug_tracker="https://bugs.test")
    assert first.id == again.id == 1
    assert adapter.calls("POST", "/api/tasks") == 1
    assert b'"bug_tracker": "https://bugs.test#m1"' in (
        next(r for r in adapter.sent if r.method == "POST" and r.path_url == "/api/tasks").body or b""
    )


def test_a_refused_task_is_not_looked_for() -> None:
    client, adapter, _ = _tasks(lambda request, tasks: (400, {"labels": ["Label names must be unique."]}))
    with pytest.raises(Invalid, match=r"labels: Label names must be unique\."):
        client.create_task("t", [LabelSpec("car")])
    assert adapter.calls("POST", "/api/tasks") == 1
    assert adapter.calls("GET", "/api/tasks") == 1


def test_deleting_what_is_gone_is_fine() -> None:
    client, adapter = client_of(only("/api/tasks/3", requests.ReadTimeout("slow"), method="DELETE"))
    client.delete_task(3)
    assert adapter.calls("DELETE", "/api/tasks/3") == 2


# Waiting for frames


def _upload_server(
    states: list[tuple[str, str]], begun: bool = False, lost_finish: bool = False
) -> Callable[[requests.PreparedRequest], Answer | None]:
    working = [begun]

    def handle(request: requests.PreparedRequest) -> Answer | None:
        path = request.path_url
        if path == "/api/tasks/1":
            done = not states
            return 200, {"id": 1, "name": "t", "size": 1 if done else 0, "data": 1 if working[0] else None}
        if path == "/api/tasks/1/data/":
            if "Upload-Finish" in request.headers:
                working[0] = True
                if lost_finish:
                    raise requests.ReadTimeout("slow")
                return 202, {"rq_id": "action=create&target=task&target_id=1"}
            return 200, None
        if path.startswith("/api/requests/"):
            assert path == "/api/requests/action%3Dcreate%26target%3Dtask%26target_id%3D1"
            if not working[0]:
                return 404, {"detail": "Not found."}
            status, message = states[0] if len(states) == 1 and states[0][0] == "queued" else states.pop(0)
            return 200, {"id": "x", "status": status, "message": message, "progress": 0.0}
        return None

    return handle


@pytest.fixture
def image(tmp_path: Path) -> UploadFile:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"not really")
    return UploadFile("a.jpg", path)


def test_data_that_fails_says_why_and_does_not_hang(image: UploadFile, clock: list[float]) -> None:
    states = [
        ("queued", ""),
        ("started", "extracting"),
        ("failed", "Traceback...\ncannot identify image file 'a.jpg'\n"),
    ]
    client, _ = client_of(_upload_server(states))
    with pytest.raises(DataFailed, match=r"cannot identify image file 'a\.jpg'.*delete it"):
        client.upload_images(1, [image], jobs=None)


def test_waiting_for_data_is_bounded(image: UploadFile, clock: list[float]) -> None:
    client, _ = client_of(_upload_server([("queued", "")]))
    with pytest.raises(Timeout, match=r"still preparing.*queued.*import worker"):
        client.upload_images(1, [image], jobs=None, wait=300.0)
    assert 300.0 <= sum(clock) < 310.0


def test_data_that_arrives_ends_the_wait(image: UploadFile, clock: list[float]) -> None:
    seen: list[tuple[int, int]] = []
    client, _ = client_of(_upload_server([("queued", ""), ("started", ""), ("finished", "")]))
    client.upload_images(1, [image], jobs=[["a.jpg"]], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1, 1)


def test_a_server_that_is_at_work_already_is_only_waited_for(image: UploadFile, clock: list[float]) -> None:
    client, adapter = client_of(_upload_server([("started", ""), ("started", ""), ("finished", "")], begun=True))
    client.upload_images(1, [image], jobs=None)
    assert not any(r.method == "POST" for r in adapter.sent if "/data" in r.path_url)


def in_header(text: str) -> str:
    """As Django puts text into a header."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return Header(text, "utf-8", maxlinelen=sys.maxsize).encode()
    return text


def _tus_server(
    images: list[UploadFile], stored: set[str], renames: bool = False
) -> Callable[[requests.PreparedRequest], Answer | None]:
    """A server with an interrupted upload, which knows by name what it has, as CVAT's own does."""
    names: dict[str, str] = {}
    finished = [False]

    def handle(request: requests.PreparedRequest) -> Answer | None:
        path, headers = request.path_url, request.headers
        if path == "/api/tasks/1":
            return 200, {"id": 1, "name": "t", "size": len(stored) if finished[0] else 0, "data": 5}
        if path.startswith("/api/requests/"):
            return (200, {"id": "x", "status": "finished"}) if finished[0] else (404, {})
        if path == "/api/tasks/1/data/" and "Upload-Length" in headers:
            name = base64.b64decode(headers["Upload-Metadata"].removeprefix("filename ")).decode()
            if name in stored:
                return 409, "File with same name already exists"
            names[f"1_{len(names)}"] = name
            return 201, None, {"Location": f"http://inside:8080/api/tasks/1/data/1_{len(names) - 1}"}
        if request.method == "PATCH":
            name = names[path.rpartition("/")[2]]
            stored.add(name)
            size = len(request.body or b"")
            return (
                204,
                None,
                {"Upload-Offset": str(size), "Upload-Filename": f"_1{name}" if renames else in_header(name)},
            )
        if path == "/api/tasks/1/data/":
            assert "Upload-Multiple" not in headers
            finished[0] = "Upload-Finish" in headers
            return 202, {"rq_id": "x"} if finished[0] else None
        return None

    return handle


@pytest.fixture
def many(tmp_path: Path) -> list[UploadFile]:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(b"image" * (number + 1))
    return [UploadFile(f"{number}.jpg", tmp_path / f"{number}.jpg") for number in range(4)]


def test_files_that_the_server_has_are_not_sent_again(many: list[UploadFile], clock: list[float]) -> None:
    stored = {"0.jpg", "2.jpg"}
    client, adapter = client_of(_tus_server(many, stored))
    client.upload_images(1, many, jobs=None)
    assert stored == {f.name for f in many}
    assert [r.body for r in adapter.sent if r.method == "PATCH"] == [b"image" * 2, b"image" * 4]
    assert all(str(r.url).startswith(URL) for r in adapter.sent), "the host in Location is the server's own idea"


def test_names_in_headers_are_decoded(tmp_path: Path, clock: list[float]) -> None:
    (tmp_path / "x").write_bytes(b"image")
    files = [UploadFile(name, tmp_path / "x") for name in ("größe.jpg", "帧 1.jpg", "50%=?x?=.jpg")]
    stored: set[str] = set()
    client, _ = client_of(_tus_server(files, stored))
    client.upload_images(1, files, jobs=None)
    assert stored == {f.name for f in files}


def test_a_file_stored_under_another_name_is_noticed(many: list[UploadFile]) -> None:
    client, _ = client_of(_tus_server(many, set(), renames=True))
    with pytest.raises(Invalid, match=r"stored this one as _10\.jpg. Delete the task"):
        client.upload_images(1, many, jobs=None)


def test_fewer_frames_than_files_are_noticed(many: list[UploadFile], clock: list[float]) -> None:
    client, _ = client_of(_tus_server(many, {"stray.jpg"}))
    with pytest.raises(DataFailed, match="made 5 frames of the 4 files"):
        client.upload_images(1, many, jobs=None)


def test_ground_truth_jobs_are_not_the_annotators() -> None:
    def job(number: int, kind: str, start: int) -> dict[str, object]:
        span = {"start_frame": start, "stop_frame": start + 1}
        return {"id": number, "task_id": 1, "stage": "annotation", "state": "new", "type": kind, **span}

    listed = [
        job(9, "ground_truth", 0),
        job(8, "annotation", 2),
        job(7, "consensus_replica", 0),
        job(6, "annotation", 0),
    ]
    client, _ = client_of(only("/api/jobs", (200, {"count": 4, "next": None, "results": listed})))
    assert [j.id for j in client.jobs(1)] == [6, 8]


def test_a_lost_answer_to_the_last_step_is_not_sent_twice(image: UploadFile, clock: list[float]) -> None:
    client, adapter = client_of(
        _upload_server([("queued", "")] + [("started", "")] * 2 + [("finished", "")], lost_finish=True)
    )
    client.upload_images(1, [image], jobs=None)
    assert sum("Upload-Finish" in r.headers for r in adapter.sent) == 1


# The same over urllib3's own failures, which requests wraps in different ways


@responses.activate
def test_with_responses_reads_are_repeated_and_login_is_json() -> None:
    responses.get(f"{URL}/api/server/about", json=ABOUT)
    responses.post(
        f"{URL}/api/auth/login",
        json={"key": KEY},
        match=[responses.matchers.json_params_matcher({"username": "ann", "password": PASSWORD})],
    )
    responses.get(f"{URL}/api/users/self", body=requests.ConnectionError("cut"))
    responses.get(f"{URL}/api/users/self", status=502)
    responses.get(f"{URL}/api/users/self", json=USER)
    with CVATClient(URL, LOGIN, retry=FAST) as client:
        assert client.whoami().username == "ann"
    responses.assert_call_count(f"{URL}/api/users/self", 3)


def test_failures_before_anything_was_sent_are_told_apart() -> None:
    pool = urllib3.HTTPConnectionPool("cvat.test")
    unsent = requests.ConnectionError(
        urllib3.exceptions.MaxRetryError(pool, "/", urllib3.exceptions.NewConnectionError(pool, "refused"))  # type: ignore[arg-type]
    )
    client, adapter = client_of(only("/api/comments", unsent, unsent, method="POST"))
    for fault, sent_again in ((unsent, True), (requests.ConnectionError("reset by peer"), False)):
        client, adapter, _ = _tasks(_once(fault))
        client.create_task("t", [LabelSpec("car")])
        looked = adapter.calls("GET", "/api/tasks")
        assert (looked == 1) is sent_again


def _once(fault: Exception) -> Callable[[requests.PreparedRequest, list[dict[str, object]]], Answer]:
    left = [fault]

    def handle(request: requests.PreparedRequest, tasks: list[dict[str, object]]) -> Answer:
        if left:
            raise left.pop()
        return 201, _add(tasks)

    return handle
