"""Text in, token windows out: reading corpora, splitting, packing, and batches for training."""
