"""MIL programs: read as a small immutable graph, and edited where they live."""
