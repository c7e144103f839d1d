"""A folder as a store: atomic writes, S3's order of keys, and metadata beside the objects.

Layout below the root: objects under their keys; `.apf/tmp` holds what is being written (where another file system is
mounted below the root, `.apf-*.tmp` beside the object); `.apf/meta` holds one small JSON file for each object that has
metadata. A sidecar's name carries the key's hash and the ETag of exactly one version of the object, and is written
before that version appears. So a crash at any moment, and two writers of one key, leave an object with its own metadata
or with none, never with another's.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from workers.core.log_context import PhotoKey
from workers.errors import (
    Changed,
    Forbidden,
    InvalidKey,
    NotFound,
    ObjectTooLarge,
    StoreError,
    StoreFull,
    StoreGone,
    StoreUnavailable,
)
from workers.store.base import NO_METADATA, RESERVED, Blob, LeftOut, ObjectInfo, check_key, check_metadata, hidden
from workers.store.urls import file_path

log = logging.getLogger(__name__)

#: The store's own folders: no key reaches into them.
META, TMP = ".apf/meta/", ".apf/tmp/"

#: The mode of a new `.apf`, less the umask: others do not get in.
PRIVATE = 0o770

#: A temporary file this old belongs to a process that was killed; no single write takes a day.
ABANDONED_S = 24 * 3600
#: Temporary files outside `.apf/tmp` begin so; their suffix is no photo's.
DRAFT = ".apf-"
#: Of so many folders it is remembered what they are.
KNOWN_FOLDERS = 10_000


class FileStore:
    """Objects of a folder. Symbolic links to folders are not followed, nor links to files outside the root."""

    lists_pages = False

    def __init__(self, url: str, *, create: bool = False) -> None:
        self.url = url
        path = file_path(url)
        with _explained(str(path)):
            if create:
                path.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                raise StoreGone(f"folder {path} does not exist: check its name, or make it")
            if not path.is_dir():
                raise StoreError(f"{path} is a file, not a folder: name the folder that holds the photos")
        self._root = os.path.realpath(path)
        #: Folders of temporary files that were looked through, and whether folders take files from `.apf/tmp`.
        self._swept: set[Path] = set()
        self._one: dict[tuple[int, str], bool] = {}
        #: Whether other folders on the way to objects are stores, too, and know their metadata.
        self._others: dict[str, bool] = {}

    def list(
        self, prefix: str = "", start_after: str = "", *, left_out: Callable[[LeftOut], None] | None = None
    ) -> Iterator[ObjectInfo]:
        base = prefix[: prefix.rfind("/") + 1]
        if base and _fault(base[:-1]):
            return  # no key of a file can start like this
        folder = self._absolute(base)
        if os.path.realpath(folder) == folder.rstrip("/"):
            yield from self._walk(folder, base, _Tour(base, prefix, start_after.encode(), left_out or self._log))

    def folders(self, prefix: str) -> Sequence[str]:
        if prefix and _fault(prefix[:-1]):
            return []
        folder = self._absolute(prefix)
        if os.path.realpath(folder) != folder.rstrip("/"):
            return []
        with _explained(prefix):
            try:
                with os.scandir(folder) as entries:
                    names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
                    return [name for name in names if not hidden(f"{prefix}{name}/", prefix)]
            except (FileNotFoundError, NotADirectoryError):
                return []

    def head(self, key: str) -> ObjectInfo | None:
        path = self._readable(key)
        with _explained(key):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            info = self._info(key, status) if stat.S_ISREG(status.st_mode) else None
            if info is None or info.metadata or _etag_at(path) == info.etag:
                return info
        return self.head(key)  # replaced in between, and the sidecar was gone with its version

    def get(self, key: str, *, etag: str | None = None, max_bytes: int | None = None) -> Blob:
        path = self._readable(key)
        with _explained(key), _opened(path, self._root) as file:
            before = os.fstat(file)
            if not stat.S_ISREG(before.st_mode):
                raise NotFound(f"{key!r} in {self.url} is no file")
            if etag is not None and etag != _etag(before):
                raise Changed(f"{key!r} in {self.url} has changed since it was planned: run the command again")
            if max_bytes is not None and before.st_size > max_bytes:
                raise ObjectTooLarge(f"{key!r} in {self.url} has {before.st_size} bytes, over the limit of {max_bytes}")
            with open(file, "rb", closefd=False) as reader:
                data = reader.read(before.st_size + 1)
            if len(data) != before.st_size or _etag(os.fstat(file)) != _etag(before):
                raise Changed(f"{key!r} in {self.url} was written to while it was read: run the command again")
            return Blob(data=data, info=self._info(key, before))

    def start(self, key: str, count: int) -> bytes:
        path = self._readable(key)
        with _explained(key), _opened(path, self._root) as file:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise NotFound(f"{key!r} in {self.url} is no file")
            with open(file, "rb", closefd=False) as reader:
                return reader.read(count)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",  # a file's name says it
        metadata: Mapping[str, str] = NO_METADATA,
        over: str | None = None,
    ) -> ObjectInfo:
        path, kept = self._writable(key), check_metadata(metadata)
        with _explained(key):
            self._make(path.parent)
            replaced = _etag_at(path)
            temporary, etag = self._write_temporary(data, path.parent)
            try:
                self._write_sidecar(key, etag, kept)
                self._put_in_place(temporary, path, key, over)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)
            if replaced not in (None, etag):
                self._sidecar(key, str(replaced)).unlink(missing_ok=True)
        return ObjectInfo(key=key, size=len(data), etag=etag, metadata=kept)

    def _put_in_place(self, temporary: Path, path: Path, key: str, over: str | None) -> None:
        changed = Changed(f"{key!r} in {self.url} was written to meanwhile")
        if over == "":
            try:
                path.hardlink_to(temporary)
            except FileExistsError as error:
                raise changed from error
            except OSError:
                pass  # no hard links on this file system: a look comes as near to it as can be
            else:
                temporary.unlink(missing_ok=True)
                return
        if over is not None and over != (_etag_at(path) or ""):
            raise changed
        temporary.replace(path)

    def clock(self) -> datetime:
        folder = Path(self._absolute(TMP))
        with _explained(self.url):
            self._make(folder)
            path = folder / secrets.token_hex(8)
            path.touch()
            try:
                return datetime.fromtimestamp(path.stat().st_mtime, UTC)
            finally:
                path.unlink()

    def delete(self, key: str) -> None:
        path = self._writable(key)
        with _explained(key), suppress(FileNotFoundError, NotADirectoryError):
            etag = _etag_at(path)
            path.unlink()
            self._sidecar(key, str(etag)).unlink(missing_ok=True)

    def prune(self, prefix: str) -> None:
        folder = self._absolute(prefix).rstrip("/")
        if _fault(prefix.rstrip("/")) or os.path.realpath(folder) != folder:
            return
        for path, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):  # something lies in it
                Path(path).rmdir()

    def _make(self, folder: Path) -> None:
        """Make a folder and those above it; `.apf` is its owner's and group's, as a web server may serve the rest."""
        own = Path(self._absolute(RESERVED))
        if folder.is_relative_to(own):
            own.parent.mkdir(parents=True, exist_ok=True)
            own.mkdir(mode=PRIVATE, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)

    def _absolute(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"

    def _writable(self, key: str) -> Path:
        """Return the path of a key, when it lies inside the root and no folder on the way is a link."""
        check_key(key)
        fault = _fault(key)
        if fault:
            raise InvalidKey(f"key {key!r} {fault}: it cannot be kept as a file below {self.url}")
        path = Path(self._absolute(key))
        if os.path.realpath(path.parent) != str(path.parent):
            raise InvalidKey(f"key {key!r} goes through a symbolic link: put the photos themselves below {self.url}")
        return path

    def _readable(self, key: str) -> Path:
        """As `_writable`, and a link in the last place must end inside the root."""
        path = self._writable(key)
        with _explained(key):  # a part of the name may be too long for this file system
            leaves = path.is_symlink() and not self._holds(path)
        if leaves:
            raise InvalidKey(f"{key!r} is a symbolic link that leaves {self.url}: put the photo itself there")
        return path

    def _holds(self, path: str | Path) -> bool:
        return os.path.realpath(path).startswith(self._absolute(""))

    def _log(self, one: LeftOut) -> None:
        log.warning("left out %r in %s: %s", PhotoKey(one.key), self.url, one.reason)

    def _walk(self, folder: str, base: str, tour: _Tour) -> Iterator[ObjectInfo]:
        """Files under `folder`, whose keys start with `base`. Holds one folder's names at a time for each depth."""
        for entry in self._entries(folder, base, tour):
            key = base + entry.name
            is_folder = _is_folder(entry)
            if fault := _unkeyable(key):
                tour.leave(key + "/" * is_folder, fault, "folder" if is_folder else "file")
            elif is_folder:
                if _wanted(key + "/", tour.prefix, tour.after):
                    yield from self._walk(entry.path, key + "/", tour)
            elif tour.covers(key):
                info = self._listed(entry, key, tour)
                if info:
                    yield info

    def _entries(self, folder: str, base: str, tour: _Tour) -> Sequence[os.DirEntry[str]]:
        """Return the folder's entries in the order that their keys have in S3: a folder sorts as its name with a
        slash.
        """
        with _explained(base or self.url):
            try:
                with os.scandir(folder) as scan:
                    entries = list(scan)
            except (FileNotFoundError, NotADirectoryError):
                if not base:
                    raise
                return []  # removed since its parent was read, or only named by a prefix
            except OSError as error:
                if base == tour.base or error.errno not in _OF_ONE_FOLDER:
                    raise
                tour.leave(base, f"{_CURES[error.errno][1]}, or exclude it", "folder")
                return []
        return sorted(entries, key=lambda e: os.fsencode(e.name) + (b"/" if _is_folder(e) else b""))

    def _listed(self, entry: os.DirEntry[str], key: str, tour: _Tour) -> ObjectInfo | None:
        if entry.is_symlink() and not (self._holds(entry.path) and os.path.isfile(entry.path)):  # noqa: PTH113
            self._leave_link(entry.path, key, tour)
            return None
        try:
            with _explained(key):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    return None  # removed since its folder was read
        except Forbidden as error:
            tour.leave(key, str(error), "file")
            return None
        if not stat.S_ISREG(status.st_mode):
            tour.leave(key, "it is not a regular file: put the photo itself there", "special")
            return None
        return ObjectInfo(key=key, size=status.st_size, etag=_etag(status), last_modified=_changed_at(status))

    def _leave_link(self, path: str, key: str, tour: _Tour) -> None:
        is_folder = os.path.isdir(path)  # noqa: PTH112  unlike pathlib's, it says no where the link goes in a circle
        if is_folder and (self._holds(path) or os.path.realpath(path) == self._root):
            return  # what lies there is met under its own key
        if is_folder:
            tour.leave(key + "/", "it is a link to a folder outside: name that folder as a source of its own", "folder")
        elif os.path.exists(path):  # noqa: PTH110
            tour.leave(key, "it is a symbolic link that leaves the source: put the photo itself there", "file")
        else:
            tour.leave(key, "it is a symbolic link to nothing: put the photo itself there", "special")

    def _info(self, key: str, status: os.stat_result) -> ObjectInfo:
        etag = _etag(status)
        metadata = self._read_sidecar(key, etag)
        return ObjectInfo(key=key, size=status.st_size, etag=etag, metadata=metadata, last_modified=_changed_at(status))

    def _sidecar(self, key: str, etag: str) -> Path:
        return _sidecar_at(self._root, key, etag)

    def _write_sidecar(self, key: str, etag: str, metadata: Mapping[str, str]) -> None:
        path = self._sidecar(key, etag)
        if not metadata:
            path.unlink(missing_ok=True)
            return
        self._make(path.parent)
        # It is not read before its object appears: no rename. On disk by then: an output without it would be no run's.
        with path.open("w", encoding="utf-8") as file:
            json.dump({"key": key, "metadata": dict(metadata)}, file)
            file.flush()
            os.fsync(file.fileno())

    def _read_sidecar(self, key: str, etag: str) -> Mapping[str, str]:
        """Return an object's metadata, whichever store wrote it: a folder's around this one, or one's on the way to
        it.
        """
        if own := _metadata_at(self._root, key, etag):
            return own
        for folder, name in self._other_stores(key):
            with suppress(OSError):  # not ours to read
                if found := _metadata_at(folder, name, etag):
                    return found
        return NO_METADATA

    def _other_stores(self, key: str) -> Iterator[tuple[str, str]]:
        """Other folders that may keep an object's metadata, and its key there."""
        path = self._absolute(key)
        folder = os.path.dirname(path)  # noqa: PTH120
        while True:
            if folder != self._root and self._keeps_metadata(folder):
                yield folder, path[len(folder) :].lstrip("/")
            above = os.path.dirname(folder)  # noqa: PTH120
            if above == folder:
                return
            folder = above

    def _keeps_metadata(self, folder: str) -> bool:
        if folder not in self._others:
            if len(self._others) >= KNOWN_FOLDERS:
                self._others.clear()
            self._others[folder] = os.path.isdir(os.path.join(folder, META))  # noqa: PTH112, PTH118
        return self._others[folder]

    def _write_temporary(self, data: bytes, beside: Path) -> tuple[Path, str]:
        """Return a flushed file that can be renamed into the folder `beside`, and its ETag, which a rename keeps."""
        folder = Path(self._absolute(TMP))
        self._make(folder)
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        if not self._is_one_with(folder, beside):  # a disk, or a folder of another, is mounted below the root
            folder, name = beside, f"{DRAFT}{name}.tmp"
        self._sweep(folder)
        path = folder / name
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                # The kernel's own stamps are some milliseconds coarse: two versions of one size could share an ETag.
                now = time.time_ns()
                os.utime(file.fileno(), ns=(now, now))
                os.fsync(file.fileno())
                return path, _etag(os.fstat(file.fileno()))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _is_one_with(self, drafts: Path, folder: Path) -> bool:
        """Return whether a file can be renamed from one folder to the other; tried once for each device and parent."""
        # Of a bind mount the device is the same, and a rename fails all the same: so the parent's path counts, too.
        known = (folder.stat().st_dev, str(folder))
        if known not in self._one:
            if len(self._one) >= KNOWN_FOLDERS:
                self._one.clear()
            self._one[known] = _renames(drafts, folder)
        return self._one[known]

    def _sweep(self, folder: Path) -> None:
        """Remove, once, what killed processes left behind."""
        if folder in self._swept:
            return
        self._swept.add(folder)
        ours = "*" if str(folder) + "/" == self._absolute(TMP) else f"{DRAFT}*.tmp"
        for path in folder.glob(ours):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - ABANDONED_S:
                    path.unlink()


