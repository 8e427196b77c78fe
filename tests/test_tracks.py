"""Which CVAT objects are one object."""

from __future__ import annotations

import random
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from labelprop_cvat.backend.tracks import (
    Claim,
    KnownIdentity,
    TrackKeyframe,
    ended_frames,
    find_heirs,
    resolve_identities,
    visible_frames,
)


def claim(key: str, order: int, index: int, frames: set[int], label: str = "car") -> Claim:
    return Claim(key=key, order=order, label=label, index=index, frames=frozenset(frames))


def test_claims_with_one_index_on_different_frames_are_one_object() -> None:
    claims = [claim("a", 0, 4, {0}), claim("b", 1, 4, {10}), claim("c", 2, 7, {0})]
    assert resolve_identities(claims, {}) == {"a": 4, "b": 4, "c": 7}


def test_claims_without_an_index_get_one_that_nobody_has() -> None:
    claims = [claim("a", 0, 0, {0}), claim("b", 1, 3, {0}), claim("c", 2, 0, {0})]
    assert resolve_identities(claims, {}, next_index=9) == {"a": 9, "b": 3, "c": 10}


def test_a_copy_on_the_same_frame_becomes_an_object_of_its_own_and_stays_one() -> None:
    claims = [claim("a", 0, 1, {0, 10}), claim("copy0", 1, 1, {0}), claim("copy10", 2, 1, {10})]
    indices = resolve_identities(claims, {})
    assert indices["a"] == 1
    assert indices["copy0"] == indices["copy10"] == 2


def test_objects_numbered_per_class_are_kept_apart() -> None:
    claims = [
        claim("person", 0, 1, {0}, "person"),
        claim("car", 1, 1, {5}, "car"),
        claim("car again", 2, 1, {10}, "car"),
    ]
    indices = resolve_identities(claims, {})
    assert indices["person"] == 1
    assert indices["car"] == indices["car again"] == 2


def test_an_index_that_cvat_reset_is_not_lost() -> None:
    assert resolve_identities([claim("a", 0, 0, {0})], {"a": KnownIdentity(5, 5)}) == {"a": 5}


def test_a_person_may_swap_two_indices() -> None:
    known = {"a": KnownIdentity(5, 5), "b": KnownIdentity(8, 8)}
    claims = [claim("a", 0, 8, {0}), claim("b", 1, 5, {0})]
    assert resolve_identities(claims, known) == {"a": 8, "b": 5}


def test_an_edit_to_an_index_that_is_taken_is_not_followed() -> None:
    known = {"a": KnownIdentity(5, 5), "b": KnownIdentity(8, 8)}
    claims = [claim("a", 0, 8, {0}), claim("b", 1, 8, {0})]
    assert resolve_identities(claims, known) == {"a": 5, "b": 8}


def test_an_index_that_stayed_at_home_is_never_given_away() -> None:
    assert resolve_identities([claim("a", 0, 3, {0})], {}, reserved=[3], next_index=4) == {"a": 4}


def track(
    number: int, drawn: Mapping[int, str], *, index: int = 0, ended: Mapping[int, str] | None = None, label: str = "car"
) -> Claim:
    """A track on ten frames with a keyframe wherever ``drawn`` names a shape."""
    keyframes = [*((frame, False) for frame in drawn), *((frame, True) for frame in ended or ())]
    return Claim(
        f"track:{number}", number, label, index, visible_frames(keyframes, range(10)), dict(drawn), dict(ended or {})
    )


def shape(number: int, frame: int, name: str, *, index: int = 0, label: str = "car") -> Claim:
    return Claim(f"shape:{number}", number, label, index, frozenset({frame}), {frame: name})


def known_as(claim: Claim, index: int) -> KnownIdentity:
    return KnownIdentity(index, claim.index, claim.drawn or {}, claim.label)


def settle(claims: list[Claim], known: Mapping[str, KnownIdentity]) -> tuple[dict[str, int], dict[str, dict[int, str]]]:
    """Indices and heirs, where everything that is not among the claims is gone."""
    gone = known.keys() - {c.key for c in claims}
    heirs = find_heirs(claims, known, gone)
    return resolve_identities(claims, known, heirs=heirs, next_index=20), heirs


OLD = track(1, {0: "a", 4: "b", 8: "c"}, index=3)


