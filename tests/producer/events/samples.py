"""Events as stores send them, each with the document or source that shows its form.

Values are made up where theirs are placeholders.
"""

from __future__ import annotations

import json
from typing import Any

ETAG = "d41d8cd98f00b204e9800998ecf8427e"


def s3_record(key: str, name: str = "ObjectCreated:Put", **item: Any) -> dict[str, Any]:
    """AWS S3: docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html, version 2.1."""
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-west-2",
        "eventTime": "1970-01-01T00:00:00.000Z",
        "eventName": name,
        "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZQpcIZ9"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "testConfigRule",
            "bucket": {
                "name": "uploads",
                "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": "arn:aws:s3:::uploads",
            },
            "object": {"key": key, "size": 1024, "eTag": ETAG, "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                       "sequencer": "0055AED6DCD90281E5", **item},
        },
    }  # fmt: skip


AWS = {"Records": [s3_record("red+flower%C3%A9%2B1.jpg")]}

#: The same page: what S3 sends when notifications are set up.
AWS_TEST = {
    "Service": "Amazon S3",
    "Event": "s3:TestEvent",
    "Time": "2014-10-13T15:57:02.089Z",
    "Bucket": "uploads",
    "RequestId": "5582815E1AEA5ADF",
    "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
}

#: SNS without raw delivery: docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html.
SNS = {
    "Type": "Notification",
    "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
    "TopicArn": "arn:aws:sns:us-west-2:123456789012:uploads",
    "Subject": "Amazon S3 Notification",
    "Message": json.dumps(AWS),
    "Timestamp": "2012-05-02T00:54:06.655Z",
    "SignatureVersion": "1",
    "Signature": "EXAMPLEw6JRN",
    "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem",
    "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe",
}
SNS_CONFIRMATION = {
    **SNS,
    "Type": "SubscriptionConfirmation",
    "Message": "You have chosen to subscribe",
    "Token": "2336",
}

#: EventBridge: docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html. Its keys are not encoded.
EVENTBRIDGE = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "Object Created",
    "source": "aws.s3",
    "account": "111122223333",
    "time": "2021-11-12T00:00:00Z",
    "region": "ca-central-1",
    "resources": ["arn:aws:s3:::uploads"],
    "detail": {
        "version": "0",
        "bucket": {"name": "uploads"},
        "object": {"key": "a b+c%41.jpg", "size": 5, "etag": ETAG, "version-id": "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
                   "sequencer": "617f08299329d189"},
        "request-id": "N4N7GDK58NMKJ12R",
        "requester": "123456789012",
        "source-ip-address": "1.2.3.4",
        "reason": "PutObject",
    },
}  # fmt: skip

#: MinIO: cmd/event-notification.go encodes the key with url.QueryEscape, slashes and all (minio/minio#11665).
_MINIO_RECORD = {
    "eventVersion": "2.0",
    "eventSource": "minio:s3",
    "awsRegion": "",
    "eventTime": "2019-10-22T09:27:27.123Z",
    "eventName": "s3:ObjectCreated:Put",
    "userIdentity": {"principalId": "AKIAIOSFODNN7EXAMPLE"},
    "requestParameters": {"accessKey": "AKIAIOSFODNN7EXAMPLE", "region": "", "sourceIPAddress": "172.16.118.255"},
    "responseElements": {"x-amz-request-id": "15CFEDF8D4736ED9", "x-minio-origin-endpoint": "http://172.17.0.2:9000"},
    "s3": {
        "s3SchemaVersion": "1.0",
        "configurationId": "Config",
        "bucket": {"name": "uploads", "ownerIdentity": {"principalId": "minio"}, "arn": "arn:aws:s3:::uploads"},
        "object": {
            "key": "ann%2Fhello+world.jpg",
            "size": 224662,
            "eTag": "5fc7298143efe1276d39a3466d4e255f-1",
            "contentType": "image/jpeg",
            "userMetadata": {"content-type": "image/jpeg"},
            "versionId": "1",
            "sequencer": "15CFEDF8D5304D1A",
        },
    },
    "source": {"host": "172.16.118.255", "port": "", "userAgent": "Mozilla/5.0"},
}
#: Its webhook: internal/event/target/webhook.go, event.Log.
MINIO_WEBHOOK = {"EventName": "s3:ObjectCreated:Put", "Key": "uploads/ann/hello world.jpg", "Records": [_MINIO_RECORD]}
#: Its Redis list, format "access": internal/event/target/redis.go, RedisAccessEvent.
MINIO_REDIS = [{"Event": [_MINIO_RECORD], "EventTime": "2019-10-22T09:27:27.123Z"}]

#: RustFS: rustfs/rustfs#1609 shows its webhook, and an event of a version that lost key and ETag.
RUSTFS_BROKEN = {
    "EventName": "s3:ObjectCreated:CompleteMultipartUpload",
    "Key": "uploads/",
    "Records": [
        {
            "eventName": "s3:ObjectCreated:CompleteMultipartUpload",
            "eventTime": "2026-01-25T17:06:42.778426801Z",
            "s3": {"bucket": {"name": "uploads"}, "object": {"key": "", "size": 0, "eTag": None}},
        }
    ],
}

#: Ceph: doc/radosgw/notifications.rst; rgw_notify.cc takes the key from obj->get_name(), as it is.
CEPH = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "ceph:s3",
            "awsRegion": "zonegroup1",
            "eventTime": "2019-11-22T13:47:35.124724Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "tester"},
            "requestParameters": {"sourceIPAddress": ""},
            "responseElements": {"x-amz-request-id": "503a4c37-85eb-47cd-8681-2817e80b4281.5330.903595"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "mynotif1",
                "bucket": {"name": "uploads", "ownerIdentity": {"principalId": "tester"}, "id": "503a4c37.5332.38"},
                "object": {
                    "key": "50%+off/my image.jpg",
                    "size": "1024",
                    "eTag": "37b51d194a7513e45b56f6524f2d51f2",
                    "versionId": "",
                    "sequencer": "F7E6D75DC742D108",
                    "metadata": [],
                    "tags": [],
                },
            },
            "eventId": "",
            "opaqueData": "me@example.com",
        }
    ]
}


def seaweedfs(kind: str, path: str, **message: Any) -> dict[str, Any]:
    """SeaweedFS: weed/notification/webhook/http.go, with filer_pb.EventNotification as Go's encoding/json writes it;
    which path and parent it sends, weed/filer/filer_notify.go.
    """
    return {"key": path, "event_type": kind, "message": {"signatures": [1], **message}}


#: The MD5 of "hello", in base64 as Go writes bytes.
SEAWEEDFS_ENTRY = {
    "name": "hello world.jpg",
    "chunks": [{"file_id": "3,01637037d6", "size": 5, "mtime": 1611297248363702000}],
    "attributes": {"file_size": 5, "mtime": 1611297248, "file_mode": 432, "mime": "image/jpeg",
                   "md5": "XUFAKrxLKna5cZ2REBfFkg=="},
}  # fmt: skip
SEAWEEDFS = seaweedfs(
    "create", "/buckets/uploads/ann/hello world.jpg", new_entry=SEAWEEDFS_ENTRY, new_parent_path="/buckets/uploads/ann"
)
SEAWEEDFS_MOVED = seaweedfs(
    "rename",
    "/buckets/uploads/tmp/1.jpg",
    old_entry={"name": "1.jpg"},
    new_entry=SEAWEEDFS_ENTRY,
    new_parent_path="/buckets/uploads/bob",
)