def _sidecar_at(root: str, key: str, etag: str) -> Path:
    # Hashed: no key is too long for a file's name, and none clashes with the folder of another.
    digest = hashlib.sha256(key.encode()).hexdigest()
    return Path(root, META, digest[:2], f"{digest[2:]}.{etag}.json")


def _metadata_at(root: str, key: str, etag: str) -> Mapping[str, str]:
    try:
        record = json.loads(_sidecar_at(root, key, etag).read_bytes())
        return {str(k): str(v) for k, v in record["metadata"].items()} if record["key"] == key else NO_METADATA
    except (FileNotFoundError, PermissionError, ValueError, LookupError, TypeError, AttributeError):
        return NO_METADATA


def _renames(drafts: Path, folder: Path) -> bool:
    """Return whether a file of the one folder can be renamed into the other; leaves nothing there, even if it is
    killed.
    """
    if drafts.stat().st_dev != folder.stat().st_dev:
        return False
    draft = drafts / f"{os.getpid()}-{secrets.token_hex(8)}"
    draft.touch()
    try:
        # Always refused: Linux looks first whether both lie in one mount, which a bind mount of the device does not.
        os.rename(draft, f"{folder}/.")  # noqa: PTH104  a Path drops the dot
    except OSError as error:
        return error.errno != errno.EXDEV
    finally:
        draft.unlink(missing_ok=True)
    return True


