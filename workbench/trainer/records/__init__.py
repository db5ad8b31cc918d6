"""What a run writes and comes back from: where it is, what it has spent, its folder and its checkpoints."""
