"""Decides which machines hold which copies, and how likely none is lost."""