def test_what_was_deleted_and_restored_is_who_it_was() -> None:
    again = track(7, {0: "a", 4: "b", 8: "c"}, index=3)
    indices, heirs = settle([again], {OLD.key: known_as(OLD, 5)})
    assert indices == {again.key: 5}
    assert heirs == {again.key: {0: OLD.key, 4: OLD.key, 8: OLD.key}}


def test_the_later_part_of_a_split_track_is_a_new_object_with_the_old_keyframes() -> None:
    first = track(7, {0: "a", 4: "b"}, index=3, ended={6: "x"})
    second = track(8, {6: "x", 8: "c"}, index=3)
    indices, heirs = settle([second, first], {OLD.key: known_as(OLD, 3)})
    assert indices == {first.key: 3, second.key: 20}
    assert heirs == {first.key: {0: OLD.key, 4: OLD.key}, second.key: {8: OLD.key}}


def test_the_later_part_of_a_split_track_may_be_numbered_by_hand() -> None:
    first, second = track(7, {0: "a"}, index=3, ended={4: "b"}), track(8, {4: "b", 8: "c"}, index=9)
    assert settle([first, second], {OLD.key: known_as(OLD, 3)})[0] == {first.key: 3, second.key: 9}


def test_a_track_in_three_parts_is_three_objects() -> None:
    parts = [
        track(7, {0: "a"}, index=3, ended={2: "x"}),
        track(8, {2: "x", 4: "b"}, index=3, ended={6: "y"}),
        track(9, {6: "y", 8: "c"}, index=3),
    ]
    assert list(settle(parts, {OLD.key: known_as(OLD, 3)})[0].values()) == [3, 20, 21]


def test_a_split_track_that_nobody_had_looked_at_is_two_objects() -> None:
    for index in (0, 3):
        first, second = track(7, {0: "a"}, index=index, ended={5: "x"}), track(8, {5: "x", 8: "c"}, index=index)
        indices, _ = settle([first, second], {})
        assert indices[first.key] == (index or 20)
        assert indices[second.key] not in (0, indices[first.key])


def test_the_first_part_of_a_split_track_is_known_by_the_cut_when_it_was_moved_too() -> None:
    first, second = track(7, {0: "moved", 4: "too"}, index=3, ended={6: "x"}), track(8, {6: "x", 8: "c"}, index=3)
    assert settle([first, second], {OLD.key: known_as(OLD, 3)})[0] == {first.key: 3, second.key: 20}


def test_the_part_that_is_left_of_a_split_track_is_the_object() -> None:
    second = track(8, {6: "x", 8: "c"}, index=3)
    assert settle([second], {OLD.key: known_as(OLD, 3)})[0] == {second.key: 3}


def test_merged_tracks_are_the_one_whose_attributes_were_kept() -> None:
    one, other = track(1, {0: "a"}, index=3, ended={2: "x"}), track(2, {4: "b", 8: "c"}, index=5)
    known = {one.key: known_as(one, 13), other.key: known_as(other, 15)}
    for clicked, index in ((3, 13), (5, 15)):
        merged = track(7, {0: "a", 4: "b", 8: "c"}, index=clicked)
        indices, heirs = settle([merged], known)
        assert indices == {merged.key: index}
        assert heirs == {merged.key: {0: one.key, 4: other.key, 8: other.key}}


def test_merged_halves_of_a_split_are_the_first_one_again() -> None:
    first, second = track(7, {0: "a"}, index=3, ended={4: "b"}), track(8, {4: "b", 8: "c"}, index=3)
    known = {first.key: known_as(first, 3), second.key: known_as(second, 20)}
    merged = track(9, {0: "a", 4: "b", 8: "c"}, index=3)
    assert settle([merged], known)[0] == {merged.key: 3}


def test_a_copy_of_an_object_that_is_there_is_nobodys_heir() -> None:
    copy = track(7, {4: "b"}, index=3)
    indices, heirs = settle([OLD, copy], {OLD.key: known_as(OLD, 3)})
    assert indices == {OLD.key: 3, copy.key: 20}
    assert not heirs


