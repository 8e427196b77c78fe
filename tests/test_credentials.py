"""Which CVAT server to talk to, and as whom."""

from __future__ import annotations

import io
import json
import sys

import fiftyone as fo
import pytest

from labelprop_cvat.backend.credentials import resolve_connection
from labelprop_cvat.errors import ConfigurationError

A, B = "http://a.example:8080", "https://b.example"


@pytest.fixture
def places(monkeypatch, tmp_path):
    """``places(env={...}, labelprop={...}, cvat={...})`` sets what is configured; nothing is at first."""

    def configure(env=None, labelprop=None, cvat=None, in_file=None):
        for key, value in (env or {}).items():
            monkeypatch.setenv(f"FIFTYONE_{key}", value)
        backends = {"cvat": {"url": "https://app.cvat.ai", **(cvat or {})}}
        if labelprop is not None:
            backends["labelprop"] = labelprop
        monkeypatch.setattr(fo.annotation_config, "backends", backends)
        if in_file is not None:
            path = tmp_path / "annotation_config.json"
            path.write_text(json.dumps({"backends": in_file}))
            monkeypatch.setenv("FIFTYONE_ANNOTATION_CONFIG_PATH", str(path))

    monkeypatch.setenv("FIFTYONE_ANNOTATION_CONFIG_PATH", str(tmp_path / "none.json"))
    configure()
    return configure


def login(connection):
    return connection.url, connection.credentials.username, connection.credentials.password


def test_the_order_of_the_places(places):
    places(
        env={"LABELPROP_URL": A, "CVAT_URL": A, "CVAT_USERNAME": "cvat-env", "CVAT_PASSWORD": "4"},
        labelprop={"url": A, "username": "lp", "password": "3"},
        cvat={"url": A, "username": "cvat", "password": "5"},
    )
    assert login(resolve_connection()) == (A, "lp", "3")
    places(env={"LABELPROP_USERNAME": "lp-env", "LABELPROP_PASSWORD": "2"}, labelprop={"username": "lp"})
    assert login(resolve_connection()) == (A, "lp-env", "2")
    assert login(resolve_connection(username="me", password="1")) == (A, "me", "1")


def test_fiftyones_own_cvat_settings_are_the_fallback(places):
    places(cvat={"url": f"{A}/", "username": "cvat", "password": "5"})
    assert login(resolve_connection()) == (A, "cvat", "5")
    places(env={"CVAT_USERNAME": "cvat-env", "CVAT_PASSWORD": "4"}, cvat={"url": A})
    assert login(resolve_connection()) == (A, "cvat-env", "4")


def test_a_login_that_names_no_server_goes_to_the_one_that_is_given(places):
    places(env={"CVAT_USERNAME": "me", "CVAT_PASSWORD": "p"})
    assert login(resolve_connection()) == ("https://app.cvat.ai", "me", "p")
    assert login(resolve_connection(url=A)) == (A, "me", "p")


@pytest.mark.parametrize(
    "settings",
    [
        {"env": {"CVAT_URL": B, "CVAT_USERNAME": "me", "CVAT_PASSWORD": "hush"}},
        {"env": {"CVAT_USERNAME": "me", "CVAT_PASSWORD": "hush"}, "cvat": {"url": B}},
        {"cvat": {"url": B, "username": "me", "password": "hush"}},
        {"cvat": {"url": B, "token": "hush"}},
        {"labelprop": {"url": B, "token": "hush"}},
        {"cvat": {"url": B, "username": "me", "password": "hush"}, "labelprop": {"url": A}},
        {"cvat": {"username": "me", "password": "hush"}, "in_file": {"cvat": {"url": "https://app.cvat.ai"}}},
    ],
)
def test_a_login_never_goes_to_another_server(places, settings):
    places(**settings)
    with pytest.raises(ConfigurationError, match="user name and password") as error:
        resolve_connection(url=A)
    assert "hush" not in str(error.value)


def test_the_same_server_in_other_words_is_the_same(places):
    places(cvat={"url": "HTTPS://b.example:443/", "username": "me", "password": "p"})
    assert login(resolve_connection(url=B)) == (B, "me", "p")


def test_a_password_goes_with_its_own_user(places):
    places(env={"CVAT_USERNAME": "alice", "CVAT_PASSWORD": "hers"})
    with pytest.raises(ConfigurationError, match="password for the user 'bob'"):
        resolve_connection(url=A, username="bob")
    assert login(resolve_connection(url=A, username="alice")) == (A, "alice", "hers")
    assert login(resolve_connection(url=A, password="other")) == (A, "alice", "other")


def test_a_token_serves_unless_a_user_was_named(places):
    places(env={"CVAT_TOKEN": "t0"})
    assert resolve_connection(url=A).credentials.token == "t0"
    assert resolve_connection(url=A, token="t1").credentials.token == "t1"
    with pytest.raises(ConfigurationError, match="'bob'"):
        resolve_connection(url=A, username="bob")


def test_headers_belong_to_their_server(places):
    places(cvat={"url": A, "username": "me", "password": "p", "headers": {"X-Gate": "secret-gate"}})
    connection = resolve_connection()
    assert connection.headers == {"X-Gate": "secret-gate"}
    assert "secret-gate" not in repr(connection)
    assert resolve_connection(url=B, username="me", password="p").headers == {}


def test_a_numeric_password_stays_text(places):
    places(env={"CVAT_USERNAME": "me", "CVAT_PASSWORD": "007"}, cvat={"password": 7})
    assert resolve_connection(url=A).credentials.password == "007"


def test_no_secret_is_shown(places):
    connection = resolve_connection(url=A, username="me", password="hush1", token="hush2")
    assert "hush" not in repr(connection)
    assert "hush" not in str(connection)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://a", "http://", "http://a:port", "nonsense"])
def test_an_address_that_is_none(places, url):
    with pytest.raises(ConfigurationError, match="looks like http"):
        resolve_connection(url=url, username="me", password="p")


def test_a_login_inside_the_address_is_refused_without_repeating_it(places):
    with pytest.raises(ConfigurationError, match="holds a login") as error:
        resolve_connection(url="http://me:hush@a.example", username="me", password="p")
    assert "hush" not in str(error.value)


def test_no_address_at_all(places, monkeypatch):
    monkeypatch.setattr(fo.annotation_config, "backends", {})
    with pytest.raises(ConfigurationError, match="labelprop cvat serve"):
        resolve_connection(username="me", password="p")


def test_a_person_on_a_terminal_is_asked(places, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    asked = []
    monkeypatch.setattr(sys, "stdin", Terminal("dora\n"))
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or "typed")
    assert login(resolve_connection(url=A)) == (A, "dora", "typed")
    assert asked == [f"CVAT password of dora at {A}: "]
    with pytest.raises(ConfigurationError, match="user name and password"):
        resolve_connection(url=A, ask=False)
