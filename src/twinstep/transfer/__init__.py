"""Moves copies between machines, verified chunk by chunk."""
