"""Decides for a machine and for the cluster, and carries it out."""
