"""Trains a small model while ranks and machines are killed, and compares."""