def test_no_keyframe_has_two_heirs() -> None:
    copies = [track(7, {0: "a", 4: "b"}, index=3), track(8, {4: "b", 8: "c"}, index=3)]
    indices, heirs = settle(copies, {OLD.key: known_as(OLD, 3)})
    assert sorted(place for places in heirs.values() for place in places) == [0, 4, 8]
    assert len(set(indices.values())) == 2


def test_of_two_equal_shapes_that_are_gone_the_one_of_the_class_is_restored() -> None:
    known = {"shape:1": KnownIdentity(1, 1, {0: "a"}, "person"), "shape:2": KnownIdentity(2, 2, {0: "a"}, "car")}
    again = shape(7, 0, "a", index=1, label="car")
    assert settle([again], known)[1] == {again.key: {0: "shape:2"}}


def test_a_shape_between_the_keyframes_of_a_track_corrects_it() -> None:
    known = {OLD.key: known_as(OLD, 3)}
    assert settle([OLD, shape(7, 6, "x", index=3)], known)[0]["shape:7"] == 3
    assert settle([OLD, shape(7, 4, "x", index=3)], known)[0]["shape:7"] == 20
    assert settle([OLD, track(7, {6: "x"}, index=3)], known)[0]["track:7"] == 20


def test_tracks_of_one_number_that_people_made_longer_until_they_met_are_two() -> None:
    one, other = track(1, {0: "a", 4: "b"}, index=3), track(2, {4: "c"}, index=3)
    known = {one.key: known_as(one, 3), other.key: known_as(other, 3)}
    assert settle([one, other], known)[0] == {one.key: 3, other.key: 20}


def test_an_edit_that_is_refused_stands_in_the_way_of_the_next() -> None:
    claims = [claim("a", 0, 8, {0}), claim("b", 1, 5, {0}), claim("c", 2, 8, {0})]
    known = {"a": KnownIdentity(5, 5), "b": KnownIdentity(9, 9), "c": KnownIdentity(8, 8)}
    assert resolve_identities(claims, known) == {"a": 5, "b": 9, "c": 8}


def test_a_number_that_only_fiftyone_showed_is_nobodys_to_type() -> None:
    part = track(8, {6: "x"}, index=3)
    other = shape(9, 0, "y", index=20)
    known = {part.key: KnownIdentity(20, 3, {6: "x"}, "car")}
    assert settle([part, other], known)[0] == {part.key: 20, other.key: 21}


def test_a_number_that_was_typed_where_it_is_shown_now_can_be_meant() -> None:
    known = {"shape:1": KnownIdentity(20, 0, {0: "a"}, "car")}
    shown, other = shape(1, 0, "a", index=20), shape(9, 4, "y", index=20)
    assert settle([shown, other], known)[0] == {shown.key: 20, other.key: 20}


def test_an_earlier_part_that_two_later_ones_were_cut_from_is_only_one_of_two_objects() -> None:
    gone = [track(1, {8: "c"}, index=0), track(2, {9: "d"}, index=0)]
    known = {gone[0].key: known_as(gone[0], 1), gone[1].key: known_as(gone[1], 2)}
    earlier = track(7, {0: "moved"}, ended={6: "x"})
    later = [track(8, {6: "x", 8: "c"}), track(9, {6: "x", 9: "d"})]
    assert settle([earlier, *later], known)[0] == {earlier.key: 1, later[0].key: 20, later[1].key: 2}


FRAMES = st.integers(0, 5)


@st.composite
def tracks_and_shapes(draw: st.DrawFn) -> list[Claim]:
    """What annotators may leave behind: few names, so that there are copies, parts and restored ones."""
    names = st.sampled_from("ab")
    claims = []
    for number in range(draw(st.integers(0, 8))):
        index, label = draw(st.integers(0, 3)), draw(st.sampled_from(["car", "person"]))
        if draw(st.booleans()):
            claims.append(shape(number, draw(FRAMES), draw(names), index=index, label=label))
        else:
            ended = draw(st.dictionaries(FRAMES, names, max_size=2))
            drawn = draw(st.dictionaries(FRAMES.filter(lambda f, e=ended: f not in e), names, min_size=1, max_size=3))
            claims.append(track(number, drawn, index=index, ended=ended, label=label))
    return claims


def places_of(claims: list[Claim], indices: Mapping[str, int]) -> list[tuple[int, int]]:
    return [(indices[c.key], frame) for c in claims for frame in c.keyframes]


