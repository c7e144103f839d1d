"""Errors of the library.

ApfError
├── PhotoError            this one photo cannot be protected; a retry does not help
│   ├── CorruptPhoto          the bytes are not a whole picture
│   │   └── DecodingTimeout       decoding takes too long
│   ├── UnsupportedPhoto      a picture, but of a kind that we refuse, with the reason
│   │   ├── CameraRaw             a camera's raw file
│   │   ├── SeveralPictures       pages, an animation, a sequence
│   │   └── UnknownColours        CMYK whose colours are not known
│   ├── PhotoTooLarge         over the limit in bytes or pixels
│   ├── PrivateFileError      no gradient or perturbation file, or one made for something else
│   └── WeakPerturbation      what a server answered does not protect the photo
├── PatternError          a pattern that excludes photos is malformed
├── RecipeError           the recipe is unknown or malformed
├── WeightsError          weights are missing or damaged
│   └── OtherVersion          the recipe is for weights or code of another version
├── DetectorError         the detector cannot be loaded
├── GuideError            a guide is unknown, missing, or not what its digest says
│   └── UnsupportedGuide      a network that no gradient can be made of here
├── DeviceMemoryError     the GPU is full; it may not be so later
├── MissingExtra          libraries that this needs are not installed; pip knows them as an extra
├── KeyFileError          the device's key is missing, or is no key
└── PathError             a path that was named is not there, or stands in the way
"""


class ApfError(Exception):
    """Base of all errors of the filter. The message names the value and the cure."""


class PhotoError(ApfError):
    """Raised when one photo cannot be protected. Permanent: trying again gives the same."""


class CorruptPhoto(PhotoError):
    """Raised when the bytes are truncated, damaged or no picture at all."""


class UnsupportedPhoto(PhotoError):
    """Raised when the picture is of a kind that cannot be protected whole (animated, unknown format, ...)."""


class DecodingTimeout(CorruptPhoto):
    """Raised when decoding or encoding takes longer than it may."""


class CameraRaw(UnsupportedPhoto):
    """Raised for a camera's raw file, which holds no finished picture."""


class SeveralPictures(UnsupportedPhoto):
    """Raised for a file of several pages, frames or pictures."""


class UnknownColours(UnsupportedPhoto):
    """Raised for CMYK without a profile that says its colours."""


class PhotoTooLarge(PhotoError):
    """Raised, before decoding, when a photo is over the limit in bytes or pixels."""


class PrivateFileError(PhotoError):
    """Raised when a file of private mode is damaged, or does not fit what it is to be used for."""


class WeakPerturbation(PhotoError):
    """Raised when a perturbation that a server sent does next to nothing for a face."""


class PatternError(ApfError):
    """Raised when a pattern that excludes photos is malformed, or a file of such cannot be read."""


class RecipeError(ApfError):
    """Raised when a recipe's name is unknown or its file does not validate."""


class WeightsError(ApfError):
    """Raised when weights are missing, damaged, or differ from the recipe's digest."""


class OtherVersion(WeightsError):
    """Raised when a recipe was made for weights or code that are not installed here: elsewhere they may be."""


class DetectorError(ApfError):
    """Raised when the named face detector cannot be loaded."""


class DetectorUnreachable(DetectorError):
    """Raised when the detector's file could not be fetched just now: a later try may find the network there."""


class GuideError(ApfError):
    """Raised when a guide is unknown or missing, cannot be fetched, or is not what its digest says."""


class GuideUnreachable(GuideError):
    """Raised when a guide's file could not be fetched just now: a later try may find the network there."""


class UnsupportedGuide(GuideError):
    """Raised when a recogniser's network holds an operation whose gradient is not known here."""


class DeviceMemoryError(ApfError):
    """Raised when the GPU has no memory for a single face or tile. Another process may hold it: a retry can help."""

    transient = True


class MissingExtra(ApfError, ImportError):
    """Raised when what is asked for needs libraries of an extra that is not installed here (`apf.extras`)."""


class KeyFileError(ApfError):
    """Raised when the device's key is missing, cannot be read, or is no key."""


class PathError(ApfError):
    """Raised when a path that was named is not there, or is one that would be overwritten."""
