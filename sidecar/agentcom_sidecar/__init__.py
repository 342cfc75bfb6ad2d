"""The daemon that runs on every host: agents, worktrees, commands, verification, outbox."""
