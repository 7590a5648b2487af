"""What the compiler does for us: programs compiled for TPUs on a machine that has none."""
