"""Keeps copies in memory; the old is given up only after the new is safe."""
