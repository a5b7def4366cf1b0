"""Simulated dives: what happens, how it looks and sounds, what is said about it, and what judges give."""
