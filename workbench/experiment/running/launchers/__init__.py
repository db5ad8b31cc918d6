"""Launchers: where the planned runs of an experiment are trained. One small file each; launcher.py says what one
promises, and choose.py finds the one that is asked for."""
