"""The fault rig: real hubs and sidecars under kills, freezes, a bad network, a full disk and clocks that jump.

Each run gives one JSON line with its counts (report.py). `python -m tests.faults --minutes 10 --json` runs the
long column; the tests beside it run the short one.
"""
