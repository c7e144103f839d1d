"""The device's own secret: photos are named by it, so that only their owner can tell which is which."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from apf.errors import KeyFileError

#: Names another file for the key.
VARIABLE = "APF_DEVICE_KEY_FILE"
_BYTES = 32


def default_path() -> Path:
    """Where the key lies: as `VARIABLE` says, else in the user's own configuration."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "apf" / "device.key"


def load_key(path: Path, *, create: bool) -> bytes:
    """Return the key, 32 bytes; made on first use where `create` is set, readable by its owner alone.

    Raises:
        KeyFileError: there is none, or it cannot be read or made, or is no key.
    """
    try:
        if create and not path.exists():
            _make(path)
        key = bytes.fromhex(path.read_text(encoding="utf-8-sig").strip())
    except FileNotFoundError as error:
        raise KeyFileError(
            f"no device key at {path}: photos are told apart by the key that their gradients were made with; "
            f"give it with --key or {VARIABLE}"
        ) from error
    except (OSError, ValueError) as error:
        raise KeyFileError(f"the device key {path} cannot be used ({error}): give another with --key") from error
    if len(key) != _BYTES:
        raise KeyFileError(f"the device key {path} has {len(key)} bytes, and {_BYTES} are needed: give another")
    return key


def photo_id(key: bytes, data: bytes) -> str:
    """32 hex digits for a photo's bytes: always the same ones here, and not to be guessed without the key."""
    return hmac.new(key, b"apf photo\0" + data, hashlib.sha256).hexdigest()[:32]


def noise_seed(key: bytes, data: bytes, spread: float) -> int:
    """Return the seed of the noise on a photo's gradients.

    The same photo never goes out with two noises of one spread, which could be averaged; and never with one noise at
    two spreads, whose difference would be the noise itself.
    """
    return int.from_bytes(hmac.new(key, f"apf noise {spread!r}\0".encode() + data, hashlib.sha256).digest(), "big")


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(_BYTES) + "\n")
    try:
        os.link(draft, path)  # whole, or not at all; and the first one stays
    except FileExistsError:
        pass
    except OSError:  # no links here, as on FAT and in Android's apps: then without a second maker in mind
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
