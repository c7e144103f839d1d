"""A bucket as a store, through boto3. Loading this module takes long: open stores through `open_store`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ResponseStreamingError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from workers.errors import (
    Archived,
    BadCredentials,
    Changed,
    Forbidden,
    InvalidKey,
    NoConditions,
    NotFound,
    ObjectTooLarge,
    StoreError,
    StoreFull,
    StoreGone,
    StoreUnavailable,
)
from workers.store.base import (
    AFTER_ALL,
    NO_METADATA,
    RESERVED,
    Blob,
    LeftOut,
    ObjectInfo,
    S3Options,
    check_key,
    check_metadata,
    hidden,
)
from workers.store.urls import bucket_and_prefix

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: Keys in one answer to a listing: the most that S3 gives.
PAGE_KEYS = 1000


class _Condition(TypedDict, total=False):
    """Of a write: which version it may replace."""

    IfMatch: str
    IfNoneMatch: str


class S3Store:
    """Objects of `s3://bucket/prefix`. Keys pass byte for byte, whatever they look like as paths."""

    lists_pages = True

    def __init__(self, url: str, options: S3Options) -> None:
        self.url = url
        self._bucket, prefix = bucket_and_prefix(url)
        self._root = f"{prefix}/" if prefix else ""
        self._client = _shared_client(options)
        self._at = f" at {options.endpoint_url}" if options.endpoint_url else ""

    def list(
        self, prefix: str = "", start_after: str = "", *, left_out: Callable[[LeftOut], None] | None = None
    ) -> Iterator[ObjectInfo]:
        after = start_after
        while True:
            for info in self._pages(prefix, after):
                if hidden(info.key, prefix):
                    # The ledger may hold far more objects than there are photos: jump over it.
                    after = RESERVED + AFTER_ALL
                    break
                if info.key:  # a folder marker at the store's own URL
                    yield info
            else:
                return

    def folders(self, prefix: str) -> Sequence[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._root + prefix, Delimiter="/", PaginationConfig={"PageSize": PAGE_KEYS}
        )
        root = len(self._root + prefix)
        with self._explained(prefix):
            names = [found["Prefix"][root:-1] for page in pages for found in page.get("CommonPrefixes", [])]
        return [name for name in names if not hidden(f"{prefix}{name}/", prefix)]

    def _pages(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket,
            Prefix=self._root + prefix,
            StartAfter=self._root + after,
            PaginationConfig={"PageSize": PAGE_KEYS},
        )
        with self._explained(prefix):
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self._root)
                    etag, changed = _unquoted(item["ETag"]), item["LastModified"]
                    yield ObjectInfo(key=key, size=item["Size"], etag=etag, last_modified=changed)

    def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        try:
            with self._explained(key):
                found = self._client.head_object(Bucket=self._bucket, Key=self._root + key)
        except NotFound:
            return None
        return _info(key, found)

    def get(self, key: str, *, etag: str | None = None, max_bytes: int | None = None) -> Blob:
        check_key(key)
        full = self._root + key
        with self._explained(key):
            if etag is None:
                found = self._client.get_object(Bucket=self._bucket, Key=full)
            else:
                found = self._client.get_object(Bucket=self._bucket, Key=full, IfMatch=f'"{etag}"')
            info = _info(key, found)
            with closing(found["Body"]) as body:
                if etag is not None and info.etag != etag:  # a store that takes no notice of If-Match
                    raise Changed(f"{key!r} in {self.url} has changed since it was planned: run the command again")
                if max_bytes is not None and info.size > max_bytes:
                    raise ObjectTooLarge(f"{key!r} in {self.url} has {info.size} bytes, over the limit of {max_bytes}")
                return Blob(data=body.read(), info=info)

    def start(self, key: str, count: int) -> bytes:
        check_key(key)
        if count < 1:
            return b""
        with self._explained(key):
            try:
                found = self._client.get_object(Bucket=self._bucket, Key=self._root + key, Range=f"bytes=0-{count - 1}")
            except ClientError as error:
                if error.response["Error"]["Code"] == "InvalidRange":  # an empty object
                    return b""
                raise
            with closing(found["Body"]) as body:
                return bytes(body.read(count))  # a store that takes no notice of Range sends all

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] = NO_METADATA,
        over: str | None = None,
    ) -> ObjectInfo:
        check_key(key)
        kept = check_metadata(metadata)
        with _conditionally(over), self._explained(key):
            written = self._client.put_object(
                Bucket=self._bucket,
                Key=self._root + key,
                Body=data,
                ContentType=content_type,
                Metadata=kept,
                **_condition(over),
            )
        # Swift answers 202 without an ETag when another write of the same moment won.
        return ObjectInfo(key=key, size=len(data), etag=_unquoted(written.get("ETag", "")), metadata=kept)

    def prune(self, prefix: str) -> None:
        """Do nothing: there are no folders."""

    def clock(self) -> datetime:
        with self._explained(""):
            answer = self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def delete(self, key: str) -> None:
        check_key(key)
        with self._explained(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._root + key)

    def unsigned_url(self, key: str) -> str:
        """Where the object is read over HTTP without credentials, if the bucket is public."""
        asked = {"Bucket": self._bucket, "Key": self._root + key}
        return str(self._client.generate_presigned_url("get_object", Params=asked)).partition("?")[0]

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn what botocore raises into a StoreError that names the object and the cure."""
        place = f"{self.url}{self._at}"
        # Keys of the ledger tell a user nothing.
        what = f"{key!r} in {self.url}" if key and not key.startswith(RESERVED) else place
        try:
            yield
        except ClientError as error:
            raise _from_answer(self._told_more(error), what, place) from error
        except _NO_CREDENTIALS as error:
            raise BadCredentials(f"{place}: no usable S3 credentials ({error}): {_CREDENTIALS_CURE}") from error
        except NoRegionError as error:
            raise StoreError(f"{what}: no region is set: set APF_S3_REGION or AWS_DEFAULT_REGION") from error
        except _LOST as error:
            raise StoreUnavailable(f"{what}: the store did not answer whole or in time: {error}") from error
        except BotoCoreError as error:
            raise StoreError(f"{what}: {error}") from error

    def _told_more(self, error: ClientError) -> ClientError:
        """Why a HEAD was refused: its own answer has a status alone, where that of a listing says what is wrong."""
        if _code(error) not in _TELLS_NOTHING:
            return error
        try:
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._root, MaxKeys=1)
        except ClientError as other:
            return other if _code(other) not in _TELLS_NOTHING and _code(other) != "AccessDenied" else error
        except BotoCoreError:
            return error
        return error


