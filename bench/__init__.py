"""Benchmarks: each prints a table, or with --json one document that names the machine and the commit.

Figures of one machine in one minute: compare rows of one run, never figures of two.
"""
