"""Folders of photos and private files: read and written by the commands of private mode."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apf.errors import PathError, PrivateFileError
from apf.exclusions import IGNORE_FILE, Exclusions, patterns_in
from apf.photo import looks_like_photo
from apf.private.device import Device
from apf.private.files import SUFFIX, Gradients, Perturbations, read_private
from apf.protect.publish import Outcome, ProtectedPhoto

LINKED = "a link to a folder, which is not followed: name that folder itself, or exclude it"
#: Leading bytes that tell whether a file is a photo.
_HEAD = 64


@dataclass(frozen=True)
class Source:
    """A photo on this device."""

    path: Path
    #: Below the folder that was named, or the file's own name.
    relative: Path
    #: Why it cannot be protected, where that is known before it is read.
    fault: str = ""


@dataclass(frozen=True)
class PhotoOutcome:
    """The outcome of one photo."""

    photo: str
    #: "skipped": it was there already; "failed": nothing was written.
    outcome: Outcome | str
    faces: int = 0
    #: Where the result is; None where there is none.
    written: Path | None = None
    #: Why it failed or was skipped; of one that was written, which metadata was left out.
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """The photos in the paths that were named."""

    sources: list[Source]
    #: Files in folders that are no photos, or excluded.
    ignored: int
    #: Of these, files that patterns exclude, and folders that they exclude whole.
    excluded: int = 0


def photos_in(paths: Sequence[Path], exclude: Sequence[str] = ()) -> Found:
    """Return the photos that were named, and all that folders hold, told by their bytes; a path that is named twice
    once.

    Args:
        exclude: patterns of what is left out of folders, besides what `apf.exclusions` and their own files say.

    Raises:
        PathError: a path is not there, or no photo is.
        PatternError: a pattern is malformed.
    """
    named: dict[Path, Source] = {}
    ignored = excluded = 0
    for path in paths:
        files, left = _files_at(path, exclude)
        excluded += left
        photos = [source for source in files if source.path == path or _may_be_photo(source.path)]
        ignored += len(files) - len(photos) + left
        named |= {source.path.absolute(): source for source in photos}
    if not named:
        raise PathError(f"no photo in {', '.join(map(str, paths))}: name photos, or folders that hold some")
    return Found(list(named.values()), ignored, excluded)


def check_distinct(sources: Sequence[Source]) -> None:
    """Raise PathError where two photos from different folders would be written under one name."""
    seen: dict[Path, Path] = {}
    for source in sources:
        if (other := seen.setdefault(source.relative, source.path)) != source.path:
            raise PathError(
                f"{other} and {source.path} would both become {source.relative}: do them one after the other, "
                "to different places"
            )


def check_apart(paths: Sequence[Path], sources: Sequence[Source], outputs: Sequence[Path], folder: Path | None) -> None:
    """Raise PathError where an output would lie among the photos: over one of them, or in a folder that was named.

    Nor may all go to a folder above what was named: its other photos may have the same names.

    Args:
        folder: where all outputs go; None where a single photo's own file was named.
    """
    if folder and any(path.resolve().is_relative_to(folder.resolve()) for path in paths):
        raise PathError(f"{folder} holds the photos that were given: give a place apart from them with -o")
    folders = [path.resolve() for path in paths if path.is_dir()]
    originals = {source.path.resolve(): source.path for source in sources}
    for output in outputs:
        place = output.resolve()
        if place in originals:
            raise PathError(f"{output} is a photo that was given: give another place with -o")
        if any(place.is_relative_to(folder) for folder in folders):
            raise PathError(f"{output} would lie among the photos: give a place outside with -o")


def check_writable(folder: Path) -> None:
    """Make a folder for results, and try it; raises PathError."""
    try:
        write_whole(folder / ".apf-try", b"", mode=0o600)
        (folder / ".apf-try").unlink()
    except OSError as error:
        raise PathError(f"{folder} cannot be written to ({error.strerror}): give another place with -o") from error


def write_gradients(source: Source, folder: Path, device: Device, *, names: bool, stamp: float) -> PhotoOutcome:
    """Write a photo's gradient file into a folder, if it is not there already.

    Args:
        names: name the file after the photo, and have it say so; else after the photo's id.
        stamp: the time that the file gets, as of `time.time`: equal ones tell nothing of order and sizes.

    Raises:
        PhotoError: the photo cannot be protected.
        PathError: its name is to be told, and is no UTF-8.
        OSError: a file cannot be read or written.
    """
    data = source.path.read_bytes()
    file_id = device.photo_id(data)
    name = _told(source.relative) if names else ""
    path = folder / f"{name or file_id}{SUFFIX}"
    known = _known(path)
    if known and known.id == file_id and known.name == name and device.is_current(known):
        return PhotoOutcome(str(source.path), "skipped", known.faces, path)
    made = device.gradients(data, name=name)
    write_whole(path, made.encode(), mode=0o600, stamp=stamp)
    return PhotoOutcome(str(source.path), "protected" if made.faces else "no_face", made.faces, path)


def protect_alone(source: Source, out: Path, device: Device, *, overwrite: bool = False) -> PhotoOutcome:
    """Write the photo protected without a server; raises as `apply_answer`."""
    return _publish(source, out, device.alone(source.path.read_bytes()), overwrite=overwrite)


def apply_answer(
    source: Source, answers: Path, out: Path, device: Device, *, accept_weak: bool, overwrite: bool = False
) -> PhotoOutcome:
    """Write the protected photo; one without a face needs no answer.

    Args:
        answers: the perturbation file, or a folder of such, by id or by the photo's name.
        out: the file to write.
        overwrite: replace another file that is there.

    Raises:
        PhotoError: the photo cannot be protected, or the answer is not for it.
        PathError: there is no answer for it, or another file is there.
        OSError: a file cannot be read or written.
    """
    data = source.path.read_bytes()
    file_id = device.photo_id(data)
    path = _answer(source, answers, file_id)
    if path:
        answer = Perturbations.decode(read_private(path))
        return _publish(source, out, device.apply(data, answer, accept_weak=accept_weak), overwrite=overwrite)
    if protected := device.without_face(data):
        return _publish(source, out, protected, overwrite=overwrite)
    raise PathError(
        f"no perturbation in {answers} for it, {file_id}{SUFFIX}: fetch it once the queue is done, or give the device "
        "key that its gradient was made with"
    )


def write_whole(path: Path, data: bytes, *, mode: int, stamp: float | None = None) -> None:
    """Write a file at once, never visible in part, with the rights that `mode` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".apf-{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        draft.chmod(mode)
        if stamp is not None:
            os.utime(draft, (stamp, stamp))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _publish(source: Source, out: Path, protected: ProtectedPhoto, *, overwrite: bool) -> PhotoOutcome:
    if not overwrite and out.is_file() and out.read_bytes() != protected.data:
        raise PathError(
            f"{out} is another file, and is left as it is: --skip-existing passes over such photos, --overwrite "
            "replaces them"
        )
    write_whole(out, protected.data, mode=source.path.stat().st_mode & 0o777)
    return PhotoOutcome(
        str(source.path), protected.outcome, len(protected.faces), out, reason="; ".join(protected.notes)
    )


