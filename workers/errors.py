"""Errors of storage, messages and settings; `transient` tells whether a retry can help.

WorkerError
├── SettingsError         an APF_ variable is missing or malformed
├── JobError              a message is malformed, or names what it may not
│   └── NotAllowed            a place outside APF_ALLOWED_URLS
├── BadRequest            what a caller asks of a batch makes no sense
├── LedgerError           a record of a batch is missing, torn or does not validate
│   ├── NewerRecord           a newer version wrote it
│   └── TornPlan              a shard's plan: reconciling makes it anew
├── CallbackError         a callback was not delivered; it is tried again
│   └── AddressRefused        it may not go to this address
└── StoreError            the store refused; a retry does not help
    ├── NotFound              no object of that name
    │   └── StoreGone             no bucket or folder of that name
    ├── Forbidden             no right to do this
    │   └── BadCredentials        these credentials are unknown, or have expired
    ├── StoreFull             a disk or quota is used up
    ├── Changed               the object is no longer the one that was planned
    ├── NoConditions          the store knows no conditional writes
    ├── Occupied              another object stands where an output would go
    ├── IsOutput              what should be protected is an output itself
    ├── InvalidKey            the key cannot be kept in this store
    ├── Archived              it has to be restored from an archive first
    ├── ObjectTooLarge        over the limit in bytes; nothing was read
    └── StoreUnavailable      a time-out, a lost connection, a 5xx: a retry helps
"""

from typing import ClassVar


class WorkerError(Exception):
    """Base of all errors of the workers. The message names the value and the cure."""

    #: Whether the same call can succeed a little later without anybody changing anything.
    transient: ClassVar[bool] = False


class SettingsError(WorkerError):
    """Raised when a setting is missing or malformed. Permanent: correct the APF_ variable."""


class JobError(WorkerError):
    """Raised when a message does not validate. Permanent: it was sent by another version or another program."""


class NotAllowed(JobError):
    """Raised when a message or a batch names a place where this worker may not read or write. Permanent."""


class BadRequest(WorkerError):
    """Raised when what a batch is asked to do makes no sense. Permanent: ask differently."""


class LedgerError(WorkerError):
    """Raised when a record of a batch is missing, torn or does not validate. Permanent."""


class NewerRecord(LedgerError):
    """Raised when a newer version wrote a record: it is whole, and not this version's to do or to mend. Permanent."""


class TornPlan(LedgerError):
    """Raised when a shard's plan is missing or torn. Passing: reconciling makes it anew, and sends the shard again."""


class CallbackError(WorkerError):
    """Raised when a callback was not delivered. Transient: receivers come back, and settings are corrected.

    Its text never holds the URL's path or query, which may be a receiver's secret.
    """

    transient = True


class AddressRefused(CallbackError):
    """Raised when a callback may not go to an address. Permanent until APF_CALLBACK_ settings allow it."""

    transient = False


class StoreError(WorkerError):
    """Raised when a store refuses. Permanent unless the subclass says otherwise."""


class NotFound(StoreError):
    """Raised when the object, its bucket or its folder does not exist. Permanent."""


class StoreGone(NotFound):
    """Raised when the bucket or folder itself does not exist. Permanent: make it, mount it, or correct its name."""


class Forbidden(StoreError):
    """Raised when the credentials do not allow this. Permanent: correct the rights."""


class BadCredentials(Forbidden):
    """Raised when credentials are missing, wrong or expired. Permanent: give the process others."""


class StoreFull(StoreError):
    """Raised when nothing more can be written. Permanent: free some space."""


class Changed(StoreError):
    """Raised when an object's ETag differs from the one asked for. Permanent: plan the object again."""


class NoConditions(StoreError):
    """Raised when a write has a condition and the store knows none. Permanent: write without one."""


class Occupied(StoreError):
    """Raised when an output would replace what no run wrote for the very same photo. Permanent: move it away."""


class IsOutput(StoreError):
    """Raised when what should be protected was written by a run itself. Permanent: name the originals."""


class InvalidKey(StoreError):
    """Raised when a key cannot be kept in this store, or would leave its root. Permanent: rename the object."""


class Archived(StoreError):
    """Raised when an object lies in an archive's storage class. Permanent: restore it."""


class ObjectTooLarge(StoreError):
    """Raised, before the body is read, when an object is over the limit in bytes. Permanent."""


class StoreUnavailable(StoreError):
    """Raised when the store timed out, dropped the connection, throttled or failed. Transient: a retry helps."""

    transient = True
