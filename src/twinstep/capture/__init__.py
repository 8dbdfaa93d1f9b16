"""Turns live state into one shard of bytes in a slot."""
