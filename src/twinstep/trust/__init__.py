"""What agents hold to know each other, and how a connection proves itself."""
