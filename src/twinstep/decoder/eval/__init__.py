"""What the model has learnt, on what it has not seen."""
