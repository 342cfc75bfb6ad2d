"""Agent programs: how each is started and what it says. Data and parsers only; backends/process.py runs them."""
