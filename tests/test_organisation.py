"""Who connects, to where, as a member of what: from FiftyOne's side, against a server on a socket."""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo
import fiftyone.utils.annotations as foua
import gridfs
import pytest
from bson import json_util
from fixtures_roundtrip import client_of, image_dataset, login, write_images
from fixtures_switching import work

from labelprop_cvat import doctor
from labelprop_cvat.backend.api import LabelPropAPI
from labelprop_cvat.backend.cvat import CVATError, Invalid, LoginRefused, NotFound, RetryPolicy, TLSFailed
from labelprop_cvat.backend.cvat.logins import LOGINS
from labelprop_cvat.backend.local_cvat import LocalCVAT
from labelprop_cvat.cli import main
from labelprop_cvat.errors import ConfigurationError, LabelPropError

USER, PASSWORD = "lead-n4me", "pa55-of-the-lead"
OPTIONS: dict[str, Any] = {
    "label_field": "objects",
    "label_type": "detections",
    "classes": ["person", "car"],
    "engine": "none",
}
RUN: dict[str, Any] = {"backend": "labelprop", **OPTIONS}


class Front:
    """Stands before a server, over TLS or not, and keeps what clients say."""

    def __init__(self, server: LocalCVAT, certificate: tuple[Path, Path] | None = None) -> None:
        self._target = int(server.url.rsplit(":", 1)[1])
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pipe, args=(server, client), daemon=True).start()
            self._pipe(client, server, keep=True)

    def _pipe(self, source: socket.socket, sink: socket.socket, keep: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.heard += data if keep else b""
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCVAT]:
    with LocalCVAT(
        tmp_path_factory.mktemp("cvat"), users={USER: PASSWORD, "ann": "pa55-of-ann"}, anonymous_rate=None
    ) as running:
        yield running


@pytest.fixture
def front(server: LocalCVAT) -> Iterator[Front]:
    before = Front(server)
    yield before
    before.close()


@pytest.fixture(autouse=True)
def clean(server: LocalCVAT) -> Iterator[None]:
    LOGINS.forget()
    yield
    server.faults.clear()


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 2)


@pytest.fixture
def images(frames: list[Path]) -> fo.Dataset:
    return image_dataset(frames)


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The backends of FiftyOne's annotation config, to be changed."""
    found = {name: dict(entry) for name, entry in fo.annotation_config.backends.items()}
    monkeypatch.setattr(fo.annotation_config, "backends", found)
    return found


def access_token(server: LocalCVAT, **settings: Any) -> tuple[int, str]:
    with client_of(server) as client:
        made = client._session.json("POST", "/api/auth/access_tokens", json={"name": "script", **settings})
    return made["id"], made["value"]


def logins(front: Front) -> int:
    return front.heard.count(b"POST /api/auth/login ")


# --- where a login comes from ---------------------------------------------------------------------------------------


def test_the_default_backend(server: LocalCVAT, images: fo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fo.annotation_config, "default_backend", "labelprop")
    results = images.annotate("run", **OPTIONS, **login(server))
    assert type(results).__name__ == "LabelPropResults"
    assert isinstance(foua.connect_to_api(**login(server)), LabelPropAPI)


@pytest.mark.parametrize("prefix", ["CVAT", "LABELPROP"])
@pytest.mark.parametrize("name", ["USERNAME", "EMAIL"])
def test_a_login_from_the_environment(
    server: LocalCVAT, images: fo.Dataset, monkeypatch: pytest.MonkeyPatch, prefix: str, name: str
) -> None:
    monkeypatch.setenv(f"FIFTYONE_{prefix}_URL", server.url)
    monkeypatch.setenv(f"FIFTYONE_{prefix}_{name}", USER)
    monkeypatch.setenv(f"FIFTYONE_{prefix}_PASSWORD", PASSWORD)
    work(server, images.annotate("run", **RUN))
    images.load_annotations("run")
    assert images.load_annotation_results("run").get_status()[0]["collected"]


@pytest.mark.parametrize("backend", ["cvat", "labelprop"])
def test_a_login_from_fiftyones_config(
    front: Front, images: fo.Dataset, backends: dict[str, Any], backend: str
) -> None:
    own = {"url": front.url, "username": USER, "password": PASSWORD, "headers": {"X-Gate": "open-s3same"}}
    backends[backend].update(own)
    images.annotate("run", **RUN)
    assert b"X-Gate: open-s3same" in front.heard


