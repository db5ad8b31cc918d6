"""What a trainer runs on: devices, precisions, processes."""
