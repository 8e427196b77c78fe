"""The contract between an engine and whoever drives it, and the registry of engines.

*Spec, function, driver*: a frozen :class:`PropagatorSpec` states facts that hold before any work, the
:class:`Propagator` protocol states the behaviour, and the driver (:mod:`labelprop_cvat.workflow`) owns files,
devices, progress and cancellation. Other packages add engines through the entry-point group
``labelprop_cvat.propagators``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.frames import FrameSource
from labelprop_cvat.propagation.types import FrameObjects, Prompt, PromptKind, Segment

ENTRY_POINT_GROUP = "labelprop_cvat.propagators"


@dataclass(frozen=True)
class PropagatorSpec:
    """Static facts about an engine.

    Args:
        name: the name users select it by
        accepts: kinds of prompt it takes; ``ABSENT`` is always accepted
        reads_frames: whether it looks at the images at all
        needs_weights: whether a checkpoint must be there
        wants_gpu: whether it is meant for a GPU (it may still run without)
    """

    name: str
    accepts: frozenset[PromptKind]
    reads_frames: bool = True
    needs_weights: bool = False
    wants_gpu: bool = False


@runtime_checkable
class Propagator(Protocol):
    """An engine: prompts on a few frames in, objects on every frame out.

    Two more methods are called where an engine has them: ``close()``, when nobody needs it for now, so that it lets go
    of weights and other large things; and ``missing()``, which says in a sentence what is not on this machine yet, or
    returns None, and which people are warned with before they annotate for hours.
    """

    @property
    def spec(self) -> PropagatorSpec:
        """Static facts about the engine."""
        ...

    def propagate(self, frames: FrameSource, prompts: Sequence[Prompt], span: Segment) -> Iterator[FrameObjects]:
        """Fills the frames of ``span`` from the prompts on it.

        Args:
            frames: the sequence; only frames of ``span`` are read
            prompts: the annotated objects; at most one per object and frame, all within ``span``. An exemplar
                need not show every object: per object only its own prompts count
            span: the frames to answer, usually one temporal segment

        Yields:
            one :class:`FrameObjects` per frame of ``span``, ascending, none left out. On a prompted frame the
            prompt itself is the answer, untouched, with ``keyframe=True`` and confidence 1. Memory does not grow
            with the length of the span. The caller may stop iterating at any frame: engines release what they
            hold when the generator is closed.

        Raises:
            DataError: a prompt is outside the span, repeated, or of a kind the engine does not take
            EngineError: the engine failed
        """
        ...


PropagatorFactory = Callable[..., Propagator]

# Named by place, not imported: an engine that is not used costs nothing, whatever it depends on.
_BUILT_IN: dict[str, tuple[str, str]] = {
    "auto": ("labelprop_cvat.propagation.auto", "make_auto"),
    "flow": ("labelprop_cvat.propagation.flow", "make_flow"),
    "hold": ("labelprop_cvat.propagation.interpolate", "make_hold"),
    "interpolate": ("labelprop_cvat.propagation.interpolate", "make_interpolate"),
    "sam2": ("labelprop_cvat.propagation.sam2.engine", "make_sam2"),
}
_factories: dict[str, PropagatorFactory] = {}


def register_propagator(name: str, factory: PropagatorFactory) -> None:
    """Makes ``get_propagator(name, **options)`` call ``factory(**options)``; replaces an earlier one of that name."""
    _factories[name] = factory


def propagator_names() -> list[str]:
    """The names of all engines, built in and from entry points, sorted."""
    return sorted({*_BUILT_IN, *_factories, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def get_propagator(name: str, **options: Any) -> Propagator:
    """Makes an engine by name.

    Args:
        name: a registered name, see :func:`propagator_names`
        options: the engine's own options

    Raises:
        ConfigurationError: no such engine, or options it does not know
    """
    factory = _factories.get(name)
    if factory is None and name in _BUILT_IN:
        factory = _built_in(name)
    if factory is None:
        for point in entry_points(group=ENTRY_POINT_GROUP):
            if point.name == name:
                factory = point.load()
                break
    if factory is None:
        raise ConfigurationError(
            f"There is no propagation engine named {name!r}. Known engines: {', '.join(propagator_names())}."
        )
    try:
        return factory(**options)
    except TypeError as error:
        raise ConfigurationError(f"The engine {name!r} does not take these options: {options!r} ({error}).") from error


def _built_in(name: str) -> PropagatorFactory:
    module, attribute = _BUILT_IN[name]
    try:
        factory: PropagatorFactory = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The engine {name!r} needs the package {error.name!r}, which is not installed. 'labelprop doctor' says "
            f"how to install it; engine='flow' needs nothing more."
        ) from error
    except (ImportError, OSError) as error:
        raise ConfigurationError(
            f"The engine {name!r} cannot be used, as something that it needs does not load: {error}. "
            f"'labelprop doctor' says more; engine='flow' needs nothing of it."
        ) from error
    return factory


def check_option_names(engine: str, options: Mapping[str, Any], known: type) -> None:
    """Raises a :class:`ConfigurationError` that says which options an engine has, where it was given others.

    Args:
        engine: its name
        options: what it was given
        known: the dataclass of its options
    """
    names = [field.name for field in fields(known)]
    for name in options:
        if name not in names:
            meant = "".join(f"; {like!r} is meant, perhaps" for like in get_close_matches(name, names, 1))
            raise ConfigurationError(
                f"The engine {engine!r} has no option {name!r}{meant}. Its options are {', '.join(names)}."
            )


def check_prompts(spec: PropagatorSpec, prompts: Sequence[Prompt], span: Segment) -> None:
    """Raises a :class:`DataError` that names the first prompt that breaks the contract of ``propagate``."""
    seen: set[tuple[int, int]] = set()
    for prompt in prompts:
        if prompt.frame not in span:
            raise DataError(
                f"The prompt of object {prompt.object_id} is on frame {prompt.frame}, outside the span "
                f"{span.start}..{span.stop - 1}. Propagate each temporal segment with its own prompts."
            )
        if (prompt.frame, prompt.object_id) in seen:
            raise DataError(
                f"Object {prompt.object_id} has two prompts on frame {prompt.frame}; give one per object and frame."
            )
        seen.add((prompt.frame, prompt.object_id))
        if prompt.kind is not PromptKind.ABSENT and prompt.kind not in spec.accepts:
            raise DataError(
                f"The engine {spec.name!r} takes {', '.join(sorted(k.value for k in spec.accepts))}; the prompt of "
                f"object {prompt.object_id} on frame {prompt.frame} is of kind {prompt.kind.value}."
            )


__all__ = [
    "ENTRY_POINT_GROUP",
    "Propagator",
    "PropagatorFactory",
    "PropagatorSpec",
    "check_option_names",
    "check_prompts",
    "get_propagator",
    "propagator_names",
    "register_propagator",
]
