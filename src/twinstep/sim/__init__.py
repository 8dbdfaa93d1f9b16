"""A whole cluster of the shipped decisions in one thread, from one seed."""
