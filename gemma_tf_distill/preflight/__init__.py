"""What a run would take of a TPU, by the TPU compiler's own verdict, before anyone pays for one."""
