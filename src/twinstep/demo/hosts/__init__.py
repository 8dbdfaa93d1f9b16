"""Machines on one computer that have nothing in common: own network, own processes."""
