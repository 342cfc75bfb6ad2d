"""The compiled scheduling core; `agentcom._pysched.assign` says what each argument means."""

from agentcom._pysched import Buffer

def assign(
    task_group: Buffer,
    cand_start: Buffer,
    cand_agent: Buffer,
    cand_endpoint: Buffer,
    cand_cost_us: Buffer,
    agent_rank: Buffer,
    agent_free: Buffer,
    endpoint_free: Buffer,
    endpoint_step_us: Buffer,
    choice: Buffer,
) -> int: ...
