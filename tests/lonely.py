"""Runs a queue, a store, a worker, a batch and the device's client in a network namespace, and reads every packet.

`unshare -n python -m tests.lonely FOLDER ALBUM REDIS_SERVER [--telemetry]` prints JSON: where packets went besides
queue and store. With `--telemetry` a plain ONNX Runtime runs instead, which must be found.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import boto3

REDIS, STORE = 16379, 18333
#: Nobody's (RFC 5737).
PROBE = ("192.0.2.1", 443)
#: ONNX Runtime reports after some 45 s.
LIVES_S = 65


class Packets:
    """Where TCP and UDP packets go, on all interfaces."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.ntohs(3))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            data, (_, kind, *_) = self._socket.recvfrom(65535)
            if kind == 0x0800 and data[9] in (6, 17):
                header = (data[0] & 15) * 4
                self.seen.add((socket.inet_ntoa(data[16:20]), int.from_bytes(data[header + 2 : header + 4])))
            elif kind == 0x86DD and data[6] in (6, 17):
                self.seen.add((socket.inet_ntop(socket.AF_INET6, data[24:40]), int.from_bytes(data[42:44])))


def foreign(seen: set[tuple[str, int]]) -> list[tuple[str, int]]:
    """Without queue and store, and what these answer to ports that the system gives."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ours = {("127.0.0.1", REDIS), ("127.0.0.1", STORE)}
    return sorted(one for one in seen - ours if one[0] != "127.0.0.1" or one[1] < low)


def main(folder: Path, album: Path, redis_server: str, telemetry: bool) -> None:
    # Every address is here, so that a packet to anywhere passes the loopback, and is refused.
    for command in ("link set lo up", "route add local default dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    packets = Packets()
    started: list[subprocess.Popen[bytes]] = []
    try:
        protected = 1 if telemetry else batch(folder, album, redis_server, started)
        if telemetry:
            code = f"import onnxruntime, time; time.sleep({LIVES_S})"
            subprocess.run([sys.executable, "-c", code], check=True)
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()
    found = foreign(set(packets.seen))
    with suppress(OSError):
        socket.create_connection(PROBE, timeout=0.5)
    time.sleep(0.5)
    print(json.dumps({"protected": protected, "foreign": found, "seen_probe": PROBE in packets.seen}))


def batch(folder: Path, album: Path, redis_server: str, started: list[subprocess.Popen[bytes]]) -> int:
    log = (folder / "log").open("wb")

    def start(*command: str) -> None:
        started.append(subprocess.Popen(command, stdout=log, stderr=log))

    os.environ |= {
        "APF_BROKER_URL": f"redis://127.0.0.1:{REDIS}/0",
        "APF_S3_ENDPOINT_URL": f"http://127.0.0.1:{STORE}",
        "APF_ALLOWED_URLS": "s3://photos s3://public",
        "APF_LEDGER_URL": "s3://ledgers",
    }
    begun = time.monotonic()
    start(redis_server, "--port", str(REDIS), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    start(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(STORE))
    client = boto3.client("s3", endpoint_url=os.environ["APF_S3_ENDPOINT_URL"])
    for bucket in ("photos", "public", "ledgers"):
        _made(client, bucket)
    for path in album.iterdir():
        client.put_object(Bucket="photos", Key=path.name, Body=path.read_bytes())
    start(sys.executable, "-m", "producer", "worker")
    protect = [sys.executable, "-m", "producer", "protect", "s3://photos", "s3://public", "--json"]
    ended = subprocess.run(protect, stdout=subprocess.PIPE, check=True, timeout=200)
    alone = [sys.executable, "-m", "producer", "private", "alone", str(album), "-o", str(folder / "alone")]
    subprocess.run(alone, stdout=subprocess.DEVNULL, check=True, timeout=100)
    time.sleep(max(0.0, LIVES_S - (time.monotonic() - begun)))
    return int(json.loads(ended.stdout)["protected"])


def _made(client: object, bucket: str) -> None:
    for _ in range(100):
        with suppress(Exception):
            client.create_bucket(Bucket=bucket)  # type: ignore[attr-defined]
            return
        time.sleep(0.2)
    raise SystemExit("the store does not answer")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], "--telemetry" in sys.argv)
