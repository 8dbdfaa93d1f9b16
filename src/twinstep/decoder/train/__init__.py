"""One pure step, the loop around it, and where the time went."""
