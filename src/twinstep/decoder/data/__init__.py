"""From documents on this machine to batches: ds[k] is batch k."""