_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
_LOST = (BotoConnectionError, HTTPClientError, IncompleteReadError, ResponseStreamingError)

_CREDENTIALS_CURE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role"

_BAD_CREDENTIALS = (BadCredentials, f"the store does not accept the credentials: {_CREDENTIALS_CURE}")
_EXPIRED = (BadCredentials, "the credentials have expired: get new ones (aws sso login, or a new session token)")
_CHANGED = (Changed, "it has changed since it was planned: run the command again")
_DENIED = (Forbidden, "access denied: these credentials need s3:ListBucket, s3:GetObject and s3:PutObject there")
_OVERLOADED = (StoreUnavailable, "the store failed or asked to slow down")
_NO_OBJECT = (NotFound, "there is no such object")
_NO_BUCKET_NAME = (StoreGone, "no bucket can have this name: correct it")
_FULL = (StoreFull, "the bucket's or account's quota is used up: free some space, or have it raised")
_REGION = (StoreError, "the bucket lies in another region: set APF_S3_REGION to it, or APF_S3_ENDPOINT_URL")
_KEY_FOR_BYTES = (
    Forbidden,
    "the KMS key that encrypts it cannot be used: give these credentials kms:Decrypt and kms:GenerateDataKey on it, "
    "and see that it is enabled",
)

_ANSWERS: dict[str, tuple[type[StoreError], str]] = {
    "NoSuchBucket": (StoreGone, "the bucket does not exist: check its name and APF_S3_ENDPOINT_URL, or make it"),
    "InvalidBucketName": _NO_BUCKET_NAME,
    "NoSuchKey": _NO_OBJECT,
    "PreconditionFailed": _CHANGED,
    "KeyTooLongError": (InvalidKey, "the key with its prefix is over 1024 bytes: rename the object"),
    "RequestTimeTooSkewed": (Forbidden, "this machine's clock is wrong by minutes: set it"),
    "AccountProblem": (Forbidden, "the account is suspended or not paid: see to it with the store's provider"),
    "AllAccessDisabled": (Forbidden, "the store has closed this bucket to everybody: ask its provider"),
    "EntityTooLarge": (StoreError, "the object is larger than the store takes: choose another destination"),
    "MethodNotAllowed": (StoreError, "the store does not do this: is APF_S3_ENDPOINT_URL an S3 API?"),
    **dict.fromkeys(["ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"], _EXPIRED),
    **dict.fromkeys(
        ["InvalidAccessKeyId", "InvalidSecurity", "InvalidToken", "NotSignedUp", "SignatureDoesNotMatch"],
        _BAD_CREDENTIALS,
    ),
    "ConditionalRequestConflict": _CHANGED,
    **dict.fromkeys(
        ["AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"], _REGION
    ),
    **dict.fromkeys(["QuotaExceeded", "QuotaExceededException", "XMinioStorageFull", "InsufficientStorage"], _FULL),
    **dict.fromkeys(
        [
            "OperationAborted", "RequestLimitExceeded", "RequestTimeout", "ServiceUnavailable", "SlowDown",
            "Throttling", "ThrottlingException", "TooManyRequests",
        ],
        _OVERLOADED,
    ),
}  # fmt: skip
#: A HEAD's answer has no body, and so only a status.
_STATUSES = {
    301: _REGION, 307: _OVERLOADED, 401: _DENIED, 403: _DENIED, 404: _NO_OBJECT, 412: _CHANGED, 429: _OVERLOADED,
    507: _FULL,
}  # fmt: skip
_TELLS_NOTHING = frozenset({"301", "400", "401", "403"})
#: Errors of the whole place, and so of every object.
_OF_THE_PLACE = (BadCredentials, StoreGone, StoreFull)


