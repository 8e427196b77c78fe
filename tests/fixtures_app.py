"""The FiftyOne App as people run it, in a process of its own, and a browser that looks at it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fiftyone.constants as foc
import pytest
import requests
from PIL import Image

START_SECONDS = 90.0
WAIT_SECONDS = 60.0
FORM_MILLISECONDS = 400
STILL_MILLISECONDS = 2500
COLOURS = 128
#: Wide enough for the panel beside the grid, high enough for all of it.
VIEWPORT = {"width": 1440, "height": 1200}
BROWSER_ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """Path of the Chromium of this machine; skips where there is none, or nothing to drive it with."""
    pytest.importorskip("playwright", reason="playwright is not installed; the extra test brings it")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine; Debian has it: apt-get install chromium")
    return found


class App:
    """FiftyOne's App server, on the database of the tests.

    Args:
        folder: where its log goes
        environ: what its environment has beside this process's own
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "app.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # As FiftyOne itself starts it. With -m, FiftyOne would not know in time that it is the App's server,
                # and share what it knows of datasets between requests.
                [sys.executable, "main.py", "--port", str(port), "--address", "127.0.0.1"],
                cwd=foc.SERVER_DIR,
                env={**os.environ, **environ},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns when it answers."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/fiftyone", timeout=5).ok:
                    return
            time.sleep(0.2)
        raise AssertionError(f"the App does not start:\n{self.log()[-2000:]}")

    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass
