"""Progress of long work told to a listener, which may stop it."""

from __future__ import annotations

import threading

import pytest

from labelprop_cvat.progress import Progress, Stopped, late_bar, progress_bar, watching


def test_a_listener_hears_every_step_and_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Progress] = []
    with watching(heard.append), progress_bar(3, progress=True, what="jobs") as bar:
        for _ in range(3):
            bar.update()
    assert heard == [Progress("jobs", done, 3) for done in range(4)]
    assert capsys.readouterr().out == ""
    assert heard[-1].share == 1.0


def test_without_a_listener_the_bar_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(3, progress=True) as bar:
        bar.update(3)
    assert "100%" in capsys.readouterr().out


def test_late_bars_tell_a_listener_from_the_first_step() -> None:
    heard: list[Progress] = []
    with watching(heard.append), late_bar("frames checked", 2) as progress:
        progress(1)
        progress(2)
    assert [(entry.what, entry.done) for entry in heard] == [("frames checked", n) for n in (0, 1, 2)]


def test_a_listener_may_stop_the_work_as_ctrl_c_does() -> None:
    def listen(progress: Progress) -> None:
        if progress.done == 2:
            raise Stopped

    done: list[int] = []

    def work() -> None:
        with watching(listen), progress_bar(9) as bar:
            for step in range(9):
                bar.update()
                done.append(step)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [0]


def test_a_listener_hears_its_own_thread_alone() -> None:
    heard: list[Progress] = []

    def elsewhere() -> None:
        with progress_bar(1, progress=False) as bar:
            bar.update()

    with watching(heard.append):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert heard == []


def test_a_share_needs_a_total() -> None:
    assert Progress("frames", 3).share is None
    assert Progress("frames", 3, 4).share == 0.75
