"""Sequences of images: collections and dynamic groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence as Items
from typing import Any

import fiftyone.core.media as fom
from fiftyone.core.collections import SampleCollection as Collection

from labelprop_cvat.sequences._sequence import FrameRef, Sequence
from labelprop_cvat.sequences._views import Grouping, checked_path, hashable, read_rows

COLLECTION_KEY = "collection"


def image_sequence(
    key: str, name: str, ids: Items[str], paths: Items[str], media_field: str, *, uniform: bool = True
) -> Sequence:
    """A sequence of images in the order given; raises a :class:`DataError` where one has no file."""
    for sample_id, path in zip(ids, paths, strict=True):
        checked_path(path, sample_id, media_field)
    refs = [FrameRef(sample_id) for sample_id in ids]
    return Sequence(key=key, name=name, media_type=fom.IMAGE, paths=paths, refs=refs, uniform=uniform)


def collection_sequence(
    samples: Collection, sort_field: str | None, media_field: str, slice_name: str | None
) -> Sequence:
    """The one sequence of a flat collection that nothing groups."""
    rows = read_rows(samples, media_field, sort_field)
    ids, paths = rows.picked(range(len(rows.ids)), sort_field or "")
    return image_sequence(
        slice_name or COLLECTION_KEY, slice_name or samples._root_dataset.name, ids, paths, media_field
    )


def group_sequences(
    grouping: Grouping, sort_field: str | None, media_field: str, slice_name: str | None = None
) -> list[Sequence]:
    """One sequence per dynamic group that has samples among the grouping's members."""
    field = sort_field or grouping.order_by
    rows = read_rows(grouping.members, media_field, field, grouping.expression)
    members: dict[Any, list[int]] = defaultdict(list)
    for row, value in enumerate(rows.groups or ()):
        members[hashable(value)].append(row)
    chosen = list(members) if grouping.chosen is None else [hashable(value) for value in grouping.chosen]
    # A group need not have a sample in every slice.
    chosen = [value for value in chosen if value in members]
    if not grouping.ordered:
        chosen.sort(key=lambda value: min(rows.ids[row] for row in members[value]))
    names = Counter(str(value) for value in chosen)
    sequences = []
    for value in chosen:
        ids, paths = rows.picked(members[value], field or "")
        if grouping.reverse and sort_field is None and field is not None:
            ids, paths = ids[::-1], paths[::-1]
        # 1 and "1" are two groups; their keys must differ too.
        key = str(value) if names[str(value)] == 1 else repr(value)
        key = key if slice_name is None else f"{slice_name}/{key}"
        sequences.append(image_sequence(key, key, ids, paths, media_field))
    return sequences


__all__ = ["COLLECTION_KEY", "collection_sequence", "group_sequences", "image_sequence"]