def _etag(status: os.stat_result) -> str:
    """Size and time of change in hex: tells versions apart without reading them."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def _changed_at(status: os.stat_result) -> datetime:
    """When the file came to be what and where it is: a copy may keep its original's mtime, and never its ctime."""
    return datetime.fromtimestamp(status.st_ctime, UTC)


def _etag_at(path: Path) -> str | None:
    try:
        return _etag(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _fault(key: str) -> str | None:
    """Return what keeps a key from being a path below the root, or None."""
    if "\0" in key or "\\" in key:
        return "has a NUL or a backslash in it"
    if any(part in ("", ".", "..") for part in key.split("/")):
        return "has an empty, '.' or '..' part"
    if (key + "/").startswith((META, TMP)):
        return "is the store's own"
    return None


@dataclass(frozen=True)
class _Tour:
    """One listing: its bounds, and a callback for what is left out."""

    #: Where it begins.
    base: str
    prefix: str
    after: bytes
    told: Callable[[LeftOut], None]

    def covers(self, key: str) -> bool:
        return key.startswith(self.prefix) and os.fsencode(key) > self.after

    def leave(self, key: str, reason: str, kind: Literal["file", "folder", "special"]) -> None:
        if self.covers(key) and not key.startswith((META, TMP)):
            self.told(LeftOut(os.fsencode(key).decode(errors="backslashreplace"), reason, kind))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # of a file system that has to be asked, and refuses
        return False


def _unkeyable(key: str) -> str | None:
    """Return what keeps a file's path from being a key, or None."""
    try:
        check_key(key)
    except InvalidKey:
        try:
            key.encode()
        except UnicodeEncodeError:
            return "its name is not valid UTF-8: rename it"
        return "its path is over 1024 bytes: use shorter names"
    return "it has a backslash in its name: rename it" if "\\" in key else None


def _wanted(folder: str, prefix: str, after: bytes) -> bool:
    """Return whether a folder (its key with a slash) can hold keys with this prefix above `after`."""
    if folder in (META, TMP) or (folder == RESERVED and not prefix.startswith(RESERVED)):
        return False
    raw = folder.encode()
    return (folder.startswith(prefix) or prefix.startswith(folder)) and (raw > after or after.startswith(raw))


@contextmanager
def _opened(path: Path, root: str) -> Iterator[int]:
    try:
        # Not blocking: a named pipe must not hold a worker for ever.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not os.path.isdir(root):  # noqa: PTH112
            raise StoreGone(f"folder {root} is gone: mount it, or correct its name") from error
        raise NotFound(f"there is no file {path}") from error
    try:
        yield file
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut, where the file system can do that."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


_CURES: dict[int, tuple[type[StoreError], str]] = {
    errno.ENOSPC: (StoreFull, "the disk is full: free some space"),
    errno.EDQUOT: (StoreFull, "the disk quota is used up: free some space"),
    errno.EROFS: (Forbidden, "the file system is read-only: mount it for writing, or choose another destination"),
    errno.EACCES: (Forbidden, "no permission: correct the owner or the mode"),
    errno.EPERM: (Forbidden, "not permitted: correct the owner or the mode"),
    errno.ENOENT: (StoreGone, "the folder is gone: check its name, or whether it is mounted"),
    errno.ENOTDIR: (StoreError, "a file stands where a folder is needed: rename one of the two"),
    errno.EEXIST: (StoreError, "a file stands where a folder is needed: rename one of the two"),
    errno.EISDIR: (StoreError, "a folder stands where a file is needed: rename one of the two"),
    errno.ENAMETOOLONG: (InvalidKey, "a part of the name is too long for this file system: rename it"),
    errno.EXDEV: (StoreError, "it lies on another file system: give that as a destination of its own"),
    errno.EINVAL: (InvalidKey, "this file system does not take the name: rename it"),
    errno.EILSEQ: (InvalidKey, "this file system does not take the name: rename it"),
    errno.EFBIG: (StoreError, "the file is larger than this file system can keep: choose another destination"),
    errno.ELOOP: (InvalidKey, "symbolic links in a circle: put the file itself there"),
    errno.EIO: (StoreUnavailable, "the disk reported an error"),
    errno.EMFILE: (StoreUnavailable, "too many open files: raise the limit (ulimit -n)"),
    errno.ENFILE: (StoreUnavailable, "too many open files on this machine"),
    errno.ESTALE: (StoreUnavailable, "the network file system was mounted again"),
    errno.ETIMEDOUT: (StoreUnavailable, "the network file system did not answer"),
}


#: Reasons for which one folder is left out, and the walk goes on; others are of the disk or of this process.
_OF_ONE_FOLDER = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)


@contextmanager
def _explained(key: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that names the cure."""
    try:
        yield
    except OSError as error:
        kind, cure = _CURES.get(error.errno or 0, (StoreError, error.strerror or str(error)))
        raise kind(f"{key!r} ({error.filename or 'file'}): {cure}") from error
