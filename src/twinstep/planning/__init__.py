"""The command `twinstep plan`: reads a job, and shows what the planner says of it."""
