"""What all operators of the plugin have in common.

A step declares a form, says what is wrong with it, and does its work through :mod:`labelprop_cvat.workflow`. How it
runs is decided here: at once in the App, as a stream of progress; at once in a script, in place; or delegated, in place
as well, in another process.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from labelprop_cvat.errors import ConfigurationError, LabelPropError
from labelprop_cvat.plugin._activity import (
    DONE,
    FAILED,
    STOPPED,
    STOPPED_SENTENCE,
    at_work,
    described,
    sentence_of,
)
from labelprop_cvat.progress import Progress, Stopped, watching

logger = logging.getLogger(__name__)

STOP = "stop_step"
"""Name of the operator that stops what runs."""

_MOST_NOTES = 8
_POLL_SECONDS = 0.25
_PATIENCE_SECONDS = 1.0

Context = Any  # fiftyone.operators.executor.ExecutionContext, which carries no types


@dataclass(frozen=True)
class Problem:
    """What is wrong with a form.

    Args:
        param: the input that it is about; None where it is about none of them
        sentence: what was expected, what was found and what to do
    """

    param: str | None
    sentence: str


@dataclass
class _Outcome:
    state: str = FAILED
    result: dict[str, Any] = field(default_factory=dict)


class Step(foo.Operator):
    """An operator: one step of the loop. Subclasses set the constants and implement :meth:`form` and :meth:`run`."""

    name: ClassVar[str]
    label: ClassVar[str]
    description: ClassVar[str]

    changes_dataset: ClassVar[bool] = True
    """Whether it writes; then no other step that writes runs beside it."""
    is_long: ClassVar[bool] = True
    """Whether it may take long, so that people may have it run in another process."""
    risk: ClassVar[types.RiskLevel] = types.RiskLevel.MEDIUM
    undeclared: ClassVar[tuple[str, ...]] = ()
    """Parameters that scripts may pass beside the inputs of the form."""
    numbers: ClassVar[tuple[tuple[str, str], ...]] = ()
    """What is shown of the result beside its message: keys and what people call them."""

    def form(self, ctx: Context, inputs: types.Object) -> None:
        """Declares the inputs. The default of an input is what an operator gets that is called without it."""

    def problems(self, ctx: Context, params: Mapping[str, Any]) -> list[Problem]:
        """Says what is wrong with the inputs. Called at every change of the form, so it must be quick.

        Args:
            ctx: the context
            params: the inputs, with defaults where nothing was given
        """
        return []

    def run(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        """Does the work.

        Args:
            ctx: the context
            params: the inputs, with defaults where nothing was given

        Returns:
            ``message``, a sentence that says what was done, and more values, all of which JSON can hold
        """
        raise NotImplementedError

    def afterwards(self, ctx: Context, result: Mapping[str, Any]) -> Iterable[Any]:
        """What the App does when the work is done: messages of ``ctx.ops``."""
        return ()

    # --- what FiftyOne calls -----------------------------------------------------------------------------------

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name=self.name,
            label=self.label,
            description=self.description,
            dynamic=True,
            execute_as_generator=True,
            allow_immediate_execution=True,
            allow_delegated_execution=self.is_long,
            default_choice_to_delegated=False,
            resolve_execution_options_on_change=False,
            # What is wrong is said by `problems`, in sentences.
            disable_schema_validation=True,
            risk_level=self.risk,
        )

    def resolve_input(self, ctx: Context) -> types.Property:
        inputs, _ = self._resolved(ctx)
        return types.Property(inputs, view=types.View(label=self.label, description=self.description))

    def resolve_output(self, ctx: Context) -> types.Property:
        return self._shown(ctx.results or {}, DONE)

    def resolve_run_name(self, ctx: Context) -> str:
        return self.label

    def execute(self, ctx: Context) -> Any:
        # Only the App names the operator in its request, and it reads what a generator tells as long as that is not
        # delegated. A script gets the result itself.
        if "operator_uri" in ctx.request_params and not ctx.delegated:
            return self._streamed(ctx)
        try:
            return self._done(ctx, self._told_to_orchestrator(ctx))
        except Stopped:
            return {"message": STOPPED_SENTENCE, "stopped": True, "samples_processed": 0}

    # --- how it runs -------------------------------------------------------------------------------------------

    def _done(self, ctx: Context, tell: Callable[[Progress], object] | None) -> dict[str, Any]:
        """Does the work in this thread and returns its result."""
        inputs, problems = self._resolved(ctx)
        if problems:
            raise ConfigurationError(" ".join(problem.sentence for problem in problems))
        params = self._given(ctx, inputs)
        if not self.changes_dataset:
            with watching(tell or _nothing):
                return self._noted(ctx, params)
        delegated = bool(ctx.delegated)
        with at_work(ctx.dataset, self.name, self.label, delegated=delegated, listener=tell) as work:
            result = self._noted(ctx, params)
            work.finish(str(result.get("message", "")))
        return result

    def _noted(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        """Does the work; what is warned of meanwhile stands in the result, as people in the App see no log."""
        with _Warnings() as warnings:
            result = self.run(ctx, params)
        return {**result, "notes": warnings.sentences} if warnings.sentences else result

    def _told_to_orchestrator(self, ctx: Context) -> Callable[[Progress], object] | None:
        if not ctx.delegated:
            return None
        return lambda progress: ctx.set_progress(progress=progress.share, label=described(progress))

    def _streamed(self, ctx: Context) -> Iterator[Any]:
        """Does the work in a thread of its own, and says in the App how far it is and how it ended."""
        seen: list[Progress] = []
        left = threading.Event()
        outcome = _Outcome()

        def tell(progress: Progress) -> None:
            seen[:] = [progress]
            if left.is_set():
                raise Stopped(STOPPED_SENTENCE)

        def work() -> None:
            try:
                outcome.result = self._done(ctx, tell)
                outcome.state = DONE
            except Stopped:
                outcome.result = {"message": STOPPED_SENTENCE}
                outcome.state = STOPPED
            except BaseException as error:
                if not isinstance(error, LabelPropError):
                    logger.exception("%s failed.", self.label)
                outcome.result = {"message": sentence_of(error)}

        before = _schema_of(ctx)
        thread = threading.Thread(target=work, name=self.name, daemon=True)
        thread.start()
        try:
            # Work that is done in a moment needs no dialog that says how far it is.
            thread.join(_PATIENCE_SECONDS)
            shown: Progress | None = None
            if thread.is_alive():
                yield self._dialog(ctx, f"{self.label} begins", None)
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                if seen and seen[0] != shown:
                    shown = seen[0]
                    yield self._dialog(ctx, f"{self.label}: {described(shown)}", shown.share)
        finally:
            # Whoever asked has gone, or the work is done.
            left.set()
        message = str(outcome.result.get("message", ""))
        variant = {DONE: "success", STOPPED: "warning"}.get(outcome.state, "error")
        yield ctx.ops.notify(message, variant=variant)
        yield ctx.ops.show_output(self._shown(outcome.result, outcome.state).to_json(), outcome.result)
        if outcome.state == DONE:
            yield from self.afterwards(ctx, outcome.result)
        if self.changes_dataset:
            after = _schema_of(ctx)
            yield ctx.ops.reload_samples() if after == before and after is not None else ctx.ops.reload_dataset()

    def _dialog(self, ctx: Context, label: str, share: float | None) -> Any:
        """Shows how far the work is, with a button to stop it: until it ends, the App lets people do nothing else."""
        outputs = types.Object()
        variant = "linear" if share is not None else "circular"
        outputs.float("progress", view=types.ProgressView(label=label, variant=variant))
        if self.changes_dataset:
            outputs.btn("stop", label="Stop", on_click=f"{self.plugin_name}/{STOP}", variant="outlined")
        return ctx.ops.show_output(types.Property(outputs).to_json(), {"progress": share})

    def _given(self, ctx: Context, inputs: types.Object) -> dict[str, Any]:
        """The inputs: what was given, else their defaults."""
        params = dict(ctx.params)
        from_app = "operator_uri" in ctx.request_params
        if from_app:
            # The App still sends what was entered in inputs that have gone since.
            params = {k: v for k, v in params.items() if k in inputs.properties or k in self.undeclared}
        for name, prop in inputs.properties.items():
            if isinstance(prop, types.ViewTargetProperty):
                params[name] = ctx.request_params.get("view_target") or params.get(name) or prop.default
            # What people emptied comes from the App as None, and is to be empty.
            elif params.get(name) is None and not (from_app and name in params):
                params[name] = prop.default
        return params

    # --- forms -------------------------------------------------------------------------------------------------

    def _resolved(self, ctx: Context) -> tuple[types.Object, list[Problem]]:
        """The inputs, with what is wrong marked beside them, and what is wrong."""
        inputs = types.Object()
        problems: list[Problem] = []
        if ctx.dataset is None:
            problems.append(Problem(None, "No dataset is open. Open one and start again."))
        else:
            try:
                self.form(ctx, inputs)
                params = self._given(ctx, inputs)
                problems += _type_problems(inputs, params) or self.problems(ctx, params)
            except LabelPropError as error:
                problems.append(Problem(None, str(error)))
        for number, problem in enumerate(problems):
            beside = inputs.properties.get(problem.param)
            if beside is None or isinstance(beside.view, types.HiddenView):
                beside = inputs.view(f"problem_{number}", types.Error(label=problem.sentence))
            beside.invalid = True
            beside.error_message = problem.sentence
        return inputs, problems

    def _shown(self, result: Mapping[str, Any], state: str) -> types.Property:
        outputs = types.Object()
        kind = {DONE: types.Success, STOPPED: types.Warning}.get(state, types.Error)
        if result.get("stopped"):
            kind = types.Warning
        if result.get("message"):
            outputs.view("message", kind(label=str(result["message"])))
        for number, note in enumerate(result.get("notes") or ()):
            outputs.view(f"note_{number}", types.Warning(label=str(note)))
        for key, label in self.numbers:
            if result.get(key) is not None:
                outputs.str(key, label=label, view=types.LabelValueView(read_only=True))
        return types.Property(outputs, view=types.View(label=self.label))


class _Warnings(logging.Handler):
    """Hears what this package warns of in this thread, as long as the context lasts."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences: list[str] = []
        self._thread = threading.get_ident()
        self._logger = logging.getLogger("labelprop_cvat")

    def __enter__(self) -> _Warnings:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        sentence = record.getMessage()
        if record.thread == self._thread and sentence not in self.sentences[:_MOST_NOTES]:
            self.sentences.append(sentence)
            del self.sentences[_MOST_NOTES:]


