"""A bucket as a store, through boto3. Loading this module takes long: open stores through `open_store`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
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
    BadCredentials,
    Changed,
    Forbidden,
    InvalidKey,
    NoConditions,
    NotFound,
    ObjectTooLarge,
    StoreError,
    StoreGone,
    StoreUnavailable,
)
from workers.store.base import (
    AFTER_ALL,
    NO_METADATA,
    RESERVED,
    Blob,
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

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[ObjectInfo]:
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
            return [found["Prefix"][root:-1] for page in pages for found in page.get("CommonPrefixes", [])]

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
        with self._knowing_conditions(over), self._explained(key):
            written = self._client.put_object(
                Bucket=self._bucket,
                Key=self._root + key,
                Body=data,
                ContentType=content_type,
                Metadata=kept,
                **_condition(over),
            )
        # Swift answers 202 without an ETag when someone else wrote the key in the same moment, and theirs stays.
        return ObjectInfo(key=key, size=len(data), etag=_unquoted(written.get("ETag", "")), metadata=kept)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        try:
            with self._explained(key):
                self._client.put_object(Bucket=self._bucket, Key=self._root + key, Body=data, IfNoneMatch="*")
        except Changed:
            return False
        return True

    def clock(self) -> datetime:
        with self._explained(""):
            answer = self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def delete(self, key: str) -> None:
        check_key(key)
        with self._explained(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._root + key)

    @contextmanager
    def _knowing_conditions(self, over: str | None) -> Iterator[None]:
        """The block is not tried again with a condition where the store once said that it knows none."""
        if over is not None and (self._client, self._bucket) in _UNCONDITIONAL:
            raise NoConditions(f"{self.url} knows no conditional writes")
        try:
            yield
        except NoConditions:
            _UNCONDITIONAL.add((self._client, self._bucket))
            raise

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turns what botocore raises into a StoreError that names the object and the cure."""
        what = f"{key!r} in {self.url}" if key else self.url
        try:
            yield
        except ClientError as error:
            raise _from_answer(error, what) from error
        except _NO_CREDENTIALS as error:
            raise BadCredentials(f"{what}: no usable S3 credentials ({error}): {_CREDENTIALS_CURE}") from error
        except NoRegionError as error:
            raise StoreError(f"{what}: no region is set: set APF_S3_REGION or AWS_DEFAULT_REGION") from error
        except _LOST as error:
            raise StoreUnavailable(f"{what}: the store did not answer whole or in time: {error}") from error
        except BotoCoreError as error:
            raise StoreError(f"{what}: {error}") from error


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
_CHANGED = (Changed, "it has changed since it was planned: run the command again")
_DENIED = (Forbidden, "access denied: these credentials need s3:ListBucket, s3:GetObject and s3:PutObject there")
_OVERLOADED = (StoreUnavailable, "the store failed or asked to slow down")
_NO_OBJECT = (NotFound, "there is no such object")

_ANSWERS: dict[str, tuple[type[StoreError], str]] = {
    "NoSuchBucket": (StoreGone, "the bucket does not exist: check its name and APF_S3_ENDPOINT_URL, or make it"),
    "InvalidBucketName": (StoreGone, "no bucket can have this name: correct it"),
    "NoSuchKey": _NO_OBJECT,
    "PreconditionFailed": _CHANGED,
    "KeyTooLongError": (InvalidKey, "the key with its prefix is over 1024 bytes: rename the object"),
    "RequestTimeTooSkewed": (Forbidden, "this machine's clock is wrong by minutes: set it"),
    **dict.fromkeys(
        ["ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"],
        _BAD_CREDENTIALS,
    ),
    "ConditionalRequestConflict": _CHANGED,
    "NotImplemented": (NoConditions, "the store does not know what was asked of it"),
    **dict.fromkeys(
        ["OperationAborted", "RequestLimitExceeded", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"],
        _OVERLOADED,
    ),
}
#: A HEAD's answer has no body, and so only a status.
_STATUSES = {401: _DENIED, 403: _DENIED, 404: _NO_OBJECT, 412: _CHANGED, 429: _OVERLOADED}

#: Buckets, by the clients that have found so, whose store refuses conditional writes as unknown to it.
_UNCONDITIONAL: set[tuple[S3Client, str]] = set()


def _from_answer(error: ClientError, what: str) -> StoreError:
    """The StoreError for an error answer of the store."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    unknown = _OVERLOADED if status >= 500 else (StoreError, str(error))
    kind, cure = _ANSWERS.get(code) or _STATUSES.get(status, unknown)
    return kind(f"{what}: {cure} ({code or status})")


def _condition(over: str | None) -> _Condition:
    if over is None:
        return {}
    return {"IfMatch": f'"{over}"'} if over else {"IfNoneMatch": "*"}


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
