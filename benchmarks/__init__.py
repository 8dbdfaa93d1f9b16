"""Measurements: ratios within one run, printed and written as JSON."""
