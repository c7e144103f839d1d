"""Which photos the page shows, and how anybody's text reads there."""

from __future__ import annotations

import pytest

from workers.core.records import Outcome, PhotoReport
from workers.report.card import Card, FaceCard, legible
from workers.report.selection import measured, shown


def reports(*outcomes: str) -> list[PhotoReport]:
    return [PhotoReport(key=f"{i}", etag="e", outcome=Outcome(outcome)) for i, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Ägypten 2024/été.jpg", "Ägypten 2024/été.jpg"),
        ("日本 👋.jpg", "日本 👋.jpg"),
        ("a\nb\0c\x7f", r"a\u{a}b\u{0}c\u{7f}"),
        ("gpj.\u202eexe", r"gpj.\u{202e}exe"),
        ("a\u200bb\u2066c\ufeff", r"a\u{200b}b\u{2066}c\u{feff}"),
        ("half \ud800", r"half \u{d800}"),
        ("two\u2028lines", r"two\u{2028}lines"),
    ],
)
def test_what_cannot_be_seen_is_spelt_out(text: str, read: str) -> None:
    """Letters of all languages stay; what hides, breaks or turns text around is shown as its number."""
    assert legible(text) == read
    assert legible(text).encode()


def test_failed_photos_come_before_all_others_and_stay_in_order() -> None:
    """With room for three of five, the two that failed are among them, and keys ascend."""
    found = reports("protected", "protected", "failed", "no_face", "failed")
    assert [report.key for report in shown(found, 3)] == ["0", "2", "4"]
    assert [report.key for report in shown(found, 1)] == ["2"]
    assert shown(found, 10) == found
    assert shown([], 10) == []


def test_a_sample_is_spread_evenly_over_photos_with_faces() -> None:
    """Photos that failed or have no face are not measured, and take no place from those that are."""
    found = reports("failed", "protected", "skipped", "no_face", "protected", "protected")
    assert measured(found, 10) == {"1", "2", "4", "5"}
    assert measured(found, 2) == {"1", "4"}
    assert measured(found, 0) == frozenset()
    assert measured([], 5) == frozenset()


def test_a_photo_counts_as_its_least_protected_face() -> None:
    """The highest similarity stands for the photo; without one there is none."""
    box = (0.0, 0.0, 1.0, 1.0)
    assert Card("a", "protected", faces=(FaceCard(box, 0.1), FaceCard(box, 0.7), FaceCard(box))).similarity == 0.7
    assert Card("a", "protected", faces=(FaceCard(box),)).similarity is None
