"""What runs a task: a command, a local model, Claude. base.py is the interface of those with a model."""