class Window:
    """A browser window with the App in it.

    Args:
        page: Playwright's
        app: the App's address
        shots: where screenshots go; None for none

    Attributes:
        complaints: what the browser said that it should not have
    """

    page: Any
    app: str
    shots: Path | None = None
    complaints: list[str] = field(default_factory=list)

    def __enter__(self) -> Window:
        # Fonts of a host on the internet that the App asks for: tests ask nobody but their own servers.
        self.page.route(lambda url: not url.startswith(self.app), self._answer_elsewhere)
        for event, heard in self._events():
            self.page.on(event, heard)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.shot("last")
        for event, heard in self._events():
            self.page.remove_listener(event, heard)
        self.page.unroute_all()
        self.page.goto("about:blank")

    def _events(self) -> list[tuple[str, Any]]:
        return [
            ("console", self._on_console),
            ("pageerror", self._on_error),
            ("requestfailed", self._on_failure),
            ("response", self._on_response),
        ]

    def _answer_elsewhere(self, route: Any) -> None:
        if urlsplit(route.request.url).hostname != "fonts.googleapis.com":
            self.complaints.append(f"asked elsewhere: {route.request.url}")
        route.fulfill(status=200, body="", content_type="text/css")

    def _complain(self, complaint: str) -> None:
        if not any(known in complaint for known in ITS_OWN):
            self.complaints.append(complaint)

    def _on_error(self, error: Any) -> None:
        self._complain(f"page error: {error}")

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self._complain(f"console: {message.text[:500]} ({message.location.get('url')})")

    def _on_failure(self, request: Any) -> None:
        if request.url.startswith(self.app) and request.failure != ABORTED:
            self.complaints.append(f"failed: {request.url}: {request.failure}")

    def _on_response(self, response: Any) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.url}")

    def open(self, dataset: str, view: str | None = None) -> None:
        """Opens a dataset, or a saved view of it, and waits for its grid."""
        self.page.goto(f"{self.app}/datasets/{dataset}" + (f"?view={view}" if view else ""))
        self.page.locator(cy("fo-grid")).wait_for()
        # What FiftyOne advertises would be in every picture.
        dismiss = self.page.get_by_text("Dismiss", exact=True)
        with contextlib.suppress(Exception):
            dismiss.click(timeout=1500)

    def operator(self, label: str) -> Any:
        """Opens an operator from the browser of operators; returns its form."""
        self.page.keyboard.press("`")
        search = self.page.locator(cy("operators-browser-search"))
        search.wait_for()
        self.page.keyboard.type(label)
        self.page.locator(cy("operators-browser")).get_by_text(label, exact=True).click()
        return self.form()

    def form(self) -> Any:
        """The form of an operator that is open now."""
        form = self.page.locator(cy("operators-prompt-modal"))
        form.wait_for()
        return form

    def field(self, form: Any, label: str) -> Any:
        """The text field of a form that has a label."""
        named = self.page.get_by_text(label, exact=True)
        return form.locator(".MuiGrid-item").filter(has=named).last.locator("input").first

    def fill(self, form: Any, label: str, *values: str) -> None:
        """Types into a field of a form; into a list, one value after the other."""
        typed = self.field(form, label)
        for value in values:
            typed.fill(value)
            typed.press("Enter" if len(values) > 1 else "Tab")
            self.settle(form)

    def settle(self, form: Any) -> None:
        """Waits until a form has thought about what was typed, which it begins a moment later."""
        self.page.wait_for_timeout(FORM_MILLISECONDS)
        form.get_by_role("progressbar").wait_for(state="detached")

    def submit(self, form: Any, seconds: float = 2 * WAIT_SECONDS) -> str:
        """Executes an operator; returns what it says when it is done, and leaves that on the screen."""
        self.settle(form)
        form.get_by_role("button", name="Execute").click()
        result = self.page.locator(cy("operators-prompt-view-modal"))
        # Not the bar that says how far it is.
        alert = result.get_by_role("alert").or_(result.locator(".MuiAlert-root")).first
        alert.wait_for(timeout=1000 * seconds)
        return str(result.inner_text())

    def close_dialog(self) -> None:
        """Puts the dialog away."""
        self.page.keyboard.press("Escape")
        self.page.locator(cy("operators-prompt-view-modal")).wait_for(state="detached")

    def open_panel(self, label: str) -> Any:
        """Opens a panel beside the grid."""
        self.page.locator(cy("new-panel-btn")).first.click()
        self.page.get_by_text(label, exact=True).first.click()
        return self.panel()

    def click(self, button: str) -> Any:
        """Clicks a button of the panel that opens an operator's form; returns the form."""
        self.panel().get_by_role("button", name=button, exact=True).click()
        return self.form()

    def next_step(self, label: str) -> None:
        """Waits until the panel proposes a step."""
        self.panel().get_by_text(f"Next: {label}.").wait_for()

    def panel(self) -> Any:
        """Our panel."""
        found = self.page.locator(cy("panel-content-label_propagation"))
        found.wait_for()
        return found

    def shot(self, name: str) -> None:
        """Takes a screenshot, once pictures and plots stand still; one that is small enough for a document."""
        if self.shots is None:
            return
        self.page.wait_for_timeout(STILL_MILLISECONDS)
        taken = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        self.shots.mkdir(parents=True, exist_ok=True)
        taken.quantize(COLOURS, dither=Image.Dither.NONE).save(self.shots / f"{name}.png", optimize=True)


#: What FiftyOne's own page complains of, whatever plugin there is.
ITS_OWN = (
    # Masks of a sample are painted by a worker; one that is asked for again meanwhile is asked for with what the
    # worker has already.
    "DataCloneError: Failed to execute 'postMessage' on 'Worker'",
    # The grid was reloaded while it was loading.
    "entry is loading",
)

ABORTED = "net::ERR_ABORTED"
"""How a request ends that the page itself no longer wants, such as one for a picture that was scrolled away."""


def cy(name: str) -> str:
    """The App's own name of an element, made for tests."""
    return f'[data-cy="{name}"]'


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """A browser with a profile of its own, and a page in it."""
    executable = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=executable,
            headless=True,
            # It shows nothing but our own pages, and in containers there is no sandbox to be had.
            chromium_sandbox=False,
            args=list(BROWSER_ARGUMENTS),
            viewport=VIEWPORT,
        )
        context.set_default_timeout(1000 * WAIT_SECONDS)
        try:
            yield context.pages[0]
        finally:
            context.close()
