"""Training: the loop, its schedule, optimizer, checkpoints and log, on one process or many."""
