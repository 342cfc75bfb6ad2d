"""Standard tasks against real inference: a tiny model of random weights, served by llama.cpp in a process of its own.

`make engine` installs what it needs into build/engine and runs this; without that, or without Node, it is skipped.
"""
