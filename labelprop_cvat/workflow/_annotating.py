"""Exemplars go to people."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.core.fields as fof
import fiftyone.core.media as fom

from labelprop_cvat.errors import ConfigurationError, DataError
from labelprop_cvat.propagation.exemplars import ExemplarSpec
from labelprop_cvat.registration import BACKEND
from labelprop_cvat.sequences import FRAMES_PREFIX, every_sample, plain_view, segments_of, sequences_of
from labelprop_cvat.workflow._choosing import DEFAULT_EXEMPLARS
from labelprop_cvat.workflow._runs import is_cut_off, is_of_run

if TYPE_CHECKING:
    from labelprop_cvat.backend.results import LabelPropResults

logger = logging.getLogger(__name__)


#: What can be annotated, by FiftyOne's names.
LABEL_TYPES = (
    "instances",
    "detections",
    "polygons",
    "polylines",
    "keypoints",
    "classifications",
    "instance",
    "detection",
    "polygon",
    "polyline",
    "keypoint",
    "classification",
    "segmentation",
    "scalar",
)

# What a field of a class of labels can be annotated as; of two, the first is drawn as an area.
_TYPES_OF_FIELDS: Mapping[type[fo.Label], tuple[str, ...]] = {
    fo.Detections: ("instances", "detections"),
    fo.Detection: ("instance", "detection"),
    fo.Polylines: ("polygons", "polylines"),
    fo.Polyline: ("polygon", "polyline"),
    fo.Keypoints: ("keypoints",),
    fo.Keypoint: ("keypoint",),
    fo.Classifications: ("classifications",),
    fo.Classification: ("classification",),
    fo.Segmentation: ("segmentation",),
}
_SCALARS = (fo.IntField, fo.FloatField, fo.StringField, fo.BooleanField)
# No method of segmentation: what is not stored is not computed.
_NEVER = "never"
# These stand for a whole image or video, and videos keep them on the sample too.
_WITHOUT_A_PLACE = ("classifications", "classification", "scalar")


@dataclass(frozen=True)
class Outlook:
    """What a run would send, by what is stored, without a look at any picture.

    Args:
        sequences: how many sequences, each a task in CVAT
        segments: how many temporal segments, each a job
        frames: how many exemplars
    """

    sequences: int
    segments: int
    frames: int


def annotate(
    samples: fo.core.collections.SampleCollection,
    anno_key: str,
    *,
    label_field: str | None = None,
    label_type: str | None = None,
    classes: Sequence[Any] | None = None,
    label_schema: Mapping[str, Any] | Sequence[str] | None = None,
    attributes: Any = True,
    **options: Any,
) -> LabelPropResults:
    """Sends exemplars to CVAT to be annotated, as a new run.

    As ``samples.annotate(anno_key, backend="labelprop", ...)``, but that what would go wrong is said first, and that
    what a field holds says what it can::

        lp.annotate(view, "run1", label_field="objects", label_type="instances", classes=["person", "car"])
        # people draw the exemplars in CVAT
        lp.load(dataset, "run1")

    Where the upload of this run was cut off, the same call goes on with it.

    Args:
        samples: images, videos, groups, clips, frames or patches
        anno_key: the key of the run, a valid name of a variable
        label_field: the field to annotate, new or not; on videos with or without its ``frames.`` prefix
        label_type: one of :data:`LABEL_TYPES`; of a field that exists by default what it holds
        classes: names of the classes; of a field that exists by default those of its labels and of ``dataset.classes``
        label_schema: several fields instead, as FiftyOne describes them; taken as it is
        attributes: of the labels, as FiftyOne describes them; True takes those that the labels have
        options: further arguments of FiftyOne's ``annotate()``, and parameters of
            :class:`~labelprop_cvat.backend.labelprop.LabelPropBackendConfig`, such as ``exemplars``, ``engine``,
            ``sort_field``, ``segments_field``, ``review``, ``url``, ``username`` and ``password``

    Returns:
        the run's results

    Raises:
        ConfigurationError: the key is none or is taken, a field, type or option does not fit, or there is no address or
            login of CVAT; nothing was changed
        DataError: there is no sample, or the samples do not make sequences; nothing was changed
        CVATError: the server can't be reached or says no; the same call goes on where the upload was cut off
    """
    dataset = samples._root_dataset
    check_new_key(dataset, anno_key)
    if len(samples) == 0:
        raise DataError(f"There is no sample in this view of {dataset.name!r}, so there is nothing to annotate.")
    if label_schema is None:
        if label_field is None:
            raise ConfigurationError("Say what to annotate: label_field='objects', or several as a label_schema.")
        field, label_type, classes = checked_labels(samples, label_field, label_type, classes)
        samples = _with_place(samples, field, label_type)
        asked: dict[str, Any] = {"label_field": field, "label_type": label_type, "classes": classes or None}
        if label_type == "segmentation" and classes and "mask_targets" not in options:
            asked |= {"mask_targets": dict(enumerate(classes, start=1)), "classes": None}
    else:
        given = [name for name, value in (("label_field", label_field), ("classes", classes)) if value is not None]
        if given:
            raise ConfigurationError(f"label_schema describes the fields already: leave out {', '.join(given)}.")
        asked = {"label_schema": label_schema, "label_type": label_type}
    results: LabelPropResults = samples.annotate(
        anno_key, backend=BACKEND, attributes=attributes, **{**options, **asked}
    )
    is_of_run(results, dataset, anno_key)
    return results


def _with_place(
    samples: fo.core.collections.SampleCollection, field: str, label_type: str
) -> fo.core.collections.SampleCollection:
    """Of a collection of images and videos, what a field has its place on; FiftyOne refuses the whole.

    Raises:
        ConfigurationError: the view has to say so itself
    """
    root = samples._root_dataset
    of_images = not field.startswith(FRAMES_PREFIX) and label_type not in _WITHOUT_A_PLACE and not samples._is_frames
    if root.media_type != fom.GROUP or not of_images:
        return samples
    if samples._is_patches:
        return plain_view(samples)
    if not samples._contains_videos(any_slice=True):
        return samples
    if fom.IMAGE not in root.group_media_types.values() or samples._is_dynamic_groups:
        raise ConfigurationError(
            f"{field!r} has its place on images, and this view of {root.name!r} holds videos, too. Choose the slices "
            f"of images first, as in dataset.select_group_slices(media_type='image'), and group them after that."
        )
    logger.warning("%r has its place on images; the slices of %r with videos are left out.", field, root.name)
    return samples.select_group_slices(media_type=fom.IMAGE)


def check_new_key(dataset: fo.Dataset, anno_key: str) -> None:
    """Checks that a run can be made under a key, or that one was begun whose upload was cut off.

    Raises:
        ConfigurationError: it is no valid name, or another run has it
    """
    if not isinstance(anno_key, str) or not anno_key.isidentifier():
        raise ConfigurationError(
            f"The key of a run is a name of letters, digits and underscores that does not start with a digit, such as "
            f"'run1', got {anno_key!r}."
        )
    if anno_key in dataset.list_annotation_runs() and not is_cut_off(dataset, anno_key):
        taken = ", ".join(dataset.list_annotation_runs())
        raise ConfigurationError(
            f"The dataset {dataset.name!r} has an annotation run {anno_key!r} already. Bring that one home, or take a "
            f"key that is free; taken are: {taken}."
        )


def outlook(
    samples: fo.core.collections.SampleCollection,
    *,
    sort_field: str | None = None,
    segments_field: str | None = None,
    segmentation: str = "auto",
    exemplars: str | None = None,
    media_field: str = "filepath",
) -> Outlook | None:
    """Says what :func:`annotate` would send, where that is known without reading media.

    Returns:
        None where segments have to be computed first, or exemplars are chosen by how the frames look

    Raises:
        ConfigurationError: there is no such method of choosing exemplars
        DataError: the samples do not make sequences, or the field holds no segments
    """
    chooser = None if exemplars is None else ExemplarSpec.parse(exemplars)
    sequences = sequences_of(samples, sort_field=sort_field, media_field=media_field)
    segments = frames = 0
    for sequence in sequences:
        try:
            parts = segments_of(sequence, samples, segments_field, segmentation if segmentation == "none" else _NEVER)
        except ConfigurationError:
            return None
        if chooser is not None and chooser.needs_frames:
            return None
        for part in parts:
            scored = any(score for score in part.exemplar_scores)
            method = chooser or ExemplarSpec.parse("scores" if scored else DEFAULT_EXEMPLARS)
            frames += len(method.choose(part.segment, scores=part.exemplar_scores).frames)
        segments += len(parts)
    return Outlook(len(sequences), segments, frames)


def checked_labels(
    samples: fo.core.collections.SampleCollection,
    label_field: str,
    label_type: str | None = None,
    classes: Sequence[Any] | None = None,
) -> tuple[str, str, list[Any]]:
    """The field that is annotated, as the collection spells it, its type and its classes.

    Raises:
        ConfigurationError: there is no such type, the field is of another one, or it is new and something is missing
    """
    if label_type is not None and label_type not in LABEL_TYPES:
        raise ConfigurationError(f"label_type is one of {', '.join(map(repr, LABEL_TYPES))}, got {label_type!r}.")
    field = spelled_field(samples, label_field, label_type)
    types = types_of_field(samples, field)
    if label_type is None:
        label_type = _type_of_labels(samples, field, types)
    elif types and label_type not in types:
        raise ConfigurationError(
            f"{field!r} of {samples._root_dataset.name!r} can be annotated as {' or '.join(map(repr, types))}, got "
            f"label_type={label_type!r}. Take that, or name a new field."
        )
    names = list(classes or ()) or class_names(samples, field)
    if not names and label_type not in ("scalar", "segmentation"):
        raise ConfigurationError(
            f"{field!r} holds no labels yet, so the classes are not known. Name them: classes=['person', 'car']."
        )
    if label_type == "segmentation" and not types and not classes:
        raise ConfigurationError(f"{field!r} is a new field. Name what is segmented: classes=['road', 'sky'].")
    return field, label_type, [] if label_type == "segmentation" and not classes else names


def spelled_field(
    samples: fo.core.collections.SampleCollection, label_field: str, label_type: str | None = None
) -> str:
    """A label field as a collection spells it: on videos with its ``frames.`` prefix, elsewhere without.

    Fields of whole videos stay what they are: those that exist, and new ones of a type that has no place in the
    picture. Where a collection holds images and videos, the field is taken as it is given.

    Args:
        samples: the collection
        label_field: a field, with or without the prefix
        label_type: the type that it has, or shall have

    Raises:
        ConfigurationError: no field can have this name
    """
    plain = label_field.removeprefix(FRAMES_PREFIX)
    if not plain or "." in plain or plain.startswith("_"):
        raise ConfigurationError(
            f"A label field has a name without dots that does not start with an underscore, got {label_field!r}."
        )
    root = samples._root_dataset
    kinds = set(root.group_media_types.values()) if root.media_type == fom.GROUP else {root.media_type}
    if samples._is_frames or kinds == {fom.IMAGE}:
        return plain
    if kinds != {fom.VIDEO} or label_field.startswith(FRAMES_PREFIX):
        return label_field
    of_videos = root.get_field(plain) is not None or label_type in _WITHOUT_A_PLACE
    return plain if of_videos and root.get_field(FRAMES_PREFIX + plain) is None else FRAMES_PREFIX + plain


def types_of_field(samples: fo.core.collections.SampleCollection, field: str) -> tuple[str, ...]:
    """The label types that a field can be annotated as; none of a field that does not exist.

    Args:
        samples: a collection
        field: a field as it spells it

    Raises:
        ConfigurationError: it holds something else
    """
    root = samples._root_dataset
    found = root.get_field(_rooted(samples, field))
    if found is None:
        return ()
    kind: Any = getattr(found, "document_type", None)
    is_ours = field in root._get_default_sample_fields() or getattr(found, "read_only", False)
    types = () if is_ours else _TYPES_OF_FIELDS.get(kind, ("scalar",) if isinstance(found, _SCALARS) else ())
    if not types:
        what = "FiftyOne's own" if is_ours else f"of {kind.__name__ if kind else type(found).__name__}"
        raise ConfigurationError(
            f"The field {field!r} is {what}, and can't be annotated. Take one of labels, or name a new field."
        )
    return types


def likely_types(samples: fo.core.collections.SampleCollection, field: str) -> tuple[str, ...]:
    """The label types that a field can be annotated as, what most of its labels are first.

    Raises:
        ConfigurationError: it holds something that can't be annotated
    """
    types = types_of_field(samples, field)
    counts = _counts(samples, field, types)
    return tuple(sorted(types, key=lambda name: -counts[name]))


def class_names(samples: fo.core.collections.SampleCollection, field: str) -> list[str]:
    """The classes that a dataset knows of a field: those of its labels and of ``dataset.classes``, sorted.

    Args:
        samples: a collection of the dataset
        field: a field as it spells it; it need not exist
    """
    root, path = samples._root_dataset, _rooted(samples, field)
    named = root.classes.get(path) or root.default_classes or ()
    found = root.get_field(path)
    if not isinstance(found, fof.EmbeddedDocumentField) or issubclass(found.document_type, fo.Segmentation):
        return sorted(map(str, named))
    _, labels = root._get_label_field_path(path, "label")
    held = _everywhere(samples, path).distinct(labels)
    return sorted({*map(str, root.classes.get(path) or ()), *held} or set(map(str, named)))


def _type_of_labels(samples: fo.core.collections.SampleCollection, field: str, types: Sequence[str]) -> str:
    if not types:
        raise ConfigurationError(
            f"{field!r} is a new field. Say what goes there: label_type='instances' for masks, 'detections' for boxes, "
            f"or another of {', '.join(map(repr, LABEL_TYPES))}."
        )
    counts = _counts(samples, field, types)
    if len([name for name in types if counts[name]]) > 1:
        held = " and ".join(f"{counts[name]} {name}" for name in types)
        raise ConfigurationError(
            f"{field!r} holds {held}. A run annotates one kind, and leaves the others as they are: say which with "
            f"label_type={types[0]!r} or label_type={types[1]!r}."
        )
    # Of a field without labels, what FiftyOne would take.
    return next((name for name in types if counts[name]), "polygons" if "polygons" in types else types[-1])


def _counts(samples: fo.core.collections.SampleCollection, field: str, types: Sequence[str]) -> Counter[str]:
    """How many labels of each type a field holds, where it can hold two."""
    if len(types) < 2:
        return Counter()
    path = _rooted(samples, field)
    held = _everywhere(samples, path)
    _, labels = held._get_label_field_path(path)
    total = held.count(labels)
    if types[0] in ("instances", "instance"):
        areas = held.count(f"{labels}.mask")
    else:
        areas = held.count_values(f"{labels}.filled").get(True, 0)
    return Counter({types[0]: areas, types[1]: total - areas})


def _everywhere(samples: fo.core.collections.SampleCollection, path: str) -> fo.core.collections.SampleCollection:
    return every_sample(samples._root_dataset, fom.VIDEO if path.startswith(FRAMES_PREFIX) else fom.IMAGE)


def _rooted(samples: fo.core.collections.SampleCollection, field: str) -> str:
    """A field as the dataset spells it."""
    is_plain = samples._is_frames and not field.startswith(FRAMES_PREFIX)
    return FRAMES_PREFIX + field if is_plain else field


__all__ = [
    "LABEL_TYPES",
    "Outlook",
    "annotate",
    "check_new_key",
    "checked_labels",
    "class_names",
    "likely_types",
    "outlook",
    "spelled_field",
    "types_of_field",
]
