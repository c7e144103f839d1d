"""Thresholds, rates, intervals, picture quality and identification, against independent oracles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from apf.guides.torch_recogniser import InputSpec, Recogniser, load_recogniser
from apf.research.evaluate.conditions import eight_bits
from apf.research.evaluate.identification import gallery, misidentified
from apf.research.evaluate.metrics import Rate, psnr, ssim, wilson
from apf.research.evaluate.targets import FALSE_ACCEPT_RATES, embed, pairs, target, targets
from apf.research.train.data import DataError
from apf.research.train.teachers import embeddings, half_precision
from tests.apf.research.evaluate import world


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # Newcombe 1998, table I, method 3 (Wilson without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_intervals(count: int, total: int, low: float, high: float) -> None:
    """Wilson's interval gives the figures of Newcombe's paper, and mirrored ones for the opposite share."""
    assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson(total - count, total) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(("count", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_no_interval_of_no_share(count: int, total: int) -> None:
    """Nobody at all, or more hits than people, is refused by value."""
    with pytest.raises(ValueError, match=f"{count} of {total}"):
        wilson(count, total)


def test_rate_counts() -> None:
    """Three of four is 75 percent, inside its interval."""
    rate = Rate.of(torch.tensor([True, False, True, True]))
    assert rate.percent == 75
    assert rate.low < 75 < rate.high


def test_thresholds_against_all_pairs() -> None:
    """A threshold lets through the wanted share of pairs of different people, counted one by one."""
    known = world.faces(count=60)
    found = world.corner(known)
    units = found.clean.double().numpy()
    impostors = sorted(
        float(units[i] @ units[j])
        for i in range(len(known))
        for j in range(i + 1, len(known))
        if known.people[i] != known.people[j]
    )
    for rate, threshold in zip(FALSE_ACCEPT_RATES, found.thresholds, strict=True):
        expected = impostors[round(len(impostors) * (1 - rate)) - 1]
        assert threshold == pytest.approx(expected, abs=1e-6)
        assert np.mean(np.array(impostors) > threshold + 1e-6) <= rate


def test_embeddings_are_kept_for_these_faces_alone(tmp_path: object) -> None:
    """Kept embeddings are used for the very faces they were made of, and made anew for others."""
    file = tmp_path / "kept" / "corner.pt"  # type: ignore[operator]
    known, other = world.faces(count=12), world.faces(count=13)
    calls = []

    class Counting(world.Corner):
        def forward(self, faces: Tensor) -> Tensor:
            calls.append(len(faces))
            return super().forward(faces)

    recogniser = Recogniser(Counting())
    first = target("corner", recogniser, known, trained_on=False, cache=file)
    again = target("corner", recogniser, known, trained_on=False, cache=file)
    assert sum(calls) == len(known)
    assert torch.equal(first.clean, again.clean)
    target("corner", recogniser, other, trained_on=False, cache=file)
    assert sum(calls) == len(known) + len(other)


def test_another_way_of_feeding_is_another_recogniser(tmp_path: Path) -> None:
    """What a recogniser said of clean faces is not used again once its mean, size or colours were mended."""
    folder = world.models(tmp_path)
    file = folder / "stranger.onnx"
    known = load_recogniser(file)
    assert known.key == load_recogniser(file, InputSpec()).key
    assert known.key != load_recogniser(file, InputSpec(channel_order="BGR")).key
    cache = folder / "kept"
    for spec in (InputSpec(), InputSpec(channel_order="BGR"), InputSpec()):
        model = load_recogniser(file, spec)
        found = embeddings({"stranger": model}, world.faces(), cache)["stranger"]
        with half_precision("cpu"):
            assert torch.equal(found, embed(model, world.faces().batch(torch.arange(24))))
    assert len(list(cache.iterdir())) == 2


def test_few_impostors_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """A threshold at 1 in 1,000 from fewer pairs than that is no firm one, and a warning says so."""
    world.corner(world.faces(count=4))
    assert any("too few for a firm threshold" in text for text in caplog.messages)


def test_thresholds_need_two_people() -> None:
    """Photos of one person alone give no threshold, and the message says so."""
    with pytest.raises(DataError, match="different people"):
        world.corner(world.faces(count=1))


def test_pairs_need_two_photos() -> None:
    """People with one photo each cannot be measured, and the message names the cure."""
    with pytest.raises(DataError, match="at least two photos"):
        pairs(world.faces(count=4, photos=1), 4)


def test_two_recognisers_of_one_name(tmp_path: object) -> None:
    """A further recogniser may not hide one of the list by its name."""
    folder = world.models(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="two recognisers are named 'stranger'"):
        targets(folder, [folder / "stranger.onnx"], world.faces())


def test_psnr_agrees_with_scikit_image(crops: Tensor) -> None:
    """PSNR is the mean over faces of scikit-image's, and has no value where nothing changed."""
    clean = eight_bits(crops[:3])
    seen = eight_bits(crops[:3] + torch.tensor([0.02, 0.05, -0.1])[:, None, None, None])
    each = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(clean.numpy(), seen.numpy(), strict=True)]
    assert psnr(clean, seen) == pytest.approx(np.mean(each))
    assert psnr(clean, clean) is None
    assert psnr(clean, torch.cat([seen[:1], clean[1:]])) == pytest.approx(each[0])


def test_ssim_falls_with_noise(crops: Tensor) -> None:
    """SSIM is 1 for the same face and falls as noise grows."""
    clean = crops[:3]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    values = [ssim(eight_bits(clean), eight_bits(clean + size * noise)) for size in (0, 0.02, 0.1)]
    assert values[0] == pytest.approx(1)
    assert values[0] > values[1] > values[2] > 0


def test_misidentified_is_whose_neighbour_is_another() -> None:
    """Somebody is identified as another when another's photo is strictly nearer than the own one."""
    known = torch.eye(4)  # two people, then two distractors
    queries = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.1, 0.3, 0.0, 0.9]])
    assert misidentified(queries, known).tolist() == [False, True]
    tie = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    assert misidentified(tie, known).tolist() == [False]


def test_gallery_has_everybody_once() -> None:
    """The gallery holds those who are looked for, in order, and one photo of each other person."""
    known = world.faces(count=6)
    found = world.corner(known)
    looked_for = pairs(known, 2)
    own = embed(found.recogniser, looked_for.gallery)
    rows = gallery(found, own, looked_for.people)
    assert rows.shape == (6, 12)
    assert torch.equal(rows[:2], own)
    assert torch.equal(rows[2:], found.clean[[4, 6, 8, 10]])
