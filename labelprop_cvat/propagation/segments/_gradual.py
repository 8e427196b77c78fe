"""Dissolves and fades: changes of shot that no two neighbouring frames show.

Of the last frames tiny pictures are kept, and windows of several lengths that end with the newest frame are looked at.
Only windows whose first and last picture have little in common are of interest. Then:

- in a *dissolve* every picture between is a mixture of the two, and mixing two unrelated pictures takes contrast away,
  down to 0.7 of theirs half-way. Motion, however fast, brings new pictures of the old contrast instead; motion blur and
  defocus take away detail rather than contrast; and a panning camera's pictures fit one on another when moved.
- in a *fade* the contrast between goes to nothing, whatever the colour of that nothing is.

The weights of the five measurements of a dissolve were fitted, as a logistic regression, on the 13 single shots of the
development data: on 300 dissolves of 5 to 26 frames between them (some in gray, small, dark, noisy, flickering or
letterboxed), against 232 films without any: the same shots at one to four times their speed, with frames dropped and
doubled, flicker, changes of exposure, defocus and passing objects, pans and zooms over their pictures and over noise.
Fitted on three quarters of the shots it found 95 % of the dissolves that have to do with the others, and one in 26 of
the films of those others: large objects that passed before the camera, zooms and pans over blurred pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from labelprop_cvat.propagation.frames import Image

Floats = npt.NDArray[np.float64]

METRICS = ("likeness", "contrast", "dissolve", "dissolve_back", "dissolve_length", "fade", "fade_back", "fade_length")

_LENGTHS = (8, 12, 16, 24, 36)
_SIZE = (32, 18)
_SHIFT_SIZE = (80, 45)
_UNLIT = 20
_UNLIKE = 0.5
_LEAST_CONTRAST = 8.0
_LARGEST_STEP = 0.4
# Two unrelated pictures mixed half and half keep 0.7 of their contrast, opposite ones less.
_DARKEST_MIX = 0.4
_BLANK = 0.25
# How much brighter than a mixture of the ends a picture may be.
_FLASH = 1.15

FADE_BAR = 1.0 - _BLANK


class GradualMeter:
    """Measures, frame by frame, whether a window that ends here goes gradually from one shot to another.

    ``likeness``: correlation of this picture with the one before, -1 to 1, blind to brightness; 1 for the first.
    ``contrast``: standard deviation of the picture, gray levels.
    ``dissolve`` and ``fade``: 0 to 1, of the window for which it is largest. ``*_back``: how many frames before this
    one the new shot begins, see :func:`gradual_cuts`. ``*_length``: how many frames before this one the window begins.
    """

    def __init__(self) -> None:
        count = max(_LENGTHS) + 1
        self._pictures = np.zeros((count, _SIZE[0] * _SIZE[1] * 3), np.float32)
        self._grays = np.zeros((count, _SHIFT_SIZE[1], _SHIFT_SIZE[0]), np.float32)
        self._details = np.zeros(count)
        self._means = np.zeros(count)
        self._products = np.zeros((count, count))
        self._shifts: list[tuple[float, float] | None] = [None] * count
        self._lit = np.ones(self._pictures.shape[1], np.float32)
        self._window = np.asarray(cv2.createHanningWindow(_SHIFT_SIZE, cv2.CV_32F), np.float32)
        self._known = 0

    def measure(self, thumbnail: Image) -> dict[str, float]:
        """Takes the next frame as a thumbnail of 160x90 pixels, uint8, RGB."""
        self._push(thumbnail)
        measured = dict.fromkeys(METRICS, 0.0)
        measured["likeness"] = self._likeness(2) if self._known > 1 else 1.0
        measured["contrast"] = math.sqrt(max(0.0, self._products[-1, -1]))
        for length in _LENGTHS:
            if self._known <= length:
                break
            contrast = math.sqrt(min(self._products[-1, -1], self._products[-1 - length, -1 - length]))
            if contrast < _LEAST_CONTRAST or self._likeness(length + 1) >= _UNLIKE:
                continue
            kept = slice(-1 - length, None)
            window = _Window.of(self._products[kept, kept], self._details[kept], self._means[kept])
            self._weigh(window, length, measured)
        return measured

    def _push(self, thumbnail: Image) -> None:
        picture = cv2.resize(thumbnail, _SIZE, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
        gray = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
        for kept in (self._pictures, self._grays, self._details, self._means):
            kept[:-1] = kept[1:]
        self._pictures[-1] = picture
        self._grays[-1] = cv2.resize(gray, _SHIFT_SIZE, interpolation=cv2.INTER_AREA)
        self._details[-1] = cv2.absdiff(gray[1:], gray[:-1]).mean() + cv2.absdiff(gray[:, 1:], gray[:, :-1]).mean()
        self._means[-1] = gray.mean()
        self._shifts = [*self._shifts[1:], None]
        self._known = min(self._known + 1, len(self._pictures))
        lit = self._lit_parts()
        if np.array_equal(lit, self._lit):
            self._products[:-1, :-1] = self._products[1:, 1:]
            self._products[-1] = self._products[:, -1] = self._against(self._pictures[-1:])[:, 0]
        else:
            self._lit = lit
            self._products = self._against(self._pictures)

    def _lit_parts(self) -> npt.NDArray[np.float32]:
        """1 where any picture shows something, 0 in the bars of a letterbox: bars would make all pictures alike."""
        brightest = self._pictures[-self._known :].max(0).reshape(_SIZE[1], _SIZE[0], 3).max(2)
        lit = (brightest >= _UNLIT).astype(np.uint8)
        if not lit.all():
            # Of a cell on the edge a part belongs to the bar.
            lit = cv2.erode(lit, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
        if lit.mean() < 0.1:
            lit[:] = 1
        return np.repeat(lit.ravel(), 3).astype(np.float32)

    def _against(self, pictures: npt.NDArray[np.float32]) -> Floats:
        """Covariances of all pictures with some: array of shape ``(kept, some)``, in squared gray levels."""
        count = float(self._lit.sum())
        centred = [(each - (each @ self._lit / count)[:, None]) * self._lit for each in (self._pictures, pictures)]
        return np.asarray(centred[0] @ centred[1].T, np.float64) / count

    def _likeness(self, back: int) -> float:
        products = self._products
        norm = math.sqrt(products[-1, -1] * products[-back, -back])
        return float(products[-1, -back] / (norm + 1.0))

    def _weigh(self, window: _Window, length: int, measured: dict[str, float]) -> None:
        if 1.0 - window.darkest > measured["fade"]:
            measured["fade"] = 1.0 - window.darkest
            measured["fade_back"] = length - window.blank
            measured["fade_length"] = length
        if window.dip < _DARKEST_MIX or window.step > _LARGEST_STEP:
            return
        score = window.score(0.0)
        if score > max(measured["dissolve"], 0.05):
            # What shifting explains takes time to find out and only ever lowers the score.
            score = window.score(self._explained_by_shifts(length))
        if score > measured["dissolve"]:
            measured["dissolve"] = score
            measured["dissolve_back"] = length - window.middle
            measured["dissolve_length"] = length

    def _explained_by_shifts(self, length: int) -> float:
        """The share of all changes from frame to frame that one movement of the whole picture accounts for."""
        plain = shifted = 0.5 * length
        for index in range(len(self._grays) - length, len(self._grays)):
            known = self._shifts[index]
            if known is None:
                known = _change(self._grays[index - 1], self._grays[index], self._window)
                self._shifts[index] = known
            plain += known[0]
            shifted += known[1]
        return 1.0 - shifted / plain


@dataclass(frozen=True)
class _Window:
    """Some pictures in a row, the first and last of which differ.

    Args:
        residual: mean share of the pictures between that no mixture of the ends explains
        dip: lowest contrast between, as a share of what the ends' contrasts let expect
        detail: the same of the differences between neighbouring pixels
        step: largest part of the way from end to end that is gone from one picture to the next
        middle: index of the first picture that has more of the last than of the first
        darkest: lowest contrast between, as a share of the ends' smaller one
        blank: index of the middle of the pictures that have less than twice the lowest contrast
    """

    residual: float
    dip: float
    detail: float
    step: float
    middle: int
    darkest: float
    blank: int

    @classmethod
    def of(cls, products: Floats, details: Floats, means: Floats) -> _Window:
        """Looks at covariances, ``(n, n)``, and mean differences of neighbouring pixels and mean grays, ``(n,)``."""
        own = np.diag(products)
        contrast = np.sqrt(own.clip(0))
        first, last = products[0], products[-1]
        distance = own[0] - 2 * products[0, -1] + own[-1] + 1e-3
        way = (last - first - products[0, -1] + own[0]) / distance
        residual = ((own - 2 * first + own[0]) / distance - way**2).clip(0)
        share = way.clip(0, 1)
        # A mixture is as bright as its parts; a picture that is not is one in another light, which takes contrast too.
        light = (means + 1.0) / ((1 - share) * means[0] + share * means[-1] + 1.0)
        # In a flash, what is bright loses its contrast: those pictures say nothing.
        dim = light[1:-1] <= _FLASH
        light = light.clip(0.5, 1.0)
        expected = light * ((1 - share) * contrast[0] + share * contrast[-1]) + 1.0
        expected_detail = light * ((1 - share) * details[0] + share * details[-1]) + 0.5
        between = slice(1, -1)
        blank = np.flatnonzero(contrast <= 2 * contrast[between].min() + 1e-6)
        return cls(
            residual=float(residual[between].mean()),
            dip=_lowest((contrast / expected)[between], dim),
            detail=_lowest((details / expected_detail)[between], dim),
            step=float(np.diff(way).max()),
            middle=int(np.argmax(way >= 0.5)),
            darkest=float(contrast[between].min() / min(contrast[0], contrast[-1])),
            blank=math.ceil((int(blank[0]) + int(blank[-1])) / 2),
        )

    def score(self, shifts: float) -> float:
        """How likely this is a dissolve; ``shifts``: share of the changes that moving the picture explains."""
        weighed = (
            20.6
            - 1.0 * math.log(max(self.residual, 1e-3))
            - 34.0 * min(self.dip, 1.2)
            + 10.4 * min(self.detail, 1.2)
            - 20.7 * self.step
            - 8.7 * shifts
        )
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, weighed))))


def _lowest(values: Floats, which: npt.NDArray[np.bool_]) -> float:
    return float(values[which].min()) if which.any() else 1.0


def _change(
    before: npt.NDArray[np.float32], after: npt.NDArray[np.float32], window: npt.NDArray[np.float32]
) -> tuple[float, float]:
    """Mean squared differences of two gray pictures as they are, and when one is moved to fit the other best."""
    before, after = before - before.mean(), after - after.mean()
    (dx, dy), _ = cv2.phaseCorrelate(before, after, window)
    height, width = after.shape
    rows, columns = math.ceil(abs(dy)), math.ceil(abs(dx))
    if rows >= height // 2 or columns >= width // 2:
        return 0.0, 0.0
    moved = cv2.warpAffine(before, np.array([[1, 0, dx], [0, 1, dy]], np.float32), (width, height))
    part = np.s_[rows : height - rows, columns : width - columns]
    plain = float(((after[part] - before[part]) ** 2).mean())
    return plain, min(plain, float(((after[part] - moved[part]) ** 2).mean()))


def gradual_cuts(scores: Mapping[str, Floats], bar: float, hard: Sequence[int]) -> list[int]:
    """Hard cuts and gradual ones together.

    The cut of a dissolve is the first frame that has more of the new shot than of the old. The cut of a fade is the
    middle of its blank frames, the later one of two; where a hard cut ends or begins the blank, as when a shot fades
    out and the next one is there at once, it is that.

    Args:
        scores: what :class:`GradualMeter` measured, per metric an array of shape ``(n,)``
        bar: what ``dissolve`` must exceed
        hard: 0-based cuts found otherwise

    Returns:
        0-based first frames of new shots, ascending
    """
    cuts = list(hard)
    for _, _, cut in _apart(scores, "fade", FADE_BAR, ()):
        start, stop = _reach(scores["contrast"], cut)
        inside = [known for known in cuts if start < known <= stop]
        if len(inside) != 1:
            cuts = [known for known in cuts if known not in inside] + [cut]
    return sorted(cuts + [cut for _, _, cut in _apart(scores, "dissolve", bar, cuts)])


def _apart(scores: Mapping[str, Floats], kind: str, bar: float, taken: Sequence[int]) -> list[tuple[int, int, int]]:
    """First frame, last frame and cut of windows above the bar: the best of each heap, and none with a known cut."""
    found: list[tuple[int, int, int]] = []
    score = scores[kind]
    above = np.flatnonzero(score > bar)
    for index in above[np.argsort(-score[above], kind="stable")]:
        stop = int(index)
        start, cut = stop - int(scores[f"{kind}_length"][stop]), stop - int(scores[f"{kind}_back"][stop])
        if any(start < known <= stop for known in taken):
            continue
        if not any(first <= cut <= last or start <= known <= stop for first, last, known in found):
            found.append((start, stop, cut))
    return found


def _reach(contrast: Floats, cut: int) -> tuple[int, int]:
    """The last frame before a fade and the first one after it, as far as contrast shows it."""
    before, after = contrast[max(0, cut - max(_LENGTHS)) : cut], contrast[cut : cut + max(_LENGTHS)]
    start = cut - len(before) + int(np.flatnonzero(before >= 0.7 * before.max())[-1])
    return start, cut + int(np.flatnonzero(after >= 0.7 * after.max())[0])


__all__ = ["FADE_BAR", "METRICS", "GradualMeter", "gradual_cuts"]
