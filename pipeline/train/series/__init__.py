"""What a training keeps on disk: checkpoints, segments, history."""