def _files_at(path: Path, exclude: Sequence[str]) -> tuple[list[Source], int]:
    """Return a file itself, or all below a folder, and how much is excluded there.

    A folder that cannot be looked into, or that a link leads to, counts as a photo that fails.
    """
    if path.is_file():
        return [Source(path, Path(path.name))], 0
    if not path.is_dir():
        raise PathError(f"{path} is not there: name a photo, or a folder of photos")
    exclusions = Exclusions((*_own_patterns(path), *exclude))
    found: list[Source] = []
    closed: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        closed.append((Path(error.filename), f"{error.strerror}: correct the owner or the mode, or exclude the folder"))

    left = 0
    for folder, folders, names in os.walk(path, onerror=note):
        here = Path(folder).relative_to(path)
        wanted = [name for name in sorted(folders) if not exclusions.match(f"{(here / name).as_posix()}/")]
        files = [name for name in sorted(names) if not exclusions.match((here / name).as_posix())]
        left += len(folders) - len(wanted) + len(names) - len(files)
        closed += [(Path(folder, name), LINKED) for name in wanted if _leads_out(Path(folder, name), path)]
        folders[:] = wanted
        found += [Source(Path(folder, name), here / name) for name in files]
    return [*found, *(Source(folder, folder.relative_to(path), fault) for folder, fault in closed)], left


def _leads_out(folder: Path, root: Path) -> bool:
    """Return whether it is a link to a folder that the walk does not come by."""
    return folder.is_symlink() and not folder.resolve().is_relative_to(root.resolve())


def _own_patterns(folder: Path) -> tuple[str, ...]:
    file = folder / IGNORE_FILE
    return patterns_in(file.read_bytes(), str(file)) if file.is_file() else ()


def _may_be_photo(path: Path) -> bool:
    """By its first bytes; what cannot be read is told when its turn comes."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return False  # to open a pipe would wait for ever
        with path.open("rb") as file:
            return looks_like_photo(file.read(_HEAD))
    except OSError:
        return True


def _told(relative: Path) -> str:
    name = relative.as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise PathError(f"the name {name!r} is no UTF-8: rename the photo, or leave out --names") from error
    return name


def _known(path: Path) -> Gradients | None:
    """Return the gradient file of an earlier run; None where there is none that can be read."""
    try:
        return Gradients.decode(read_private(path))
    except (OSError, PrivateFileError):
        return None


def _answer(source: Source, answers: Path, file_id: str) -> Path | None:
    if answers.is_file():
        return answers
    named = (answers / f"{name}{SUFFIX}" for name in (file_id, source.relative.as_posix()))
    return next((path for path in named if os.path.isfile(path)), None)  # noqa: PTH113  no name is too long to be asked