def _from_answer(error: ClientError, what: str, place: str) -> StoreError:
    """Return the StoreError for an error answer of the store."""
    answer: Mapping[str, Any] = error.response.get("Error", {})
    code = _code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "InvalidObjectState":
        storage = answer.get("StorageClass", "an archive's storage class")
        return Archived(f"{what}: archived ({storage}): restore it first, then run the command again ({code})")
    unknown = _OVERLOADED if status >= 500 else (StoreError, str(error))
    by_status = _KEY_FOR_BYTES if code.startswith("KMS.") else _STATUSES.get(status, unknown)
    kind, cure = _ANSWERS.get(code) or by_status
    if (kind, cure) == _REGION and (region := answer.get("Region") or _region_header(error)):
        cure = f"the bucket lies in the region {region}: set APF_S3_REGION={region}"
    return kind(f"{place if issubclass(kind, _OF_THE_PLACE) else what}: {cure} ({code or status})")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _region_header(error: ClientError) -> str:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", ""))


def _condition(over: str | None) -> _Condition:
    if over is None:
        return {}
    return {"IfMatch": f'"{over}"'} if over else {"IfNoneMatch": "*"}


@contextmanager
def _conditionally(over: str | None) -> Iterator[None]:
    """Tell what a store answers to a write for its condition."""
    try:
        yield
    except StoreError as error:
        code = _code(error.__cause__) if isinstance(error.__cause__, ClientError) else ""
        if over is not None and code == "NotImplemented":
            raise NoConditions(str(error)) from error
        if over is not None and code == "NoSuchKey":  # so AWS says that the version to be replaced is gone
            raise Changed(str(error)) from error
        raise


def _info(key: str, found: Mapping[str, Any]) -> ObjectInfo:
    metadata = {name.lower(): value for name, value in found["Metadata"].items()}
    size, etag, changed = found["ContentLength"], _unquoted(found["ETag"]), found["LastModified"]
    return ObjectInfo(key=key, size=size, etag=etag, metadata=metadata, last_modified=changed)


def _unquoted(etag: str) -> str:
    return etag.strip('"')


_MAKING = threading.Lock()


def _shared_client(options: S3Options) -> S3Client:
    """One client for all stores with these options; clients are safe to share between threads, making them is not."""
    with _MAKING:
        return _client(options)


@cache
def _client(options: S3Options) -> S3Client:
    own = options.endpoint_url is not None
    style = "path" if own and options.addressing_style == "auto" else options.addressing_style
    checksums = options.checksums or ("when_required" if own else "when_supported")
    config = Config(
        retries={"mode": "standard", "total_max_attempts": options.max_attempts},
        max_pool_connections=options.max_pool_connections,
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        s3={"addressing_style": style},
        tcp_keepalive=True,
        user_agent_extra="apf-protect",
    )
    session = boto3.session.Session()
    return session.client("s3", endpoint_url=options.endpoint_url, region_name=options.region, config=config)
