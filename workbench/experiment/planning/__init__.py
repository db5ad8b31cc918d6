"""What would run, what is there already, what has changed, and what it takes: nothing here trains."""
