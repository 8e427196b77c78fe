"""Ten reviews one after the other: what nobody touches stays bit for bit, what is touched comes to rest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fixtures_review import EXEMPLARS, Media, Review, begin, cell_box, cell_outline

import labelprop_cvat  # noqa: F401 - registers the backend
from labelprop_cvat.backend.local_cvat import LocalCVAT

TOUCHED, UNTOUCHED = 2, 1
REVIEWS = 10


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(anonymous_rate=None) as running:
        yield running


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return Media.of(tmp_path_factory.mktemp("media"))


def ids(review: Review) -> dict[tuple[str, int], str]:
    """Ids of the labels of the touched object that no edit reaches."""
    return {
        (name, position): label_id
        for name, held in review.after.items()
        for (_, position, index), (label_id, _) in held.items()
        if index == TOUCHED and position in EXEMPLARS
    }


# Masks as polygons lose some of themselves on the way: what would drift, would drift there.
@pytest.mark.parametrize(("kind", "review_as"), [("instances", "polygons"), ("detections", None)])
def test_ten_reviews_without_drift(server: LocalCVAT, media: Media, kind: str, review_as: str | None) -> None:
    review = begin(server, media, "image", kind, review_as=review_as, max_rounds=2 * REVIEWS)
    started, kept = review.before, ids(review)
    sent = []
    for number in range(REVIEWS):
        with review.page() as page:
            track = page.track(UNTOUCHED)
            sent.append([(shape["frame"], shape["points"]) for shape in track["shapes"]])
            # A person who is never content, on the frame between two keyframes, and ever less so.
            right = REVIEWS - 1 - number
            draw = cell_outline if review_as else cell_box
            page.redraw(page.track(TOUCHED), [*draw(TOUCHED, 4, right)], 4)
        review.load()
        assert len(review.rounds) == 3 + number
        assert set(review.changed(review.label_field)) == {TOUCHED}
        assert review.changed(review.label_field)[TOUCHED] == {4}
        assert set(review.changed(review.output_field)) == {TOUCHED}
        assert review.changed(review.output_field)[TOUCHED] <= {4, 5}
        assert ids(review) == kept
    assert all(shapes == sent[0] for shapes in sent)
    x = review.label(review.label_field, 4, TOUCHED).bounding_box[0] * 128
    assert x == pytest.approx(cell_box(TOUCHED, 4)[0], abs=0.02)

    # Content at last: nothing goes out any more.
    last = review.after
    review.finish()
    review.load()
    assert review.after == last
    assert len(review.rounds) == 2 + REVIEWS
    review.check_settled()
    assert {place for name in last for place in last[name]} == {
        *(place for name in started for place in started[name]),
        ("", 4, TOUCHED),
    }
