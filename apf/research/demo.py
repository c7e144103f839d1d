"""The demo's two ends: `collect` gathers photos, `picture` shows them before and after.

python -m apf.research.demo collect IN [--photos FOLDER]
python -m apf.research.demo picture IN OUT PICTURE.png
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from apf.errors import PhotoError
from apf.faces.alignment import CROP, Face, Float32, align, alignment
from apf.photo import decode, looks_like_photo
from apf.protect.quality import GAIN, Comparison, Eyes, compare, difference
from apf.protect.viewer import CpuEyes
from apf.recipe import load_recipe

MAX_PHOTOS, MAX_FACES = 12, 7

# All in pixels of the picture.
WIDTH, MARGIN, GAP = 1800, 36, 18
PANEL_WIDTH = (WIDTH - 2 * MARGIN - 2 * GAP) // 3
PANEL_HEIGHT = 460
HEAD_HEIGHT, CAPTION_HEIGHT, ROW_GAP = 96, 64, 40
FACE_LABEL_HEIGHT = 30

BACKGROUND, INK, FAINT, BOX = (250, 250, 248), (28, 30, 34), (110, 114, 120), (255, 196, 0)


def collect(folder: Path, photos: Path | None = None) -> list[Path]:
    """Put the demo's photos into a new folder: six people, an astronaut, and the user's own under `photos/`.

    The user's files are linked where the file system can, else copied; hidden folders and other files are left out,
    and so is what lies beside `folder`: it is an earlier run's.

    Raises:
        FileNotFoundError: `photos` is no folder, or holds no photo; or a package with a sample is not installed.
    """
    own = {path.relative_to(photos): path for path in _own_photos(photos, apart=folder.parent)} if photos else {}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_sample("insightface", "data/images/t1.jpg"), folder / "six-people.jpg")
    with Image.open(_sample("skimage", "data/astronaut.png")) as portrait:
        portrait.save(folder / "astronaut.jpg", quality=95)
    for name, path in own.items():
        target = folder / "photos" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(path, target)
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _sample(package: str, inside: str) -> Path:
    # Found, not imported: what its code needs is not installed (infra/setup.sh demo).
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"one of the demo's photos comes with {package}, which is not installed: make demo")
    return Path(spec.origin).parent / inside


def _own_photos(folder: Path, *, apart: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"PHOTOS={folder} is no folder: name one that holds photos")
    found = [path for path in _visible_files(folder) if apart.resolve() not in path.parents and _is_photo(path)]
    if not found:
        raise FileNotFoundError(f"PHOTOS={folder} holds no photo (JPEG, PNG, WebP, HEIC, AVIF or TIFF)")
    return found


def _visible_files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _is_photo(path: Path) -> bool:
    if not path.is_file():  # a broken link, a pipe
        return False
    with path.open("rb") as file:
        return looks_like_photo(file.read(4096))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def draw(comparisons: Sequence[Comparison], recipe: str) -> Image.Image:
    """One picture, WIDTH pixels wide: for each photo a row of three panels, and its faces one by one."""
    rows = [_row(comparison) for comparison in comparisons]
    height = HEAD_HEIGHT + sum(row.height + ROW_GAP for row in rows) + MARGIN - ROW_GAP
    picture = Image.new("RGB", (WIDTH, height), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for column, title in enumerate(("before", "after", f"difference, times {GAIN}")):
        pen.text((_column(column), HEAD_HEIGHT - 46), title, INK, font=_font(26))
    pen.text((WIDTH - MARGIN, 18), f"recipe {recipe}", FAINT, font=_font(20), anchor="ra")
    y = HEAD_HEIGHT
    for row in rows:
        picture.paste(row, (0, y))
        y += row.height + ROW_GAP
    return picture


def _row(comparison: Comparison) -> Image.Image:
    images = (comparison.before, comparison.after, difference(comparison.before, comparison.after))
    height, width = comparison.before.shape[:2]
    scale = min(PANEL_WIDTH / width, PANEL_HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    panels = [Image.fromarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)) for image in images]
    _draw_boxes(panels[0], comparison.faces, scale)
    strip = _face_strip(comparison)
    strip_height = strip.height + GAP if strip else 0
    row = Image.new("RGB", (WIDTH, size[1] + CAPTION_HEIGHT + strip_height), BACKGROUND)
    for column, panel in enumerate(panels):
        row.paste(panel, (_column(column), 0))
    pen = ImageDraw.Draw(row)
    pen.text((MARGIN, size[1] + 10), comparison.name, INK, font=_font(22))
    pen.text((MARGIN, size[1] + 36), comparison.caption, FAINT, font=_font(20))
    if strip:
        row.paste(strip, (MARGIN, size[1] + CAPTION_HEIGHT + GAP))
    return row


def _draw_boxes(panel: Image.Image, faces: Sequence[Face], scale: float) -> None:
    pen = ImageDraw.Draw(panel)
    for number, face in enumerate(faces, start=1):
        x1, y1, x2, y2 = (edge * scale for edge in face.box)
        pen.rectangle((x1, y1, x2, y2), outline=BOX, width=3)
        pen.text((x1 + 1, y1 - 4), str(number), BOX, font=_font(20), anchor="ld", stroke_width=2, stroke_fill=INK)


def _face_strip(comparison: Comparison) -> Image.Image | None:
    """Return the largest faces, before and after side by side, each with its number and similarity."""
    if not comparison.faces:
        return None
    largest = sorted(range(len(comparison.faces)), key=lambda i: -_area(comparison.faces[i]))[:MAX_FACES]
    strip = Image.new("RGB", (WIDTH - 2 * MARGIN, CROP + FACE_LABEL_HEIGHT), BACKGROUND)
    pen = ImageDraw.Draw(strip)
    for place, i in enumerate(sorted(largest)):
        x = place * (2 * CROP + GAP)
        matrix = alignment(comparison.faces[i].landmarks)
        for side, pixels in enumerate((comparison.before, comparison.after)):
            strip.paste(_thumbnail(align(pixels, matrix)), (x + side * CROP, 0))
        label = f"{i + 1}   similarity {comparison.similarities[i]:.2f}"
        pen.text((x, CROP + 5), label, INK, font=_font(18))
    return strip


def _thumbnail(crop: Float32) -> Image.Image:
    pixels: NDArray[np.uint8] = np.rint(crop.transpose(1, 2, 0) * 255).astype(np.uint8)
    return Image.fromarray(pixels)


def _area(face: Face) -> float:
    x1, y1, x2, y2 = face.box
    return (x2 - x1) * (y2 - y1)


def _column(index: int) -> int:
    return MARGIN + index * (PANEL_WIDTH + GAP)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def load_eyes(name: str) -> tuple[Eyes, str]:
    """Return what looks at the photos, and a line that names the recipe."""
    recipe = load_recipe(name)
    eyes = CpuEyes(recipe)
    return eyes, f"{recipe.name}; similarity as {eyes.name} has it"


def load(inputs: Path, outputs: Path, eyes: Eyes) -> Iterator[Comparison]:
    """Compare photo by photo; one that has no output, because it was refused, is named on stderr and left out."""
    for path in sorted(path for path in inputs.rglob("*") if path.is_file()):
        name = path.relative_to(inputs).as_posix()
        try:
            before, after = decode(path.read_bytes()), decode((outputs / name).read_bytes())
        except (PhotoError, FileNotFoundError) as error:
            print(f"not shown: {name} ({error})", file=sys.stderr)
            continue
        yield compare(name, before, after, eyes.detector.detect([before.pixels])[0], eyes.embedding)


def picture(inputs: Path, outputs: Path, target: Path, recipe: str = "standard") -> int:
    """Draw and describe the first MAX_PHOTOS photos of a folder that have an output; returns how many they are."""
    eyes, title = load_eyes(recipe)
    shown: list[Comparison] = []
    for comparison in load(inputs, outputs, eyes):
        shown.append(comparison)
        if len(shown) == MAX_PHOTOS:
            print(f"the picture shows the first {MAX_PHOTOS} photos", file=sys.stderr)
            break
    if not shown:
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    draw(shown, title).save(target)
    _print_table(shown)
    print(target.resolve())
    return len(shown)


def _print_table(comparisons: Sequence[Comparison]) -> None:
    print(f"{'photo':<36} {'size':>11} {'faces':>5} {'PSNR dB':>8}  similarity of each face to itself")
    for one in comparisons:
        height, width = one.before.shape[:2]
        psnr = f"{one.psnr_db:.1f}" if one.faces else "-"
        similarities = " ".join(f"{value:.2f}" for value in one.similarities) or "-"
        print(f"{one.name[-36:]:<36} {f'{width}x{height}':>11} {len(one.faces):>5} {psnr:>8}  {similarities}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands; the exit status is 2 where there is nothing to show."""
    parser = argparse.ArgumentParser(prog="python -m apf.research.demo", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    gather = commands.add_parser("collect", help="gather the demo's photos in a folder")
    gather.add_argument("folder", type=Path)
    gather.add_argument("--photos", type=Path, help="a folder of your own")
    show = commands.add_parser("picture", help="draw the photos of two folders, before and after")
    show.add_argument("inputs", type=Path)
    show.add_argument("outputs", type=Path)
    show.add_argument("target", type=Path)
    show.add_argument("--recipe", default="standard", help="the recipe that the outputs were made with")
    options = parser.parse_args(arguments)
    if options.command == "picture":
        if picture(options.inputs, options.outputs, options.target, options.recipe):
            return 0
        print(f"{options.outputs} holds none of the photos of {options.inputs}: protect them first", file=sys.stderr)
        return 2
    try:
        photos = options.photos.expanduser() if options.photos else None
        print(f"{len(collect(options.folder, photos))} photos in {options.folder}")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
