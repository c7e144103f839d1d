"""Photos and their files in folders: what the commands of private mode read and write."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from apf.errors import PathError, PrivateFileError
from apf.photo import looks_like_photo
from apf.private.device import Device
from apf.private.files import SUFFIX, Gradients, Perturbations
from apf.published import Outcome

#: Leading bytes that tell whether a file is a photo.
_HEAD = 64


@dataclass(frozen=True)
class Source:
    """A photo on this device."""

    path: Path
    #: Below the folder that was named, or the file's own name.
    relative: Path


@dataclass(frozen=True)
class Turn:
    """What became of one photo."""

    photo: str
    #: "skipped": it was there already; "failed": nothing was written.
    outcome: Outcome | str
    faces: int = 0
    #: Where the result is; None where there is none.
    written: Path | None = None
    reason: str = ""


def photos_in(paths: Sequence[Path]) -> list[Source]:
    """The photos that were named, and all that folders hold, told by their bytes; each once.

    Raises:
        PathError: a path is not there, or no photo is.
    """
    found = {source.path.resolve(): source for path in paths for source in _photos_at(path)}
    if not found:
        raise PathError(f"no photo in {', '.join(map(str, paths))}: name photos, or folders that hold some")
    return list(found.values())


def check_distinct(sources: Sequence[Source]) -> None:
    """Raises PathError where two photos from different folders would be written under one name."""
    seen: dict[Path, Path] = {}
    for source in sources:
        if (other := seen.setdefault(source.relative, source.path)) != source.path:
            raise PathError(
                f"{other} and {source.path} would both become {source.relative}: do them one after the other, "
                "to different places"
            )


def write_gradients(source: Source, folder: Path, device: Device, *, names: bool) -> Turn:
    """Writes a photo's gradient file into a folder, if it is not there already.

    Args:
        names: name the file after the photo, and have it say so; else after the photo's id.

    Raises:
        PhotoError: the photo cannot be protected.
        OSError: a file cannot be read or written.
    """
    data = source.path.read_bytes()
    file_id = device.photo_id(data)
    name = source.relative.as_posix() if names else ""
    path = folder / f"{name or file_id}{SUFFIX}"
    known = _known(path)
    if known and known.id == file_id and known.name == name and device.is_current(known):
        return Turn(str(source.path), "skipped", known.faces, path)
    made = device.gradients(data, name=name)
    write_whole(path, made.encode())
    return Turn(str(source.path), "protected" if made.faces else "no_face", made.faces, path)


def protect_alone(source: Source, out: Path, device: Device) -> Turn:
    """Writes the photo protected without a server; raises as `apply_answer`."""
    _check_apart(source, out)
    protected = device.alone(source.path.read_bytes())
    write_whole(out, protected.data)
    return Turn(str(source.path), protected.outcome, len(protected.faces), out)


def apply_answer(source: Source, answers: Path, out: Path, device: Device, *, accept_weak: bool) -> Turn:
    """Writes the protected photo.

    Args:
        answers: the perturbation file, or a folder of such, by id or by the photo's name.
        out: the file to write.

    Raises:
        PhotoError: the photo cannot be protected, or the answer is not for it.
        PathError: there is no answer for it, or `out` is a photo that was given.
        OSError: a file cannot be read or written.
    """
    _check_apart(source, out)
    data = source.path.read_bytes()
    answer = Perturbations.decode(_answer(source, answers, device.photo_id(data)).read_bytes())
    protected = device.apply(data, answer, accept_weak=accept_weak)
    write_whole(out, protected.data)
    return Turn(str(source.path), protected.outcome, len(protected.faces), out)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that nobody ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _check_apart(source: Source, out: Path) -> None:
    if out.exists() and out.samefile(source.path):
        raise PathError(f"{out} is the photo itself: give another place with -o")


def _photos_at(path: Path) -> Iterator[Source]:
    if path.is_file():
        yield Source(path, Path(path.name))
    elif path.is_dir():
        files = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
        yield from (Source(file, file.relative_to(path)) for file in files if _is_photo(file))
    else:
        raise PathError(f"{path} is not there: name a photo, or a folder of photos")


def _is_photo(path: Path) -> bool:
    with path.open("rb") as file:
        return looks_like_photo(file.read(_HEAD))


def _known(path: Path) -> Gradients | None:
    """The gradient file of an earlier run; None where there is none that can be read."""
    try:
        return Gradients.decode(path.read_bytes())
    except (OSError, PrivateFileError):
        return None


def _answer(source: Source, answers: Path, file_id: str) -> Path:
    if answers.is_file():
        return answers
    names = (f"{file_id}{SUFFIX}", f"{source.relative.as_posix()}{SUFFIX}")
    for path in (answers / name for name in names):
        if path.is_file():
            return path
    raise PathError(
        f"no perturbation in {answers} for it, {names[0]}: fetch it once the queue is done, or give the device key "
        "that its gradient was made with"
    )
