"""Run a shard: read, decode, filter, encode and write its photos. The producer never imports it."""
