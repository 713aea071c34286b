"""Who carries a plan out: on a package, or on a program in place."""
