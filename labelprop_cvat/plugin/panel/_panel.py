"""The panel itself: it asks :func:`labelprop_cvat.workflow.overview` where things stand, draws that, and starts steps.

An event computes what has changed and keeps it in the panel's state, from which :meth:`render` draws; plots and tables
go to the panel's data, which the App does not send back with every event.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from labelprop_cvat.errors import LabelPropError
from labelprop_cvat.plugin import _activity
from labelprop_cvat.plugin._login import check_login, login_of
from labelprop_cvat.plugin.panel import _figures
from labelprop_cvat.plugin.panel._drawing import draw
from labelprop_cvat.plugin.panel._summary import (
    PICKERS,
    STEPS,
    jobs_table,
    page_of,
    step_params,
    summary_of,
    worst_rows,
)
from labelprop_cvat.workflow import NO_FIELD, Overview, SequenceOverview, Step, overview, stretch_view

logger = logging.getLogger(__name__)

PLUGIN = "@labelprop/label_propagation"

# So long after a button was clicked the panel looks whether the step has begun; forms take people a while.
_EXPECTING_SECONDS = 120

# Opening a panel makes the App send several events at once; one look does for all of them.
_RECENT_SECONDS = 3.0
# What was clicked is in what was drawn, however long ago.
_CLICK_SECONDS = 3600.0
_MOST_KEPT = 8
# What is drawn from data: plots and tables.
_WITH_DATA = ("timeline_part", "worst_part", "evaluation_part")
_kept: dict[str, tuple[float, Overview | None, str | None]] = {}
_looking: dict[str, threading.Lock] = {}
_keeping = threading.Lock()

Context = Any  # fiftyone.operators.executor.ExecutionContext, which carries no types


class LabelPropagationPanel(foo.Panel):
    """Segments, frames, rounds and the worst places of the view that is open, and the step that comes next."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="label_propagation",
            label="Label Propagation",
            icon="timeline",
            category=foo.Categories.CURATE,
            surfaces="grid",
            help_markdown="A few annotated frames become a fully labelled sequence: people annotate exemplars in CVAT, "
            "the frames between them are filled in, and what is in doubt goes back to people.",
        )

    # --- events ------------------------------------------------------------------------------------------------

    def on_load(self, ctx: Context) -> None:
        """The panel was opened."""
        self._look(ctx, anew=True)

    def on_change_dataset(self, ctx: Context) -> None:
        """Another dataset was opened."""
        for name in ("home", "opened", "first", "pickers"):
            ctx.panel.set_state(name, None)
        self._look(ctx, anew=True)

    def on_change_view(self, ctx: Context) -> None:
        """The view has changed, by people or by a click here."""
        opened = ctx.panel.get_state("opened")
        if opened and _signature(ctx.view) == opened:
            return
        ctx.panel.set_state("home", None)
        ctx.panel.set_state("opened", None)
        self._look(ctx)

    def on_change_group_slice(self, ctx: Context) -> None:
        """Another slice of the groups was chosen."""
        self._look(ctx)

    def on_pick(self, ctx: Context) -> None:
        """A field or the run was picked."""
        name, value = str(ctx.params.get("path") or "").rpartition(".")[2], ctx.params.get("value") or None
        picked = (ctx.panel.get_state("summary") or {}).get("picked") or {}
        if name not in PICKERS or picked.get(name) == value:
            # The App tells of defaults, too.
            return
        ctx.panel.set_state(f"pickers.{name}", value)
        if name == "anno_key":
            # Another run has other fields.
            for other in ("input_field", "output_field"):
                ctx.panel.set_state(f"pickers.{other}", None)
        self._look(ctx)

    def on_refresh(self, ctx: Context) -> None:
        """Looks again, and asks CVAT how far people are."""
        self._look(ctx, again=True, refresh=True)

    def on_step(self, ctx: Context) -> None:
        """A step's button was clicked: its form opens, with what is picked here filled in."""
        step = Step(ctx.params["step"])
        params = step_params(step, ctx.panel.get_state("summary") or {})
        # Looking at the status is over before anybody could see it run.
        seconds = 0 if step is Step.STATUS else _EXPECTING_SECONDS
        ctx.panel.set_state("expecting", time.time() + seconds)
        ctx.panel.set_state("before", _id_of(_current(ctx)))
        ctx.prompt(
            f"{PLUGIN}/{STEPS[step][1]}", params=params, on_success=self.on_step_done, on_error=self.on_step_done
        )

    def on_step_done(self, ctx: Context) -> None:
        """A step has ended, well or not, or was scheduled."""
        activity = _current(ctx)
        if activity is not None and not activity.is_running and activity.id != ctx.panel.get_state("before"):
            ctx.panel.set_state("expecting", None)
        self._look(ctx, again=True)

    def on_poll(self, ctx: Context) -> None:
        """Looks whether a step works, or has ended since."""
        was_running = bool((ctx.panel.get_state("activity") or {}).get("is_running"))
        activity = self._see_activity(ctx)
        is_running = activity is not None and activity.is_running
        has_ended = (
            activity is not None and not is_running and (was_running or activity.id != ctx.panel.get_state("before"))
        )
        if has_ended:
            ctx.panel.set_state("expecting", None)
            ctx.panel.set_state("before", _id_of(activity))
            self._look(ctx, again=True)
            if activity is not None and activity.delegated:
                # Steps that run in the App have it reload themselves.
                ctx.ops.reload_dataset()

    def on_stop(self, ctx: Context) -> None:
        """Asks the step that works to stop."""
        activity = _activity.request_stop(ctx.dataset)
        if activity is None:
            ctx.ops.notify("Nothing runs any more.", variant="info")
        self._see_activity(ctx)

    def on_previous(self, ctx: Context) -> None:
        """Shows the sequences before."""
        ctx.panel.set_state("first", int(ctx.panel.get_state("first") or 0) - _figures.SEQUENCES)
        self._look(ctx)

    def on_next(self, ctx: Context) -> None:
        """Shows the next sequences."""
        ctx.panel.set_state("first", int(ctx.panel.get_state("first") or 0) + _figures.SEQUENCES)
        self._look(ctx)

    def on_timeline(self, ctx: Context) -> None:
        """A segment, a frame or a point of a curve was clicked."""
        kind, _, key = str(ctx.params.get("trace") or "").partition("|")
        found = self._overview(ctx, recent=_CLICK_SECONDS)
        sequence = None if found is None else next((s for s in found.sequences if s.key == key), None)
        if sequence is None:
            return
        point = str(ctx.params.get("id") or "").split("|")
        if kind == "segments" and len(point) >= 2:
            start, stop = int(point[0]), min(int(point[1]), len(sequence))
            if start < stop:
                self._open(ctx, stretch_view(self._home(ctx), sequence, start, stop))
            return
        if kind == "frames":
            index = ctx.params.get("idx")
            column = index[-1] if isinstance(index, list | tuple) else index
            position = _figures.column_position(sequence, int(column or 0))
        elif point[0].isdigit():
            position = int(point[0])
        else:
            return
        if position < len(sequence):
            self._open_frame(ctx, sequence, position)

    def on_worst(self, ctx: Context) -> None:
        """One of the worst frames was clicked."""
        rows = (ctx.panel.get_state("summary") or {}).get("worst") or []
        row = ctx.params.get("row")
        if not isinstance(row, int) or not 0 <= row < len(rows):
            return
        key, position, _, _ = rows[row]
        found = self._overview(ctx, recent=_CLICK_SECONDS)
        sequence = None if found is None else next((s for s in found.sequences if s.key == key), None)
        if sequence is None or position >= len(sequence):
            ctx.ops.notify("This frame is no longer there.", variant="warning")
            self._look(ctx)
            return
        self._open_frame(ctx, sequence, position)

    def on_back(self, ctx: Context) -> None:
        """Back to the view from which a segment or a frame was opened."""
        home = self._home(ctx)
        ctx.panel.set_state("home", None)
        ctx.panel.set_state("opened", None)
        if home.view()._stages:
            ctx.ops.set_view(home)
        else:
            ctx.ops.clear_view()

    # --- drawing -----------------------------------------------------------------------------------------------

    def render(self, ctx: Context) -> types.Property:
        return draw(self, ctx)

    # --- what is behind it -------------------------------------------------------------------------------------

    def _look(self, ctx: Context, *, again: bool = False, refresh: bool = False, anew: bool = False) -> None:
        """Looks where things stand, and draws what is not drawn already.

        Args:
            ctx: the context
            again: whether to look although somebody did a moment ago
            anew: whether to draw all of it
            refresh: whether to ask CVAT as well
        """
        self._see_activity(ctx)
        found = self._overview(ctx, recent=0.0 if again else _RECENT_SECONDS, refresh=refresh)
        if found is None:
            return
        summary = summary_of(self._home(ctx), found)
        first, shown = page_of(found, int(ctx.panel.get_state("first") or 0))
        summary["first"], summary["shown"] = first, len(shown)
        summary["jobs"] = jobs_table(found)
        ctx.panel.set_state("first", first)
        ctx.panel.set_state("summary", summary)
        plots = {"timeline": _figures.timeline(shown)}
        if found.evaluation is not None:
            for name, made in (
                ("objects", _figures.objects(found.evaluation.summary)),
                ("segments", _figures.segments(found.evaluation.summary)),
                ("calibration", _figures.calibration(found.evaluation.summary)),
            ):
                if made is not None:
                    plots[name] = made
        worst = worst_rows(found)
        drawn = hashlib.sha256(json.dumps([plots, worst]).encode()).hexdigest()
        if not anew and ctx.panel.get_state("drawn") == drawn:
            # Plots take a browser long, and the App sends several events for one change.
            return
        ctx.panel.set_state("drawn", drawn)
        for name, (data, layout) in plots.items():
            place = "timeline_part.timeline" if name == "timeline" else f"evaluation_part.plots.{name}"
            ctx.panel.set_data(place, data)
            ctx.panel.set_state(f"{name}_layout", layout)
        ctx.panel.set_data("worst_part.frames", worst)
        # The App also keeps what it showed last as state, and lays new data over that, list element by list element.
        for part in _WITH_DATA:
            ctx.panel.set_state(part, None)

    def _overview(self, ctx: Context, *, recent: float, refresh: bool = False) -> Overview | None:
        """Where things stand in the view; None, with a sentence in the state, where that cannot be told.

        Args:
            ctx: the context
            recent: what was found up to so many seconds ago will do
            refresh: whether to ask CVAT as well
        """
        if ctx.dataset is None:
            return None
        home = self._home(ctx)
        picked = {name: value for name, value in (ctx.panel.get_state("pickers") or {}).items() if value}
        key = json.dumps([str(ctx.dataset._doc.id), ctx.group_slice, _signature(home), picked], default=str)
        # Whoever looks at something else does not wait, for instance for a CVAT that does not answer.
        with _keeping:
            looking = _looking.setdefault(key, threading.Lock())
        with looking:
            made, found, trouble = _kept.get(key, (0.0, None, None))
            if found is None or time.monotonic() - made >= recent:
                found, trouble = self._found(ctx, home, picked, refresh=refresh)
                with _keeping:
                    _kept.pop(key, None)
                    _kept[key] = (time.monotonic(), found, trouble)
                    for old in list(_kept)[:-_MOST_KEPT]:
                        del _kept[old]
                        _looking.pop(old, None)
        ctx.panel.set_state("trouble", trouble)
        return found

    def _found(
        self, ctx: Context, home: Any, picked: dict[str, Any], *, refresh: bool
    ) -> tuple[Overview | None, str | None]:
        """Where things stand, as far as it can be told; and a sentence about what stands in the way."""
        trouble = None
        # Without what orders the images there is still something to show.
        for asked in (picked, {**picked, "sort_field": NO_FIELD}):
            try:
                found = overview(home, **asked)
                if not refresh or found.run is None:
                    return found, trouble
                try:
                    # Otherwise whoever started the App on a terminal would be asked there for a login.
                    check_login(ctx, run_url=found.run.url)
                except LabelPropError as error:
                    return found, f"Jobs are shown as they were last seen. {error}"
                return overview(home, refresh=True, **asked, **login_of(ctx)), trouble
            except LabelPropError as error:
                trouble = trouble or str(error)
                logger.info("The panel cannot show %r as asked: %s", ctx.dataset.name, error)
            except Exception as error:
                # The App would show the traceback in the place of the panel, until the page is loaded again.
                logger.exception("The panel cannot show %r.", ctx.dataset.name)
                return None, trouble or _activity.sentence_of(error)
        return None, trouble

    def _see_activity(self, ctx: Context) -> _activity.Activity | None:
        activity = _current(ctx)
        known = None
        if activity is not None:
            known = {
                "label": activity.label,
                "is_running": activity.is_running,
                "is_stopping": activity.is_stopping,
                "description": activity.description,
                "progress": activity.progress,
                "delegated": activity.delegated,
                "state": activity.state,
                "message": activity.message,
            }
        ctx.panel.set_state("activity", known)
        if activity is not None and activity.is_running:
            ctx.panel.set_state("before", None)
        return activity

    def _home(self, ctx: Context) -> fo.core.collections.SampleCollection:
        """The view that the panel is about: the App's, or the one from which a part of it was opened here."""
        home = ctx.panel.get_state("home")
        if home is None:
            return ctx.view
        return fo.DatasetView._build(ctx.dataset, home)

    def _open(self, ctx: Context, view: fo.DatasetView) -> None:
        """Shows a part of the view, from which people come back by a button."""
        if ctx.panel.get_state("home") is None:
            ctx.panel.set_state("home", ctx.view._serialize())
        ctx.panel.set_state("opened", _signature(view))
        ctx.ops.set_view(view)

    def _open_frame(self, ctx: Context, sequence: SequenceOverview, position: int) -> None:
        """Opens an image that the view shows; otherwise shows what begins with the frame and ends with its segment.

        Of videos that is a clip. Samples inside groups, and those that the view leaves out, the App cannot open.
        """
        ref = sequence.frames[position]
        if ref.frame_number is None and not ctx.view._is_dynamic_groups and len(ctx.view.select(ref.sample_id)):
            ctx.ops.open_sample(id=ref.sample_id)
            return
        segment = sequence.segment_at(position)
        stop = len(sequence) if segment is None else segment.stop
        self._open(ctx, stretch_view(self._home(ctx), sequence, position, stop))


def _current(ctx: Context) -> _activity.Activity | None:
    return None if ctx.dataset is None else _activity.current(ctx.dataset)


def _id_of(activity: _activity.Activity | None) -> str | None:
    return None if activity is None else activity.id


def _signature(view: fo.core.collections.SampleCollection) -> list[Any]:
    """What a view is made of, without what differs from one time to the next."""
    return [
        [stage["_cls"], [[name, value] for name, value in stage["kwargs"] if name != "state"]]
        for stage in view.view()._serialize(include_uuids=False)
    ]


__all__ = ["PLUGIN", "LabelPropagationPanel"]
