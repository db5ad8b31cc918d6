"""Runs and what they rest on are made: prepared, launched, trained, evaluated and recorded."""
