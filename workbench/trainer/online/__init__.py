"""What trainers that sample their own data are made of: completions are drawn, judged, learned from and recorded."""
