"""Downloads of checkpoints over real sockets: whatever fails, the file is whole or is not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fixtures_sam2_weights import LENGTH, QUICK, Asked, Release, content, published
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelprop_cvat.cli import main
from labelprop_cvat.errors import ConfigurationError, EngineError
from labelprop_cvat.propagation.sam2 import _download, _models
from labelprop_cvat.propagation.sam2.weights import MODELS, cache_folder, check_file, fetch_checkpoint


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with published(tmp_path / "weights", content()) as made:
        yield made


def fetch(release: Release, **more) -> Path:
    return fetch_checkpoint(release.info, **{"folder": release.folder, "patience": QUICK, **more})


def is_whole(release: Release) -> bool:
    return release.target.read_bytes() == release.server.body and release.there() == {release.info.file_name}


def cut(at: int):
    return lambda asked: asked.serve(until=at)


def test_the_file_comes_whole_and_is_asked_for_once(release):
    told = []
    assert fetch(release, progress=lambda done, total: told.append((done, total))) == release.target
    assert is_whole(release)
    assert told[0] == (0, LENGTH)
    assert told[-1] == (LENGTH, LENGTH)
    assert told == sorted(told)
    assert fetch(release) == release.target
    assert [seen.range for seen in release.server.seen] == [None]


def test_it_goes_to_the_cache_of_the_user(release, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = fetch(release, folder=None)
    assert path == tmp_path / "cache" / "labelprop-cvat" / "sam2" / release.info.file_name == cache_folder() / path.name
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "labelprop-cvat" / "sam2"


def test_a_cut_connection_goes_on_where_it_broke(release):
    release.server.faults = [cut(100_000), cut(250_000)]
    fetch(release)
    assert is_whole(release)
    assert [seen.offset for seen in release.server.seen] == [0, 100_000, 250_000]


def test_a_stalled_server_loses_nothing(release):
    def stall(asked: Asked) -> None:
        asked.serve(until=123_456)
        time.sleep(10.0)

    release.server.faults = [stall]
    started = time.monotonic()
    fetch(release)
    assert time.monotonic() - started < 5.0
    assert is_whole(release)
    assert [seen.offset for seen in release.server.seen] == [0, 123_456]


def test_interrupted_it_leaves_the_part_and_the_next_call_goes_on(release):
    def interrupt(done: int, total: int) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(release, progress=interrupt)
    assert release.there() == {release.part.name}
    done = release.part.stat().st_size
    assert 100_000 < done < LENGTH
    told = []
    fetch(release, progress=lambda *so_far: told.append(so_far))
    assert is_whole(release)
    assert release.server.seen[-1].offset == done
    assert told[0] == (done, LENGTH)


def test_a_whole_part_needs_no_request(release):
    release.part.write_bytes(release.server.body)
    fetch(release)
    assert is_whole(release)
    assert release.server.seen == []


@pytest.mark.parametrize("length", [1, LENGTH // 2, LENGTH, LENGTH + 1])
def test_a_part_of_something_else_is_dropped(release, length):
    release.part.write_bytes(content(seed=9, length=length))
    told = []
    fetch(release, progress=lambda done, total: told.append(done))
    assert is_whole(release)
    assert max(told) == LENGTH
    assert release.server.seen[-1].offset == 0


def test_a_server_without_ranges_starts_over(release):
    release.part.write_bytes(release.server.body[:200_000])
    release.server.faults = [lambda asked: asked.serve(ranges=False)]
    fetch(release)
    assert is_whole(release)
    assert [seen.offset for seen in release.server.seen] == [200_000]


def test_a_file_that_changes_between_two_tries_starts_over(release):
    right, release.server.body = release.server.body, content(seed=5)

    def change(asked: Asked) -> None:
        asked.serve(until=100_000)
        asked.server.body, asked.server.tag = right, '"two"'

    release.server.faults = [change]
    fetch(release)
    assert is_whole(release)
    # Known at once from the tag, not from the digest of 300,000 bytes of two files.
    assert [(seen.offset, seen.if_range) for seen in release.server.seen] == [(0, None), (100_000, '"one"')]


def test_a_file_that_changes_unnoticed_starts_over(release):
    right, release.server.body = release.server.body, content(seed=5)

    def change(asked: Asked) -> None:
        asked.serve(until=100_000)
        asked.server.body = right

    release.server.faults = [change]
    fetch(release)
    assert is_whole(release)
    assert [seen.offset for seen in release.server.seen] == [0, 100_000, 0]


def test_a_weak_tag_is_no_promise(release):
    release.server.tag = 'W/"one"'
    release.server.faults = [cut(100_000)]
    fetch(release)
    assert is_whole(release)
    assert [seen.if_range for seen in release.server.seen] == [None, None]


@pytest.mark.parametrize("said", ["bytes 100000-299999/300000", "bytes 0-299999/*", "nonsense", ""])
def test_another_part_than_was_asked_for_is_not_taken(release, said, caplog):
    release.part.write_bytes(release.server.body[:150_000])

    def shift(asked: Asked) -> None:
        asked.head(206, 150_000, {"Content-Range": said})
        asked.wfile.write(b"x" * 150_000)

    release.server.faults = [shift]
    fetch(release)
    assert is_whole(release)
    assert "another part than was asked for" in caplog.text
    assert "put together" not in caplog.text
    assert [seen.offset for seen in release.server.seen] == [150_000, 0]


def test_a_part_that_the_server_does_not_have_starts_over(release):
    release.part.write_bytes(release.server.body[:150_000])
    release.server.faults = [lambda asked: asked.say(416)]
    fetch(release)
    assert is_whole(release)
    assert [seen.offset for seen in release.server.seen] == [150_000, 0]


def test_redirects_are_followed(release):
    release.info = replace(release.info, url=release.server.url.replace("file.pt", "old.pt"))
    release.server.faults = [lambda asked: asked.say(302, Location="/file.pt")]
    fetch(release)
    assert is_whole(release)
    assert [seen.path for seen in release.server.seen] == ["/old.pt", "/file.pt"]


def test_a_proxy_of_the_environment_is_used(release, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{release.server.server_port}")
    release.info = replace(release.info, url="http://weights.invalid/file.pt")
    fetch(release)
    assert is_whole(release)
    assert [seen.path for seen in release.server.seen] == ["http://weights.invalid/file.pt"]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_is_busy_is_asked_again(release, status):
    release.server.faults = [lambda asked: asked.say(status, Retry_After="0")] * 2
    fetch(release)
    assert is_whole(release)
    assert len(release.server.seen) == 3


def test_what_the_server_asks_to_wait_is_waited(release):
    release.server.faults = [lambda asked: asked.say(503, Retry_After="1")]
    started = time.monotonic()
    fetch(release)
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_stays_broken_is_given_up(release, status):
    release.server.faults = [lambda asked: asked.say(status)] * 20
    with pytest.raises(EngineError, match=f"the server answers {status}"):
        fetch(release)
    assert len(release.server.seen) == QUICK.attempts
    assert release.there() == set()


def test_a_server_that_always_cuts_is_given_up_and_the_part_stays(release):
    release.server.faults = [cut(100_000)] * 20
    with pytest.raises(EngineError, match=r"cut off after 100,000 of 300,000 bytes"):
        fetch(release)
    assert len(release.server.seen) == QUICK.attempts
    assert release.there() == {release.part.name}


def test_progress_renews_the_patience(tmp_path):
    step = 1 << 20
    with published(tmp_path / "weights", content(length=8 * step)) as release:
        release.server.faults = [cut(n * step + 5) for n in range(1, 8)]
        fetch(release)
        assert is_whole(release)
        assert len(release.server.seen) == 8 > QUICK.attempts


def test_a_server_without_ranges_that_always_cuts_is_given_up(tmp_path):
    """Every try brings more than a mebibyte, and none brings anything new."""
    with published(tmp_path / "weights", content(length=3 << 20)) as release:
        ends = [2 << 20, 1 << 20] * 10
        release.server.faults = [lambda asked, end=end: asked.serve(until=end, ranges=False) for end in ends]
        with pytest.raises(EngineError, match="cut off"):
            fetch(release)
        assert len(release.server.seen) == 1 + QUICK.attempts


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_plain_no_is_not_asked_again(release, status):
    release.server.faults = [lambda asked: asked.say(status)] * 2
    with pytest.raises(EngineError, match=f"the server answers {status}") as caught:
        fetch(release)
    assert len(release.server.seen) == 1
    assert release.there() == set()
    for what in (release.info.url, str(release.target), "checkpoint=FILE"):
        assert what in str(caught.value)


def test_a_proxy_that_wants_a_login_is_named(release):
    release.server.faults = [lambda asked: asked.say(407)]
    with pytest.raises(EngineError, match="the proxy of this network wants a login"):
        fetch(release)


def test_a_login_page_is_no_checkpoint(release):
    release.server.faults = [
        lambda asked: asked.say(200, "<html>Log in to this network</html>", Content_Type="text/html")
    ]
    with pytest.raises(EngineError, match=r"offers 35 bytes \(text/html\), expected 300,000"):
        fetch(release)
    assert release.there() == set()


def test_a_file_of_another_length_is_refused_before_it_comes(release):
    release.server.body += b"more"
    with pytest.raises(EngineError, match=r"offers 300,004 bytes .*, expected 300,000"):
        fetch(release)
    release.part.write_bytes(release.server.body[:1000])
    with pytest.raises(EngineError, match=r"the server's file has 300,004 bytes, expected 300,000"):
        fetch(release)
    assert release.there() == set()


def test_more_than_was_published_without_a_stated_length(release):
    def flood(asked: Asked) -> None:
        asked.head(200, None)
        for _ in range(100):
            asked.wfile.write(b"x" * 10_000)

    release.server.faults = [flood]
    with pytest.raises(EngineError, match=r"sends more than the expected 300,000 bytes"):
        fetch(release)
    assert release.there() == set()


def test_another_content_of_the_same_length_never_gets_the_name(release):
    release.server.body = content(seed=3)
    with pytest.raises(EngineError, match=rf"SHA-256 [0-9a-f]{{64}}, expected {release.info.sha256}"):
        fetch(release)
    assert len(release.server.seen) == 1
    assert release.there() == set()


def test_offline_is_one_sentence_that_says_what_to_put_where(release):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/file.pt"
    for url, why in ((closed, "Connection refused"), ("http://weights.invalid/file.pt", "no answer")):
        release.info = replace(release.info, url=url)
        with pytest.raises(EngineError) as caught:
            fetch(release)
        for what in (why, release.info.file_name, url, str(release.target), "checkpoint=FILE"):
            assert what in str(caught.value)
    assert release.there() == set()


def test_a_certificate_that_is_not_trusted_ends_it_at_once(release, tmp_path, monkeypatch):
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    release.server.socket = context.wrap_socket(release.server.socket, server_side=True)
    release.info = replace(release.info, url=release.server.url.replace("http://127.0.0.1", "https://localhost"))
    with pytest.raises(EngineError, match=r"is not trusted .*SSL_CERT_FILE"):
        fetch(release)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetch(release)
    assert is_whole(release)


def self_signed(folder: Path) -> tuple[Path, Path]:
    pytest.importorskip("cryptography", reason="a certificate must be made")
    from datetime import datetime, timedelta, timezone

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    return certificate, secret


# --- the disk ------------------------------------------------------------------------------------------------------


def test_too_little_space_is_said_before_anything_comes(release, monkeypatch):
    usage = shutil.disk_usage(release.folder)
    monkeypatch.setattr(_download.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(ConfigurationError, match=r"has 1 MB left, but sam2.1_hiera_nano.pt needs 17 MB"):
        fetch(release)
    assert release.server.seen == []
    assert release.there() == set()


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_keeps_the_part(release):
    told = []
    with largest_file(123_456), pytest.raises(ConfigurationError, match=r"cannot be written into .*: File too large"):
        fetch(release, progress=lambda done, total: told.append(done))
    assert release.part.read_bytes() == release.server.body[:123_456]
    assert told[-1] < 123_456
    fetch(release)
    assert is_whole(release)
    assert [seen.offset for seen in release.server.seen] == [0, 123_456]


def test_a_full_disk_says_that_the_next_call_goes_on():
    info = MODELS["sam2.1_hiera_tiny"]
    said = r"is full; .* takes 156 MB\. Make room and call again, which goes on"
    with pytest.raises(ConfigurationError, match=said), _download._writing(info, Path("weights")):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_made(release, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match=r"cannot be written into .*XDG_CACHE_HOME"):
        fetch(release, folder=tmp_path / "file" / "below")


@pytest.mark.parametrize("other", [b"", b"a model of my own", content(seed=4)])
def test_another_file_of_that_name_is_left_alone(release, other):
    release.target.write_bytes(other)
    with pytest.raises(ConfigurationError, match=r"is not the published sam2\.1_hiera_nano\.pt"):
        fetch(release)
    assert release.target.read_bytes() == other
    assert release.server.seen == []


def test_checking_a_file(release, tmp_path):
    path = tmp_path / "copy.pt"
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        check_file(release.info, path)
    path.write_bytes(release.server.body)
    check_file(release.info, path)
    path.write_bytes(release.server.body[:-1])
    with pytest.raises(ConfigurationError, match=r"expected 300,000 bytes, found 299,999 bytes"):
        check_file(release.info, path)
    path.write_bytes(release.server.body[:-1] + b"?")
    with pytest.raises(ConfigurationError, match=rf"expected SHA-256 {release.info.sha256}, found SHA-256 "):
        check_file(release.info, path)


# --- several at once -----------------------------------------------------------------------------------------------


def test_of_several_at_once_one_downloads(release):
    release.server.pace = 0.01
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(release), range(4)))
    assert paths == [release.target] * 4
    assert is_whole(release)
    assert len(release.server.seen) == 1


def test_when_the_one_gives_up_another_goes_on(release):
    release.server.faults = [cut(100_000)]
    first_failed = threading.Event()

    def give_up(done: int, total: int) -> None:
        if done >= 50_000:
            time.sleep(0.2)
            first_failed.set()
            raise KeyboardInterrupt

    def second() -> Path:
        return fetch(release)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, release, progress=give_up)
        time.sleep(0.1)
        other = pool.submit(second)
        with pytest.raises(KeyboardInterrupt):
            first.result()
        assert first_failed.is_set()
        assert other.result() == release.target
    assert is_whole(release)
    assert release.server.seen[-1].offset >= 50_000


def test_when_the_one_gets_nothing_another_starts(release):
    asked_first = threading.Event()

    def refuse_late(asked: Asked) -> None:
        asked_first.set()
        time.sleep(0.3)
        asked.say(404)

    release.server.faults = [refuse_late]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, release)
        assert asked_first.wait(10)
        other = pool.submit(fetch, release)
        with pytest.raises(EngineError, match="404"):
            first.result()
        assert other.result() == release.target
    assert is_whole(release)


def test_what_another_finished_in_between_is_taken(release, monkeypatch):
    lock = _download._lock

    def lock_late(*arguments: object) -> None:
        release.target.write_bytes(release.server.body)
        lock(*arguments)

    monkeypatch.setattr(_download, "_lock", lock_late)
    fetch(release)
    assert is_whole(release)
    assert release.server.seen == []


def test_a_process_that_does_nothing_is_not_waited_for_for_ever(release):
    release.part.write_bytes(b"x")
    with release.part.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EngineError, match=r"Another process holds .* has not added to it for"):
            fetch(release, patience=replace(QUICK, timeout=0.1))
    fetch(release)
    assert is_whole(release)


def test_a_killed_process_leaves_a_part_and_no_lock(release):
    release.server.pace = 0.02
    code = """
    import sys
    from labelprop_cvat.propagation.sam2.weights import ModelInfo, fetch_checkpoint
    fetch_checkpoint(ModelInfo(**eval(sys.argv[1])), folder=sys.argv[2], progress=lambda *_: None)
    """
    arguments = [repr(asdict(release.info)), str(release.folder)]
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments])
    try:
        deadline = time.monotonic() + 30
        while not (release.part.exists() and release.part.stat().st_size > 50_000):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert release.there() == {release.part.name}
    kept = release.part.stat().st_size
    release.server.pace = 0.0
    fetch(release)
    assert is_whole(release)
    assert release.server.seen[-1].offset == kept > 50_000


# --- from the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def listed(release, monkeypatch, tmp_path) -> Release:
    """The published model is one of the official ones; the user has no files."""
    monkeypatch.setattr(_models, "_BY_NAME", {"nano": release.info})
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "FIFTYONE_MODEL_ZOO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return release


def test_the_command_downloads_once_and_prints_the_path(listed, capsys):
    for _ in range(2):
        assert main(["weights", "nano"]) == 0
        assert capsys.readouterr().out == f"{cache_folder() / listed.info.file_name}\n"
    assert len(listed.server.seen) == 1
    assert main(["weights", "nano", "--folder", str(listed.folder)]) == 0
    assert capsys.readouterr().out == f"{listed.target}\n"
    assert is_whole(listed)
    assert len(listed.server.seen) == 2


def test_the_command_prints_where_the_file_lies_already(listed, capsys, tmp_path):
    path = tmp_path / "FIFTYONE_MODEL_ZOO_DIR" / "sam2.1_hiera_nano_video.pt"
    path.parent.mkdir()
    path.write_bytes(listed.server.body)
    assert main(["weights", "nano"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert listed.server.seen == []


def test_the_command_says_what_went_wrong_in_one_sentence(listed, capsys):
    listed.server.faults = [lambda asked: asked.say(404)]
    assert main(["weights", "nano"]) == 1
    said = capsys.readouterr().err
    assert "labelprop: The weights sam2.1_hiera_nano.pt (0 MB) cannot be downloaded: the server answers 404" in said
    assert main(["weights", "mega"]) == 1
    assert "There is no SAM 2 model named 'mega'" in capsys.readouterr().err


# --- whatever happens ----------------------------------------------------------------------------------------------

CONTENT = content(seed=1, length=2000)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    start=st.one_of(st.none(), st.integers(0, 2100)),
    right=st.booleans(),
    faults=st.lists(
        st.one_of(
            st.integers(0, 1999).map(cut),
            st.integers(0, 1999).map(lambda end: lambda asked: asked.serve(until=end, ranges=False)),
            st.sampled_from([416, 500, 503]).map(lambda status: lambda asked: asked.say(status)),
        ),
        max_size=4,
    ),
)
def test_the_name_never_stands_for_anything_but_the_whole_file(start, right, faults):
    with tempfile.TemporaryDirectory() as folder, published(Path(folder), CONTENT) as release:
        if start is not None:
            source = CONTENT + b"x" * 100 if right else content(seed=2, length=2100)
            release.part.write_bytes(source[:start])
        release.server.faults = list(faults)
        for _ in range(3):
            try:
                fetch(release, patience=replace(QUICK, attempts=2, pause=0.0))
                break
            except EngineError:
                assert release.there() <= {release.part.name}
        assert is_whole(release)