@given(first=tracks_and_shapes(), second=tracks_and_shapes(), kept=st.sets(st.integers(0, 7)), data=st.data())
def test_whatever_people_do_no_two_objects_are_one(
    first: list[Claim], second: list[Claim], kept: set[int], data: st.DataObject
) -> None:
    before, _ = settle(first, {})
    known = {c.key: known_as(c, before[c.key]) for c in first}
    fresh = [
        Claim(c.key.replace(":", ":1"), c.order + 10, c.label, c.index, c.frames, c.drawn, c.ended) for c in second
    ]
    claims = [*(c for c in first if c.order in kept), *fresh]
    indices, heirs = settle(claims, known)
    assert indices.keys() == {c.key for c in claims}
    assert all(index >= 1 for index in indices.values())
    places = places_of(claims, indices)
    assert len(places) == len(set(places))
    # Who is known and unchanged stays who it is.
    assert all(indices[c.key] == before[c.key] for c in first if c.order in kept)
    inherited = [(old, place) for found in heirs.values() for place, old in found.items()]
    assert len(inherited) == len(set(inherited))
    assert not {old for old, _ in inherited} & indices.keys()
    # The order in which CVAT answers says nothing.
    shuffled = data.draw(st.permutations(claims))
    assert settle(shuffled, known) == (indices, heirs)
    # A second look changes nothing.
    again = {c.key: known_as(c, indices[c.key]) for c in claims}
    assert settle(claims, again) == (indices, {})


@given(claims=tracks_and_shapes(), edits=st.dictionaries(st.integers(0, 7), st.integers(0, 4)))
def test_an_edited_number_is_followed_or_the_object_keeps_its_own(claims: list[Claim], edits: dict[int, int]) -> None:
    before, _ = settle(claims, {})
    known = {c.key: known_as(c, before[c.key]) for c in claims}
    edited = [Claim(c.key, c.order, c.label, edits.get(c.order, c.index), c.frames, c.drawn, c.ended) for c in claims]
    indices, _ = settle(edited, known)
    places = places_of(edited, indices)
    assert len(places) == len(set(places))
    for found in edited:
        assert indices[found.key] in (found.index, before[found.key])
        if found.index in (0, known[found.key].claim):
            assert indices[found.key] == before[found.key]


@st.composite
def claim_lists(draw: st.DrawFn) -> list[Claim]:
    frames = st.frozensets(st.integers(0, 4), min_size=1)
    entries = draw(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("xy"), frames), max_size=8))
    return [Claim(f"k{n}", n, label, index, on) for n, (index, label, on) in enumerate(entries)]


@given(claims=claim_lists(), reserved=st.sets(st.integers(1, 4)), seed=st.integers(0, 99))
def test_no_index_stands_twice_on_a_frame_and_a_second_look_agrees(
    claims: list[Claim], reserved: set[int], seed: int
) -> None:
    indices = resolve_identities(claims, {}, reserved=reserved)
    assert indices.keys() == {c.key for c in claims}
    places = [(indices[c.key], frame) for c in claims for frame in c.frames]
    assert len(places) == len(set(places))
    assert all(index >= 1 and index not in reserved for index in indices.values())
    known = {c.key: KnownIdentity(indices[c.key], c.index) for c in claims}
    random.Random(seed).shuffle(claims)
    assert resolve_identities(claims, known, reserved=reserved) == indices


def test_a_track_is_visible_from_a_keyframe_to_the_next_outside() -> None:
    keyframes = [(2, False), (4, True), (6, False)]
    assert visible_frames(keyframes, range(8)) == {2, 3, 6, 7}


def keyframe(frame: int, *, outside: bool = False, by_person: bool = False) -> TrackKeyframe:
    return TrackKeyframe(frame, outside, by_person)


def test_an_object_that_a_person_ended_stays_away_until_a_person_brings_it_back() -> None:
    dense = [keyframe(frame) for frame in range(6)]
    dense[2] = keyframe(2, outside=True, by_person=True)
    assert ended_frames(dense) == {3, 4, 5}
    dense[4] = keyframe(4, by_person=True)
    assert ended_frames(dense) == {3}


def test_an_end_that_was_sent_along_hides_nothing_else() -> None:
    assert ended_frames([keyframe(0), keyframe(2, outside=True), keyframe(4)]) == frozenset()
