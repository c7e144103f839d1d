#!/usr/bin/env bash
# A real S3-compatible server on loopback: OpenStack Swift with s3api, one replica, tempauth.
# Needs root and, on Debian 12: apt-get install swift-proxy swift-object swift-container swift-account memcached
# Usage: swift-s3.sh DIR [PORT]     key apf:apf, secret secretsecret, path addressing; no conditional PUT.
# Key apf:reader, secret readerreader, may do what a container's ACL says, and nothing at first.
# Takes PORT to PORT + 3, and PORT + 5. Stop with: for f in DIR/run/*.pid; do kill -- -$(cat $f); done
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd); port=${2:-8081}
mkdir -p "$dir"/{etc,srv/d1,run}; chmod 755 "$dir"
cat >"$dir/etc/swift.conf" <<EOF
[swift-hash]
swift_hash_path_prefix = test
swift_hash_path_suffix = test
[storage-policy:0]
name = gold
default = yes
EOF
cat >"$dir/etc/proxy-server.conf" <<EOF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
user = swift
swift_dir = $dir/etc
workers = 0
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth bulk slo dlo versioned_writes proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_apf_apf = secretsecret .admin
user_apf_reader = readerreader
[filter:s3api]
use = egg:swift#s3api
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$((port + 5))
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
EOF
offset=1
for server in account container object; do
  p=$((port + offset)); offset=$((offset + 1))
  cat >"$dir/etc/$server-server.conf" <<EOF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $p
user = swift
swift_dir = $dir/etc
devices = $dir/srv
mount_check = false
workers = 0
log_level = WARNING
[pipeline:main]
pipeline = $server-server
[app:$server-server]
use = egg:swift#$server
EOF
done
# One process for all three rings: swift-ring-builder takes seconds to start, nine times.
/usr/bin/python3 - "$dir/etc" "$port" <<'EOF'
import sys
from swift.common.ring import RingBuilder

folder, port = sys.argv[1], int(sys.argv[2])
for offset, name in enumerate(["account", "container", "object"], start=1):
    builder = RingBuilder(8, 1, 1)
    device = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port + offset, "device": "d1", "weight": 1}
    builder.add_dev({**device, "replication_ip": "127.0.0.1", "replication_port": port + offset, "meta": ""})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
EOF
chown -R swift:swift "$dir"
setsid memcached -u nobody -l 127.0.0.1 -p $((port + 5)) >"$dir/run/memcached.log" 2>&1 &
echo $! >"$dir/run/memcached.pid"
for server in account container object proxy; do
  setsid swift-$server-server "$dir/etc/$server-server.conf" >"$dir/run/$server.log" 2>&1 &
  echo $! >"$dir/run/$server.pid"
done
for _ in $(seq 200); do curl -fs "http://127.0.0.1:$port/healthcheck" >/dev/null && exit 0; sleep 0.2; done
echo "Swift did not answer on port $port; logs in $dir/run" >&2; exit 1
