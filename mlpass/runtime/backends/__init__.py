"""What a backend adds to the common kernels: where its own library is faster."""
