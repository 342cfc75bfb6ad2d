"""The loop in which a model works with tools, and its tools, confined to the worktree."""