def test_parameters_of_a_run_from_fiftyones_config(
    server: LocalCVAT, images: fo.Dataset, backends: dict[str, Any]
) -> None:
    backends["labelprop"].update({**login(server), "segment_size": 1, "job_stages": "acceptance"})
    results = images.annotate("run", **RUN)
    assert len(results.job_ids[results.task_ids[0]]) == 2
    assert results.config.job_stages == ["acceptance"]


def test_a_configured_login_goes_to_its_own_server_only(
    server: LocalCVAT, front: Front, images: fo.Dataset, backends: dict[str, Any]
) -> None:
    # Texts of their own, as those of a config file are, and no constants that the calls below share.
    own = {"url": server.url, "username": "".join(USER), "password": "".join(PASSWORD)}
    backends["labelprop"].update(own, headers={"X-Gate": "open-s3same"})
    with pytest.raises(ConfigurationError, match="configured for another server is not used"):
        images.annotate("run", **RUN, url=front.url)
    assert front.heard == b""
    with pytest.raises(ConfigurationError, match="password for the user 'ann'"):
        images.annotate("run", **RUN, username="ann")
    images.annotate("run", **RUN)
    images.annotate("other", **RUN, url=front.url, username=USER, password=PASSWORD)
    assert b"open-s3same" not in front.heard
    assert logins(front) == 1


