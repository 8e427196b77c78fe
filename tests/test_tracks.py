"""Which CVAT objects are one object."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labelprop_cvat.backend.tracks import Claim, KnownIdentity, resolve_identities, visible_frames


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


@st.composite
def claim_lists(draw: st.DrawFn) -> list[Claim]:
    frames = st.frozensets(st.integers(0, 4), min_size=1)
    entries = draw(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("xy"), frames), max_size=8))
    return [Claim(f"k{n}", n, label, index, on) for n, (index, label, on) in enumerate(entries)]


@given(claims=claim_lists(), reserved=st.sets(st.integers(1, 4)))
def test_no_index_stands_twice_on_a_frame_and_a_second_look_agrees(claims: list[Claim], reserved: set[int]) -> None:
    indices = resolve_identities(claims, {}, reserved=reserved)
    assert indices.keys() == {c.key for c in claims}
    places = [(indices[c.key], frame) for c in claims for frame in c.frames]
    assert len(places) == len(set(places))
    assert all(index >= 1 and index not in reserved for index in indices.values())
    known = {c.key: KnownIdentity(indices[c.key], c.index) for c in claims}
    assert resolve_identities(claims, known, reserved=reserved) == indices


def test_a_track_is_visible_from_a_keyframe_to_the_next_outside() -> None:
    keyframes = [(2, False), (4, True), (6, False)]
    assert visible_frames(keyframes, range(8)) == {2, 3, 6, 7}
