"""Chooses the nearest good copy of each lost shard, then reads and verifies it."""
