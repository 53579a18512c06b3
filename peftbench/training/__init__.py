"""Training: batches, packing, the loop, optimizers, and the memory and work of one step. It knows no method."""
