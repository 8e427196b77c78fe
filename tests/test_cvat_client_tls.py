"""TLS over real sockets: certificates are verified, and a redirect to https comes before any secret is sent."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fixtures_cvat_client import ABOUT, USER

from labelprop_cvat.backend.cvat import ConnectionCut, Credentials, CVATClient, RetryPolicy, Timeout, TLSFailed
from labelprop_cvat.backend.cvat.transport import FileSlice

pytest.importorskip("cryptography", reason="a certificate must be made")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

FAST = RetryPolicy(attempts=2, first_delay=0.01, max_delay=0.02, total=10.0)
LOGIN = Credentials("ann", "pa55-word-secret")


class Recorder(ThreadingHTTPServer):
    """Keeps the head and body of each request; redirects when told where to.

    ``faults`` says what happens to requests for the user, in turn: "eof", "reset" and "half" end the connection without
    TLS's goodbye, before or amid the answer; "drip" never comes to the answer's end.
    """

    daemon_threads = True

    def __init__(self, redirect_to: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.redirect_to = redirect_to
        self.seen: list[str] = []
        self.faults: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up during the handshake is what some of these tests are about."""


class Answers(BaseHTTPRequestHandler):
    server: Recorder

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        """Takes nothing of a body the first time."""
        if self.server.faults:
            self._hang_up(self.server.faults.pop())
        else:
            self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        self.server.seen.append(f"{self.command} {self.path}\n{self.headers}\n{body}")
        known = {"/api/server/about": ABOUT, "/api/auth/login": {"key": "0" * 40}, "/api/users/self": USER}
        content = json.dumps(known.get(self.path, {})).encode()
        fault = self.server.faults.pop(0) if self.path == "/api/users/self" and self.server.faults else None
        if fault in ("eof", "reset"):
            self._hang_up(fault)
            return
        self.send_response(301 if self.server.redirect_to else 200)
        if self.server.redirect_to:
            self.send_header("Location", self.server.redirect_to + self.path)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "half":
            self.wfile.write(content[: len(content) // 2])
            self._hang_up(fault)
        elif fault == "drip":
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b" ")
                    time.sleep(0.05)
        else:
            self.wfile.write(content)

    def _hang_up(self, fault: str) -> None:
        self.close_connection = True
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        else:
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)

    def log_message(self, *args: object) -> None:
        pass


def _serve(server: Recorder) -> None:
    threading.Thread(target=server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def secure(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    server = Recorder()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    _serve(server)
    yield server
    server.shutdown()
    server.server_close()


def address(server: Recorder) -> str:
    return f"https://127.0.0.1:{server.server_address[1]}"


def test_an_unknown_certificate_is_refused_before_anything_is_said(secure: Recorder) -> None:
    with CVATClient(address(secure), LOGIN, retry=FAST) as client, pytest.raises(TLSFailed) as caught:
        client.whoami()
    assert "cannot be verified: self-signed certificate" in str(caught.value)
    assert "Point `verify` to your CA bundle" in str(caught.value)
    assert secure.seen == []


def test_a_ca_bundle_of_ones_own_is_believed(secure: Recorder, certificate: tuple[Path, Path]) -> None:
    with CVATClient(address(secure), LOGIN, retry=FAST, verify=str(certificate[0])) as client:
        assert client.whoami().id == 7


def test_a_certificate_for_another_name_is_refused(secure: Recorder, certificate: tuple[Path, Path]) -> None:
    elsewhere = address(secure).replace("127.0.0.1", "localhost")
    with CVATClient(elsewhere, LOGIN, retry=FAST, verify=str(certificate[0])) as client, pytest.raises(TLSFailed):
        client.whoami()
    assert secure.seen == []


def test_a_redirect_to_https_is_followed_and_no_secret_goes_in_the_clear(
    secure: Recorder, certificate: tuple[Path, Path]
) -> None:
    plain = Recorder(redirect_to=address(secure))
    _serve(plain)
    try:
        url = f"http://127.0.0.1:{plain.server_address[1]}/"
        with CVATClient(url, LOGIN, retry=FAST, verify=str(certificate[0])) as client:
            assert client.whoami().id == 7
            assert client.url == address(secure)
    finally:
        plain.shutdown()
        plain.server_close()
    assert [r.split("\n")[0] for r in plain.seen] == ["GET /api/server/about"]
    assert "uthorization" not in plain.seen[0]
    assert any("pa55-word-secret" in r for r in secure.seen)


@pytest.mark.parametrize("fault", ["eof", "reset", "half"])
def test_a_server_that_dies_amid_an_answer_is_asked_again(
    secure: Recorder, certificate: tuple[Path, Path], fault: str
) -> None:
    """It says nothing about the certificate, which would not be tried again."""
    secure.faults = [fault]
    with CVATClient(address(secure), LOGIN, retry=FAST, verify=str(certificate[0])) as client:
        assert client.whoami().id == 7
    assert secure.faults == []


@pytest.mark.parametrize("fault", ["eof", "reset"])
def test_a_server_that_dies_amid_an_upload_is_asked_again(
    secure: Recorder, certificate: tuple[Path, Path], fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(20_000_000))
    secure.faults = [fault]
    with CVATClient(address(secure), LOGIN, retry=FAST, verify=str(certificate[0])) as client:
        body = FileSlice(path, 0, 20_000_000)
        client._session.request("PATCH", "/api/x", repeat="always", body=body)
        secure.faults = [fault]
        with pytest.raises(ConnectionCut) as caught:
            client._session.request("PATCH", "/api/x", repeat="if_unsent", body=body)
    assert not caught.value.not_sent, "some of it was sent, and may have been believed"


def test_a_deadline_ends_a_connection_with_tls(secure: Recorder, certificate: tuple[Path, Path]) -> None:
    secure.faults = ["drip"]
    once = RetryPolicy(attempts=1)
    with CVATClient(
        address(secure), LOGIN, retry=once, verify=str(certificate[0]), timeout=(2.0, 0.5), deadline=0.7
    ) as client:
        started = time.monotonic()
        with pytest.raises(Timeout, match="had not answered to the end"):
            client.whoami()
        assert time.monotonic() - started < 5.0
        assert client.whoami().id == 7