def test_a_password_of_digits_from_the_environment(
    images: fo.Dataset, backends: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCVAT(users={"lead": "007"}, anonymous_rate=None) as other:
        monkeypatch.setenv("FIFTYONE_LABELPROP_PASSWORD", "007")
        # What FiftyOne makes of the variable when it is imported.
        backends["labelprop"].update(password=7)
        images.annotate("run", **RUN, url=other.url, username="lead")


def test_headers_go_with_every_request(front: Front, server: LocalCVAT, images: fo.Dataset) -> None:
    options = {**login(server), "url": front.url, "headers": {"X-Gate": "open-s3same"}}
    work(server, images.annotate("run", **RUN, **options))
    images.load_annotations("run")
    requests = front.heard.count(b" HTTP/1.1\r\n")
    assert front.heard.count(b"X-Gate: open-s3same\r\n") == requests > 10
    fresh = fo.load_dataset(images.name)
    front.heard = b""
    fresh.load_annotation_results("run", cache=False, **options).get_status()
    assert front.heard.count(b"X-Gate: open-s3same\r\n") == front.heard.count(b" HTTP/1.1\r\n") > 0


def test_a_personal_access_token(server: LocalCVAT, front: Front, images: fo.Dataset) -> None:
    _, token = access_token(server)
    work(server, images.annotate("run", **RUN, url=front.url, token=token))
    images.load_annotations("run")
    assert logins(front) == 0
    assert images.load_annotation_results("run").get_status()[0]["collected"]


def test_a_token_that_ended_is_replaced_at_the_next_load(server: LocalCVAT, images: fo.Dataset) -> None:
    number, token = access_token(server)
    results = images.annotate("run", **RUN, url=server.url, token=token)
    work(server, results, lambda page: page.draw("car", "rectangle", [0, 0, 64, 36]))
    with client_of(server) as client:
        client._session.request("DELETE", f"/api/auth/access_tokens/{number}")
    with pytest.raises(LoginRefused, match="Has the token expired, or was it revoked"):
        images.load_annotations("run")
    # In the same process, where FiftyOne holds the results with their old login.
    images.load_annotations("run", token=access_token(server)[1])
    assert images.count("objects.detections") == 1


def test_what_else_is_given_to_a_load_is_named(server: LocalCVAT, images: fo.Dataset) -> None:
    images.annotate("run", **RUN, **login(server))
    with pytest.raises(ConfigurationError, match="got 'segment_size'"):
        images.load_annotation_results("run", cache=False, segment_size=3)
    # FiftyOne passes nothing on to results that it holds already.
    with pytest.raises(ConfigurationError, match="got 'segment_size'"):
        images.load_annotations("run", segment_size=3)


def test_a_login_that_is_wrong_does_not_stay(server: LocalCVAT, images: fo.Dataset) -> None:
    images.annotate("run", **RUN, **login(server))
    wrong = [{"password": "nonsense"}, {"url": "http://127.0.0.1:9", "username": "a", "password": "b"}]
    for given in wrong:
        with pytest.raises(CVATError):
            images.load_annotations("run", **given)
        images.load_annotations("run")
    # In another process, where the stored run has the address and no login.
    for given in wrong:
        images.clear_cache()
        with pytest.raises(CVATError):
            images.load_annotations("run", **{**login(server), **given})
        with pytest.raises(ConfigurationError, match="needs a user name and password"):
            images.load_annotations("run")
    images.load_annotations("run", **login(server))
    images.load_annotations("run")


def test_a_wrong_password_leaves_nothing_behind(server: LocalCVAT, images: fo.Dataset) -> None:
    with pytest.raises(LoginRefused, match="wrong user name or password"):
        images.annotate("run", **RUN, url=server.url, username=USER, password="nonsense")
    assert images.list_annotation_runs() == []


# --- one login for many runs ----------------------------------------------------------------------------------------


def test_one_session_serves_several_runs(server: LocalCVAT, front: Front, images: fo.Dataset) -> None:
    place = {**login(server), "url": front.url}
    for key in ("run1", "run2"):
        images.annotate(key, **RUN, **place)
    assert logins(front) == 1
    LOGINS.forget()
    front.heard = b""
    with foua.connect_to_api(backend="labelprop", **place) as api:
        for key in images.list_annotation_runs():
            results = images.load_annotation_results(key, cache=False)
            results.use_api(api)
            assert results.connect_to_api() is api
            assert results.get_status()[0]["state"] == "new"
    assert logins(front) == 1


def test_a_whole_round_trip_logs_in_once(server: LocalCVAT, front: Front, images: fo.Dataset) -> None:
    work(server, images.annotate("run", **RUN, **{**login(server), "url": front.url}))
    for _ in range(2):
        images.load_annotations("run")
    results = images.load_annotation_results("run")
    results.print_status()
    results.wait(timeout=0)
    results.cleanup()
    assert logins(front) == 1


def test_the_api_answers_what_scripts_ask(
    server: LocalCVAT, images: fo.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = images.annotate("run", **RUN, **login(server), project_name="for the api", task_size=1)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url, **kwargs: opened.append(url))
    first, second = results.task_ids
    with foua.connect_to_api(backend="labelprop", **login(server)) as api:
        listed = api.get(api.tasks_url).json()["results"]
        assert {first, second} <= {task["id"] for task in listed}
        assert api.get("/api/tasks", params={"name": "no such"}).json()["count"] == 0
        assert api.get(api.jobs_url(first)).json()["results"][0]["id"] == results.job_ids[first][0]
        assert api.get(api.task_annotation_url(first)).json()["shapes"] == []
        assert {label["name"] for label in api.get(api.labels_url(first)).json()["results"]} == {"person", "car"}
        assert api.get(api.task_data_meta_url(first)).json()["size"] == 1
        assert api.get(api.about_url).json()["version"] == api.server_version
        assert api.patch(api.task_url(first), json={"name": "renamed"}).json()["name"] == "renamed"
        api.launch_editor(api.base_url)
        api.launch_editor(api.base_job_url(first, 7))
        assert opened == [server.url, f"{server.url}/tasks/{first}/jobs/7"]
        assert {first, second} <= set(api.list_tasks())
        assert (api.get_user_id("ann"), api.get_user_id("nobody")) == (2, None)
        project = api.get_project_id("for the api")
        assert (project, api.get_project_id("nothing")) == (results.project_ids[0], None)
        assert api.get_project_name(project) == "for the api"
        assert (api.get_project_tasks(project), api.get_empty_projects([project])) == ([first, second], [])
        assert (api.project_exists(project), api.project_exists(999)) == (True, False)
        api.delete_task(first)
        assert (api.task_exists(first), api.task_exists(second)) == (False, True)
        api.delete_tasks([first, second])
        assert api.get_empty_projects([project, 999]) == [project, 999]
        assert project in api.list_projects()
        api.delete_projects([project])
        assert not api.project_exists(project)
        with pytest.raises(NotFound):
            api.get(api.task_url(first))


@pytest.mark.parametrize("url", ["http://elsewhere.example/api/tasks", "/tasks", "{server}.evil.example/api/tasks"])
def test_the_api_sends_its_login_nowhere_else(server: LocalCVAT, url: str) -> None:
    with (
        foua.connect_to_api(backend="labelprop", **login(server)) as api,
        pytest.raises(Invalid, match="address below"),
    ):
        api.get(url.format(server=server.url))


# --- organizations --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def organization(server: LocalCVAT) -> str:
    with client_of(server) as client:
        for slug, name in (("mappers", "The Map Makers"), ("twin1", "Twins"), ("twin2", "Twins")):
            client._session.json("POST", "/api/organizations", json={"slug": slug, "name": name})
    return "mappers"


@pytest.mark.parametrize("name", ["mappers", "The Map Makers"])
def test_an_organization_by_either_of_its_names(
    server: LocalCVAT, images: fo.Dataset, organization: str, name: str
) -> None:
    results = images.annotate("run", **RUN, **login(server), organization=name, project_name=f"in {name}")
    with client_of(server) as client:
        task = client._session.json("GET", f"/api/tasks/{results.task_ids[0]}")
        project = client._session.json("GET", f"/api/projects/{results.project_ids[0]}")
    assert task["organization"] == project["organization"] == 1
    work(server, results)
    assert images.get_annotation_info("run").config.organization == organization
    fresh = images.load_annotation_results("run", cache=False, **login(server))
    assert fresh.get_status()[0]["state"] == "completed"
    images.load_annotations("run", cleanup=True)
    assert images.load_annotation_results("run").task_ids == []


def test_an_organization_for_the_api(server: LocalCVAT, images: fo.Dataset, organization: str) -> None:
    results = images.annotate("run", **RUN, **login(server), organization=organization)
    with foua.connect_to_api(backend="labelprop", **login(server), organization="The Map Makers") as api:
        assert api.list_tasks() == results.task_ids


def test_an_organization_that_is_none_of_ones_own(server: LocalCVAT, images: fo.Dataset, organization: str) -> None:
    with pytest.raises(ConfigurationError, match=r"organization='strangers'.*\"mappers\", \"twin1\""):
        images.annotate("run", **RUN, **login(server), organization="strangers")
    with pytest.raises(LabelPropError, match='Take one of "twin1", "twin2"'):
        images.annotate("run", **RUN, **login(server), organization="Twins")
    assert images.list_annotation_runs() == []


# --- certificates ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    pytest.importorskip("cryptography", reason="a certificate must be made")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(encoding))
    (folder / "key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def secure(server: LocalCVAT, certificate: tuple[Path, Path]) -> Iterator[Front]:
    before = Front(server, certificate)
    yield before
    before.close()


def test_a_certificate_that_nobody_vouches_for(server: LocalCVAT, secure: Front, images: fo.Dataset) -> None:
    with pytest.raises(TLSFailed, match="Point `verify` to your CA bundle"):
        images.annotate("run", **RUN, **{**login(server), "url": secure.url})
    assert secure.heard == b""
    assert images.list_annotation_runs() == []


def test_a_ca_of_ones_own(server: LocalCVAT, secure: Front, images: fo.Dataset, certificate: tuple[Path, Path]) -> None:
    place = {**login(server), "url": secure.url, "verify": certificate[0]}
    work(server, images.annotate("run", **RUN, **place))
    assert images.get_annotation_info("run").config.verify == str(certificate[0])
    # Stored with the run, so that a load needs no second word about it.
    fresh = images.load_annotation_results("run", cache=False, username=USER, password=PASSWORD)
    assert fresh.get_status()[0]["finished"]


def test_how_to_check_certificates_from_fiftyones_config(
    server: LocalCVAT,
    secure: Front,
    images: fo.Dataset,
    certificate: tuple[Path, Path],
    backends: dict[str, Any],
) -> None:
    images.annotate("run", **RUN, **login(server))
    place = {**login(server), "url": secure.url}
    with pytest.raises(TLSFailed):
        images.load_annotation_results("run", cache=False, **place).get_status()
    backends["labelprop"]["verify"] = str(certificate[0])
    assert images.load_annotation_results("run", cache=False, **place).get_status()[0]["state"] == "new"
    with pytest.raises(TLSFailed):
        images.load_annotation_results("run", cache=False, **place, verify=True).get_status()


def test_a_ca_file_that_is_not_there(server: LocalCVAT, secure: Front, images: fo.Dataset) -> None:
    with pytest.raises(LabelPropError, match=r"CA bundle '/no/such\.pem'"):
        images.annotate("run", **RUN, **{**login(server), "url": secure.url, "verify": "/no/such.pem"})
    with pytest.raises(ConfigurationError, match="verify is True, False, or the path"):
        images.annotate("run", **RUN, **{**login(server), "url": secure.url, "verify": 3})


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_not_checking_is_said_aloud(
    server: LocalCVAT, secure: Front, images: fo.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    images.annotate("run", **RUN, **{**login(server), "url": secure.url, "verify": False})
    said = [record for record in caplog.records if "verify=False" in record.message]
    assert {record.levelname for record in said} == {"WARNING"}
    assert secure.url in said[0].message


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_certificates_on_the_command_line(
    server: LocalCVAT,
    secure: Front,
    images: fo.Dataset,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work(server, images.annotate("run", **RUN, **login(server)))
    monkeypatch.setenv("FIFTYONE_CVAT_PASSWORD", PASSWORD)
    monkeypatch.setenv("FIFTYONE_CVAT_USERNAME", USER)
    there = [images.name, "run", "--url", secure.url]

    def called(*words: str) -> int:
        images._annotation_cache.clear()
        return main([*words])

    assert called("status", *there) == 1
    assert "cannot be verified" in capsys.readouterr().err
    assert called("status", *there, "--ca", str(certificate[0]), "--json") == 0
    assert json.loads(capsys.readouterr().out)["jobs"][0]["url"].startswith(secure.url)
    assert called("load", *there, "--insecure") == 0
    assert called("cleanup", *there, "--ca", str(certificate[0])) == 0
    with pytest.raises(SystemExit):
        called("status", *there, "--ca", str(certificate[0]), "--insecure")
    capsys.readouterr()
    # It is asked in a process of its own, which takes seconds.
    monkeypatch.setattr(doctor, "check_database", lambda: doctor.Finding("FiftyOne's database", doctor.Status.OK, ""))
    words = ["doctor", "--url", secure.url, "--username", USER, "--json"]
    main([*words, "--ca", str(certificate[0])])
    found = {entry["name"]: entry["status"] for entry in json.loads(capsys.readouterr().out)["findings"]}
    assert (found["CVAT"], found["CVAT login"]) == ("ok", "ok")


# --- secrets --------------------------------------------------------------------------------------------------------


def everything_stored() -> bytes:
    """Every document and every file of FiftyOne's database."""
    database = foo.get_db_conn()
    found = [
        json_util.dumps(document).encode()
        for name in database.list_collection_names()
        if not name.endswith(".chunks")
        for document in database[name].find()
    ]
    prefixes = {name.removesuffix(".files") for name in database.list_collection_names() if name.endswith(".files")}
    assert prefixes, "results are kept as files"
    for prefix in prefixes:
        found += [file.read() for file in gridfs.GridFS(database, prefix).find()]
    return b"\n".join(found)


def everything_said(error: BaseException | None) -> str:
    """An exception with those behind it, as any reporter might show them."""
    texts = []
    while error is not None:
        shown = traceback.TracebackException.from_exception(error)
        texts += [*shown.format(), str(error), repr(error), repr(error.args), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@pytest.mark.parametrize("way", ["password", "token", "config"])
def test_no_secret_in_database_log_exception_or_repr(
    server: LocalCVAT,
    images: fo.Dataset,
    backends: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    _, token = access_token(server)
    headers = {"X-Gate": "h3ader-secret", "X-Kept": "another-h3ader"}
    given: dict[str, Any] = {"url": server.url, "headers": headers}
    given |= {"token": token} if way == "token" else {"username": USER, "password": PASSWORD}
    if way == "config":
        backends["labelprop"].update(given)
        given = {}
    results = images.annotate("run", **RUN, **given, organization=None, issue_tracker="https://issues.example/1")
    work(server, results, lambda page: page.draw("car", "rectangle", [0, 0, 64, 36]))
    images.load_annotations("run", **given)
    results.print_status()
    api = results.connect_to_api()
    said = [repr(x) + str(x) for x in (results, results.config, api, results.ledger, images.get_annotation_info("run"))]
    said.append(json.dumps(results.serialize(), default=str) + json.dumps(results.config.serialize(), default=str))
    errors: list[str] = []
    api._session.retry = RetryPolicy(attempts=1)
    for method, action in (("GET", 500), ("GET", "close"), ("*", 401), ("*", 403)):
        server.faults.add(method, "/api/(jobs|labels)", action, times=None)
        with pytest.raises(LabelPropError) as error:
            results.collect()
        errors.append(everything_said(error.value))
        server.faults.clear()
    # Not written out in the call, since a traceback shows that line.
    wrong = "-".join(("wr0ng", "password"))
    with pytest.raises(LoginRefused) as refused:
        images.annotate("other", **RUN, url=server.url, username=USER, password=wrong, headers=headers)
    errors.append(everything_said(refused.value))
    stored = everything_stored()
    shown = "\n".join([caplog.text, *(str(vars(record)) for record in caplog.records), *said, *errors])
    shown += "".join(capsys.readouterr())
    for secret in (PASSWORD, token, api._session._token, "h3ader-secret", "another-h3ader", wrong):
        assert secret
        assert secret.encode() not in stored
        assert secret not in shown
    assert USER.encode() not in stored
    assert len(errors) == 5
