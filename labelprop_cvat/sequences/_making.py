"""Datasets and views of any kind become sequences."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Items

import fiftyone as fo
import fiftyone.core.media as fom
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection as Collection

from labelprop_cvat.errors import DataError
from labelprop_cvat.sequences._images import collection_sequence, group_sequences, image_sequence
from labelprop_cvat.sequences._sequence import Sequence
from labelprop_cvat.sequences._videos import clips_sequences, find_videos, frames_sequences, video_sequences
from labelprop_cvat.sequences._views import (
    FRAMES_PREFIX,
    Grouping,
    check_field,
    every_sample,
    members_of,
    plain_view,
    read_rows,
)

logger = logging.getLogger(__name__)


def sequences_of(
    samples: Collection, *, sort_field: str | None = None, media_field: str = "filepath"
) -> list[Sequence]:
    """Makes sequences of what a dataset or view holds, and of nothing else.

    - a video dataset or view: one sequence per video; all its frames, or only those that ``match_frames``,
      ``select_frames`` or ``exclude_frames`` left
    - clips (``to_clips``, ``to_trajectories``): one sequence per video with the frames of its clips; each clip is a
      temporal segment of its own, clips that overlap are one
    - frames (``to_frames``): one sequence per video with the frames of the view. The pictures come from the video, or
      from the frames' image files where the video's file is missing
    - patches (``to_patches``, ``to_evaluation_patches``): those of the images or frames that the patches lie on
    - a view with dynamic groups (``group_by(..., order_by=...)``, also ``flat=True`` or flattened): one per group
    - a dataset or view with several group slices, selected or all: for each slice of images or videos as if it were
      alone; slices of other media are left out with a warning
    - any other image collection: one sequence

    Args:
        samples: a dataset or view of any of these kinds
        sort_field: orders the images of a sequence, ascending, equal values in the view's order. Without it, groups
            follow their ``order_by`` and other collections the view's order. Ignored for videos.
        media_field: the field that holds the files' paths; a field of the frames (``"frames.<name>"``, or a name that
            only they have) means that the pictures of videos are image files

    Raises:
        DataError: nothing in the view, media that is neither image nor video, a missing field, samples without a value
            in it, or values that cannot be compared
    """
    samples = plain_view(samples)
    if samples._is_frames or samples._is_clips:
        grouping = Grouping.of(samples)
        if grouping is not None:
            samples = grouping.chosen_members()
        if len(samples) == 0:
            raise _empty(samples)
        return frames_sequences(samples, media_field) if samples._is_frames else clips_sequences(samples, media_field)
    if len(samples) == 0:
        raise _empty(samples)
    if _has_slices(members_of(samples)):
        return _slice_sequences(samples, sort_field, media_field)
    return _plain_sequences(samples, sort_field, media_field)


def sequences_with(sequences: Items[Sequence], label_field: str) -> list[Sequence]:
    """Those of several sequences that a label field can be on: of videos for fields of frames, else of images.

    Args:
        sequences: the sequences of one view
        label_field: the field in normal form, with its ``frames.`` prefix on videos

    Returns:
        all of them where they are of one kind; otherwise the others are left out with a warning
    """
    if len({sequence.media_type for sequence in sequences}) < 2:
        return list(sequences)
    wanted = fom.VIDEO if label_field.startswith(FRAMES_PREFIX) else fom.IMAGE
    left_out = [sequence.name for sequence in sequences if sequence.media_type != wanted]
    logger.warning("%r is a field of %ss; %s left out.", label_field, wanted, ", ".join(left_out))
    return [sequence for sequence in sequences if sequence.media_type == wanted]


def sequence_at(
    dataset: fo.Dataset,
    *,
    key: str,
    name: str,
    media_type: str,
    sample_ids: Items[str],
    frame_numbers: Items[int] = (),
    media_field: str = "filepath",
    uniform: bool = True,
) -> Sequence:
    """A sequence made again from the places of its frames; what :func:`sequences_of` gave, whatever the view was.

    Args:
        dataset: the source dataset
        key: the sequence's
        name: the sequence's
        media_type: ``"image"`` or ``"video"``
        sample_ids: one per image in order, or the video's
        frame_numbers: FiftyOne's 1-based numbers of a video's frames, ascending
        media_field: the field that holds the files' paths
        uniform: whether images must all be of one size

    Raises:
        DataError: a sample is no longer in the dataset, or has no file in the field
    """
    if media_type == fom.VIDEO:
        (video,) = find_videos(dataset, {sample_ids[0]: list(frame_numbers)}, media_field)
        return video.sequence(key=key, name=name)
    rows = read_rows(every_sample(dataset, fom.IMAGE).select(list(sample_ids), ordered=True), media_field, None)
    if list(rows.ids) != list(sample_ids):
        gone = set(sample_ids) - set(rows.ids)
        raise DataError(
            f"{len(gone)} samples of {name} are no longer in {dataset.name!r}, first {min(gone, default='')}. Make the "
            f"sequences again."
        )
    return image_sequence(key, name, rows.ids, rows.paths, media_field, uniform=uniform)


def _plain_sequences(
    samples: Collection, sort_field: str | None, media_field: str, slice_name: str | None = None
) -> list[Sequence]:
    """The sequences of a flat collection of one kind of media, or of its dynamic groups."""
    grouping = Grouping.of(samples)
    members = samples if grouping is None else grouping.members
    if members.media_type == fom.VIDEO:
        return video_sequences(samples if grouping is None else grouping.chosen_members(), media_field, slice_name)
    if members.media_type != fom.IMAGE:
        raise DataError(
            f"Sequences are made of images or videos, {samples._root_dataset.name!r} holds {members.media_type!r}. "
            f"Choose another dataset or slice."
        )
    check_field(members, media_field)
    if grouping is None:
        return [collection_sequence(samples, sort_field, media_field, slice_name)]
    return group_sequences(grouping, sort_field, media_field, slice_name)


def _slice_sequences(samples: Collection, sort_field: str | None, media_field: str) -> list[Sequence]:
    """The sequences of every slice of a grouped collection, dynamic groups on top of it or not."""
    grouping = Grouping.of(samples)
    members = samples if grouping is None else grouping.members
    sequences: list[Sequence] = []
    kinds: dict[str, str] = {}
    for name, media_type, flat in _slices(members):
        kinds[name] = media_type
        if media_type not in (fom.IMAGE, fom.VIDEO):
            logger.warning("The slice %r holds %s, not images or videos; it is left out.", name, media_type)
        elif len(flat) == 0:
            continue
        elif grouping is None:
            sequences += _plain_sequences(flat, sort_field, media_field, name)
        elif media_type == fom.VIDEO:
            sequences += video_sequences(grouping.on(flat).chosen_members(), media_field, name)
        else:
            sequences += group_sequences(grouping.on(flat), sort_field, media_field, name)
    if not sequences:
        raise DataError(
            f"No slice in this view of {samples._root_dataset.name!r} holds images or videos "
            f"({', '.join(f'{name}: {kind}' for name, kind in kinds.items())}). Choose another view."
        )
    return sequences


def _slices(members: Collection) -> Iterator[tuple[str, str, Collection]]:
    """Name, kind of media and samples of each slice."""
    if members.media_type == fom.GROUP:
        # Labels can only be selected on the active slice; annotate() makes such views of patches.
        chosen = any(isinstance(stage, fo.SelectLabels) for stage in getattr(members, "_stages", ()))
        for name, media_type in members.group_media_types.items():
            if not chosen or name == members.group_slice:
                yield name, media_type, members.select_group_slices(name)
        return
    root = members._root_dataset
    name_field = f"{root.group_field}.name"
    for name in dict.fromkeys(members.values(name_field)):
        yield name, root.group_media_types[name], members.match(F(name_field) == name)


def _has_slices(members: Collection) -> bool:
    """Whether a collection holds several slices, of groups or laid out flat by ``select_group_slices()``."""
    if members.media_type == fom.GROUP:
        return True
    root = members._root_dataset
    return root.media_type == fom.GROUP and len(set(members.values(f"{root.group_field}.name"))) > 1


def _empty(samples: Collection) -> DataError:
    return DataError(f"There is no sample in this view of {samples._root_dataset.name!r}. Widen the view.")


__all__ = ["sequence_at", "sequences_of", "sequences_with"]
