"""Gives a machine for a failed one."""
