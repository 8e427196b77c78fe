"""Logging in as seldom as possible: CVAT counts it, 100 anonymous calls a minute."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator

import pytest

from benchmarks.faults_proxy import Proxy
from labelprop_cvat.backend.cvat import Credentials, CVATClient, LoginRefused, RetryPolicy
from labelprop_cvat.backend.cvat.logins import LOGINS
from labelprop_cvat.backend.local_cvat import LocalCVAT

ANN = Credentials("ann", "the password of ann")
BOB = Credentials("bob", "the password of bob")
FAST = RetryPolicy(first_delay=0.01, max_delay=0.02, total=10.0)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    users = {str(who.username): str(who.password) for who in (ANN, BOB)}
    with LocalCVAT(users=users, anonymous_rate=None) as running:
        yield running


@pytest.fixture
def proxy(server: LocalCVAT) -> Iterator[Proxy]:
    """A new address each time, so that no test finds another's login."""
    with Proxy(int(server.url.rpartition(":")[2])) as running:
        yield running


def logins(proxy: Proxy) -> int:
    return proxy.traffic.requests.count(("POST", "/api/auth/login"))


def connect(proxy: Proxy, who: Credentials = ANN) -> CVATClient:
    return CVATClient(proxy.url, who, retry=FAST)


def log_out(server: LocalCVAT, key: str) -> None:
    """Ends a login behind the backs of the clients that hold it."""
    with CVATClient(server.url, Credentials(token=f"Token {key}"), retry=FAST) as other:
        other._session.request("POST", "/api/auth/logout")


def test_a_second_client_uses_the_login_of_the_first(proxy: Proxy) -> None:
    for _ in range(5):
        with connect(proxy) as client:
            assert client.whoami().username == "ann"
    assert logins(proxy) == 1


def test_clients_at_once_log_in_once(proxy: Proxy) -> None:
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(connect(proxy).whoami().username)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["ann"] * 8
    assert logins(proxy) == 1


def test_every_account_logs_in_for_itself(proxy: Proxy) -> None:
    assert [connect(proxy, who).whoami().username for who in (ANN, BOB, ANN, BOB)] == ["ann", "bob"] * 2
    assert logins(proxy) == 2


def test_a_wrong_password_borrows_no_login(proxy: Proxy) -> None:
    connect(proxy).whoami()
    with pytest.raises(LoginRefused, match='login as "ann"'):
        connect(proxy, Credentials("ann", "wrong")).whoami()
    assert connect(proxy).whoami().username == "ann"


def test_another_server_gets_no_login_of_this_one(proxy: Proxy, server: LocalCVAT) -> None:
    connect(proxy).whoami()
    with Proxy(proxy.target) as other:
        connect(other).whoami()
        assert logins(other) == 1


def test_closing_one_client_leaves_the_others_logged_in(proxy: Proxy) -> None:
    first, second = connect(proxy), connect(proxy)
    first.whoami()
    second.whoami()
    first.close()
    second._me = None
    assert second.whoami().username == "ann"
    assert connect(proxy).whoami().username == "ann"
    assert logins(proxy) == 1


def test_a_login_that_ended_is_renewed_once_for_all(proxy: Proxy, server: LocalCVAT) -> None:
    clients = [connect(proxy) for _ in range(3)]
    for client in clients:
        client.whoami()
    log_out(server, str(clients[0]._session._token))
    for client in clients:
        client._me = None
        assert client.whoami().username == "ann"
    assert logins(proxy) == 2


def test_logins_can_be_forgotten(proxy: Proxy) -> None:
    connect(proxy).whoami()
    LOGINS.forget()
    connect(proxy).whoami()
    assert logins(proxy) == 2


def test_a_login_is_shown_and_stored_nowhere(proxy: Proxy) -> None:
    client = connect(proxy)
    client.whoami()
    key = str(client._session._token)
    login = LOGINS.of(proxy.url, ANN)
    assert login.key == key
    shown = f"{login!r} {LOGINS!r} {client!r} {client._session!r} {vars(LOGINS)!r}"
    assert key not in shown
    assert str(ANN.password) not in shown
    with pytest.raises(TypeError, match="stays in the process"):
        pickle.dumps(login)


def test_the_limit_of_anonymous_calls_is_not_reached() -> None:
    """Thirty clients on a server that allows forty anonymous calls a minute; each may ask once what answers there."""
    users = {str(ANN.username): str(ANN.password)}
    with LocalCVAT(users=users, anonymous_rate=40) as strict:
        for _ in range(30):
            with CVATClient(strict.url, ANN, retry=RetryPolicy(attempts=1)) as client:
                client.whoami()


@pytest.mark.parametrize("write", ["{}", "Bearer {}"])
def test_a_personal_access_token_goes_as_bearer(proxy: Proxy, server: LocalCVAT, write: str) -> None:
    with CVATClient(server.url, ANN, retry=FAST) as client:
        token = client._session.json("POST", "/api/auth/access_tokens", json={"name": "t"})["value"]
    with CVATClient(proxy.url, Credentials(token=write.format(token)), retry=FAST) as client:
        assert client.whoami().username == "ann"
    assert logins(proxy) == 0


def test_the_key_of_a_login_goes_as_token(proxy: Proxy, server: LocalCVAT) -> None:
    with CVATClient(server.url, ANN, retry=FAST) as client:
        client.whoami()
        key = str(client._session._token)
        with CVATClient(proxy.url, Credentials(token=key), retry=FAST) as other:
            assert other.whoami().username == "ann"
    assert logins(proxy) == 0


def test_a_password_renews_a_token_that_is_refused(proxy: Proxy) -> None:
    stale = Credentials("ann", ANN.password, token="0" * 40)
    with connect(proxy, stale) as client:
        assert client.whoami().username == "ann"
    assert logins(proxy) == 1