def value_of(ctx: Context, name: str, default: Any = None) -> Any:
    """What an input is so far, while its form is being made; ``default`` where nothing was given."""
    value = ctx.params.get(name)
    return default if value is None else value


def _type_problems(inputs: types.Object, params: Mapping[str, Any]) -> list[Problem]:
    """Values that are of no use to their inputs."""
    found = []
    for name, prop in inputs.properties.items():
        value = params.get(name)
        expected = None if value is None else _expected(prop.type, value)
        if expected is not None:
            found.append(Problem(name, f"{name} takes {expected}, got {value!r}."))
    return found


def _expected(kind: Any, value: Any) -> str | None:
    """What an input takes, where it does not take a value."""
    if isinstance(kind, types.Boolean):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(kind, types.String):
        return None if isinstance(value, str | int | float) else "a text"
    if isinstance(kind, types.Number):
        name = "a whole number" if kind.int else "a number"
        least = "" if kind.min is None else f" from {kind.min}"
        most = "" if kind.max is None else f" up to {kind.max}"
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        fits = fits and not (kind.int and value != int(value))
        if not fits or (kind.min is not None and value < kind.min) or (kind.max is not None and value > kind.max):
            return name + least + most
    return None


def _nothing(progress: Progress) -> None:
    """Listens to nothing: bars are not drawn where nobody sees them."""


def _schema_of(ctx: Context) -> tuple[frozenset[str], ...] | None:
    """What of a dataset the App learns only by reloading it; None where there is none, or none any more."""
    try:
        if ctx.dataset is None:
            return None
        ctx.dataset.reload()
    except ValueError:
        # That is how FiftyOne says that it was deleted.
        return None
    return _schema(ctx.dataset)


def _schema(dataset: fo.Dataset) -> tuple[frozenset[str], ...]:
    has_frames = dataset._has_frame_fields()
    return (
        frozenset(dataset.get_field_schema(flat=True)),
        frozenset(dataset.get_frame_field_schema(flat=True) if has_frames else ()),
        frozenset([*dataset.list_annotation_runs(), *dataset.list_evaluations()]),
    )


__all__ = ["STOP", "Context", "Problem", "Step", "value_of"]
