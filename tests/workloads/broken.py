"""Dies at once, every time."""

print("about to fail")
raise ValueError("this script is broken")
