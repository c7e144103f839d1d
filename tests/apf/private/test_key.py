"""The device's key is made once, for its owner alone."""

from __future__ import annotations

import multiprocessing
import os
import stat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from apf.errors import KeyFileError
from apf.private.key import VARIABLE, default_path, load_key, noise_seed, photo_id


def test_made_once_for_its_owner(tmp_path: Path) -> None:
    """The key is made on first use, 32 bytes that nobody else can read, and stays; nothing is left beside it."""
    path = tmp_path / "new" / "apf" / "device.key"
    key = load_key(path, create=True)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_key(path, create=True) == load_key(path, create=False) == key
    assert list(path.parent.iterdir()) == [path]
    assert load_key(tmp_path / "other.key", create=True) != key


def test_not_made_unasked(tmp_path: Path) -> None:
    """Where a key must be there already, a missing one is told, and none is made."""
    with pytest.raises(KeyFileError, match=r"no device key at .*--key or APF_DEVICE_KEY_FILE"):
        load_key(tmp_path / "device.key", create=False)
    assert not list(tmp_path.iterdir())


def _make(paths: list[Path], start: Barrier, made: multiprocessing.Queue[list[bytes]]) -> None:
    keys = []
    for path in paths:
        start.wait(30)
        keys.append(load_key(path, create=True))
    made.put(keys)


def test_processes_at_once_agree(tmp_path: Path) -> None:
    """Processes that need a key at the same moment get the same one, fifty times over, and leave nothing else."""
    context = multiprocessing.get_context("spawn")
    paths = [tmp_path / f"{number}.key" for number in range(50)]
    start, made = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_make, args=(paths, start, made)) for _ in range(2)]
    for process in processes:
        process.start()
    one, other = (made.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert one == other == [load_key(path, create=False) for path in paths]
    assert len(set(one)) == 50 and sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("text", ["", "no hex at all", "ab" * 31, "ab" * 33, "\xff"])
def test_foul_keys_are_refused(tmp_path: Path, text: str) -> None:
    """A file that is no key is refused, and left as it is: it might be another's."""
    path = tmp_path / "device.key"
    path.write_text(text, encoding="latin-1")
    for create in (True, False):
        with pytest.raises(KeyFileError, match=r"device\.key"):
            load_key(path, create=create)
    assert path.read_text(encoding="latin-1") == text


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    """A path that cannot be read or made is told by name."""
    with pytest.raises(KeyFileError, match="cannot be used"):
        load_key(tmp_path, create=True)
    (tmp_path / "file").touch()
    with pytest.raises(KeyFileError, match="cannot be used"):
        load_key(tmp_path / "file" / "device.key", create=True)


def test_ids_are_stable_and_of_the_key() -> None:
    """A photo has one id for each key, 32 hex digits; a byte or another key makes another."""
    assert photo_id(b"k" * 32, b"photo") == photo_id(b"k" * 32, b"photo") == "840616f9fc95da07921d0ab2da4462c5"
    ids = {photo_id(key, data) for key in (b"k" * 32, b"l" * 32) for data in (b"photo", b"photo.", b"")}
    assert len(ids) == 6 and all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in ids)


def test_noise_differs_by_photo_key_and_spread() -> None:
    """One photo has one noise of a spread; of another spread it has another, as their difference would be the noise."""
    seeds = {
        noise_seed(key, data, spread)
        for key in (b"k" * 32, b"l" * 32)
        for data in (b"photo", b"other")
        for spread in (0.5, 1.0)
    }
    assert len(seeds) == 8
    assert noise_seed(b"k" * 32, b"photo", 0.5) in seeds
    assert f"{noise_seed(b'k' * 32, b'photo', 0.5):064x}"[:32] != photo_id(b"k" * 32, b"photo")


def test_where_the_key_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the variable says, else in the user's configuration, as the XDG specification has it."""
    assert default_path() == Path(os.environ["XDG_CONFIG_HOME"], "apf", "device.key")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() == tmp_path / ".config" / "apf" / "device.key"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert default_path() == tmp_path / "mine"


def test_where_files_cannot_be_linked_a_key_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT and Android's apps have no hard links; the key is whole there, too, and its owner's alone."""

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "device.key"
    key = load_key(path, create=True)
    assert len(key) == 32 and load_key(path, create=False) == key
    assert path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]
