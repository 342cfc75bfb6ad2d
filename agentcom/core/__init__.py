"""The deterministic core: events and the time in, effects out. No I/O, no clock, no randomness."""
