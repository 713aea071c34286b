"""One weight matrix and its Gram in, a pruned matrix out: arrays only, no idea of programs."""
