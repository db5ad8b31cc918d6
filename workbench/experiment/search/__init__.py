"""Search: trials of settings that are chosen one after another, and the best of them confirmed on fresh seeds."""
