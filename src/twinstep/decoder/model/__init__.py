"""The batch, the layers, and what is sampled from them."""
