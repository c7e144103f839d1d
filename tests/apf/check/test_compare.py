"""What a recogniser says of protected faces, on faces whose embeddings are chosen by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from apf.check.compare import CleanFace, ProtectedFace, Verdict, match_faces
from apf.check.marks import LEAST_PAIRS, Marks, estimated
from apf.check.recognisers import Recogniser


def face(*vector: float) -> np.ndarray:
    """A crop whose first values are its embedding."""
    crop = np.zeros((3, 112, 112), np.float32)
    crop.ravel()[: len(vector)] = vector
    return crop


def recogniser(marks: Marks | None = None) -> Recogniser:
    return Recogniser("by hand", lambda crop: crop.ravel()[:3].copy(), marks)


CLEAN = [
    CleanFace("a.jpg", "1", "ann", face(1, 0, 0)),
    CleanFace("b.jpg", "2", "ann", face(0.9, 0.1, 0)),
    CleanFace("c.jpg", "3", "ann", face(0.6, 0.8, 0)),
    CleanFace("copy of a.jpg", "1", "ann", face(1, 0, 0)),
    CleanFace("a.jpg", "1", "bob", face(0, 0, 1)),
]


def test_a_face_is_compared_with_the_persons_other_photos_and_with_no_copy_of_its_own() -> None:
    """Neither its own original counts, nor the same bytes under another name, nor another person."""
    said = match_faces(
        recogniser(Marks(0.5, 0.7, "known")), CLEAN, [ProtectedFace("a.jpg", "ann", face(0.5, 1, 0), 0)]
    ).said[0]
    assert said.others == (1, 2)
    expected = [np.dot((0.5, 1), one) / np.hypot(0.5, 1) / np.hypot(*one) for one in ((0.9, 0.1), (0.6, 0.8))]
    assert said.cosines == pytest.approx(expected)
    assert (said.matched, said.matched_strictly, said.matched_before) == (2, 1, 2)
    assert said.verdict is Verdict.matched


@pytest.mark.parametrize(
    ("vector", "verdict"),
    [((0, 0, 1), Verdict.hidden), ((0.1, 1, 0.8), Verdict.partly), ((1, 0.2, 0), Verdict.matched)],
)
def test_the_verdict_follows_how_many_photos_are_matched(vector: Sequence[float], verdict: Verdict) -> None:
    """None is hidden, at most half partly, more is matched."""
    found = match_faces(recogniser(Marks(0.5, None, "given")), CLEAN, [ProtectedFace("a.jpg", "ann", face(*vector), 0)])
    assert found.said[0].verdict is verdict
    assert found.said[0].matched_strictly is None


def test_a_face_without_other_photos_is_alone_and_one_without_a_mark_is_unknown() -> None:
    """Neither is called hidden."""
    bob = match_faces(
        recogniser(Marks(0.5, None, "given")), CLEAN, [ProtectedFace("a.jpg", "bob", face(1, 0, 0), 4)]
    ).said[0]
    ann = match_faces(recogniser(), CLEAN, [ProtectedFace("a.jpg", "ann", face(0, 0, 1), 0)]).said[0]
    assert (bob.verdict, ann.verdict, ann.matched) == (Verdict.alone, Verdict.unknown, None)


def test_protected_photos_of_one_person_are_compared_with_each_other() -> None:
    """Two photos of a person make one pair, faces of one photo none."""
    protected = [ProtectedFace(f"{name}.jpg", "ann", face(0, 1, 0)) for name in "abb"]
    found = match_faces(recogniser(Marks(0.5, None, "given")), CLEAN, protected)
    assert (found.together, found.together_matched) == (2, 2)


def test_a_mark_is_estimated_so_that_one_pair_of_strangers_in_a_hundred_reaches_it() -> None:
    """By counting, of a thousand pairs ten reach the usual mark, and one the strict one."""
    cosines = np.random.default_rng(0).permutation(np.linspace(-0.5, 0.499, 1000)).astype(np.float32)
    marks = estimated(cosines)
    assert marks and marks.strict
    assert ((cosines >= marks.usual).sum(), (cosines >= marks.strict).sum()) == (10, 1)
    assert (marks.origin, marks.pairs, marks.rough) == ("estimated", 1000, False)


def test_few_pairs_of_strangers_give_a_rough_mark_that_none_reaches_and_next_to_none_give_nothing() -> None:
    """The user is told, rather than given a number that looks firm."""
    cosines = np.linspace(0, 0.4, 30, dtype=np.float32)
    marks = estimated(cosines)
    assert marks and marks.rough and marks.strict is None
    assert marks.usual == pytest.approx(0.4) and not (cosines >= marks.usual).any()
    assert estimated(cosines[: LEAST_PAIRS - 1]) is None


def test_marks_of_an_unknown_recogniser_come_from_the_users_own_strangers() -> None:
    """Ten people with a photo each make 45 pairs of strangers."""
    rng = np.random.default_rng(1)
    clean = [CleanFace(f"{i}.jpg", str(i), str(i), face(*rng.normal(size=3))) for i in range(10)]
    found = match_faces(recogniser(), clean, [])
    assert found.marks and (found.marks.origin, found.marks.pairs) == ("estimated", 45)
