"""The only files that name a framework."""
