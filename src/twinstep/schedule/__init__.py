"""When a chunk may use the network: while training does not."""
