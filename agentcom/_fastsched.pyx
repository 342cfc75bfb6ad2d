# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled scheduling core; `_pysched.py` is its readable twin and says what the arguments mean.

A greedy choice per task, made with two levels of heaps per group, built when its first task comes: one of
endpoints keyed by (cost of its best candidate, rank, endpoint), and below each endpoint one of its candidates
keyed by (cost, rank, index). During a call costs only grow and capacity only shrinks, so a key in a heap is
never too high: the top is looked at again before it is believed, and goes down when it has grown. Candidates
of one endpoint grow by the same step, so their order among themselves never changes.

Every index is checked before the first write, because nothing is checked after.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from agentcom import _pysched

# Calls of more tasks and candidates than this let other threads run; smaller ones are over before a thread
# could be woken, and taking the lock back would cost them more than the work.
cdef int64_t RELEASE_ABOVE = 20_000
cdef int64_t INT32_LIMIT = 0x7FFF_FFFE


cdef struct Candidate:
    int64_t cost  # without what this call's assignments add
    int64_t rank
    int32_t agent
    int32_t index


cdef struct Endpoint:  # of one group
    int64_t cost  # of its best candidate, as it was when the key was last computed
    int64_t rank
    int32_t endpoint
    int32_t first  # of its candidates in the scratch array; they are a heap
    int32_t count


cdef struct Group:
    Endpoint* endpoints
    int64_t tasks  # in this call
    int32_t endpoint_count
    bint built
    bint exhausted


cdef struct Problem:
    const int32_t* task_group
    const int32_t* cand_start
    const int32_t* cand_agent
    const int32_t* cand_endpoint
    const int64_t* cand_cost
    const int64_t* agent_rank
    int32_t* agent_free
    int32_t* endpoint_free
    const int64_t* endpoint_step
    int32_t* choice
    int64_t tasks
    int64_t groups
    int64_t candidates
    int64_t agents
    int64_t endpoints


cdef struct Scratch:
    Group* groups
    Candidate* heap  # each group uses the same range as in cand_*
    Endpoint* endpoints  # likewise
    int32_t* made  # assignments of this call, per endpoint; the last is for "no endpoint" and stays 0
    int32_t* place  # of an endpoint in the group that is being built, while it is; else -1


def assign(
    const int32_t[::1] task_group not None,
    const int32_t[::1] cand_start not None,
    const int32_t[::1] cand_agent not None,
    const int32_t[::1] cand_endpoint not None,
    const int64_t[::1] cand_cost_us not None,
    const int64_t[::1] agent_rank not None,
    int32_t[::1] agent_free not None,
    int32_t[::1] endpoint_free not None,
    const int64_t[::1] endpoint_step_us not None,
    int32_t[::1] choice not None,
):
    """As `agentcom._pysched.assign`; O(candidates) once, then O(log candidates) per task."""
    cdef Problem problem
    cdef int64_t assigned

    if not (
        cand_start.shape[0] > 0
        and choice.shape[0] == task_group.shape[0]
        and cand_endpoint.shape[0] == cand_agent.shape[0]
        and cand_cost_us.shape[0] == cand_agent.shape[0]
        and agent_free.shape[0] == agent_rank.shape[0]
        and endpoint_step_us.shape[0] == endpoint_free.shape[0]
    ):
        return _refuse(task_group, cand_start, cand_agent, cand_endpoint, cand_cost_us, agent_rank,
                       agent_free, endpoint_free, endpoint_step_us, choice)
    problem.tasks = task_group.shape[0]
    problem.groups = cand_start.shape[0] - 1
    problem.candidates = cand_agent.shape[0]
    problem.agents = agent_rank.shape[0]
    problem.endpoints = endpoint_free.shape[0]
    problem.task_group = &task_group[0] if problem.tasks else NULL
    problem.cand_start = &cand_start[0]
    problem.cand_agent = &cand_agent[0] if problem.candidates else NULL
    problem.cand_endpoint = &cand_endpoint[0] if problem.candidates else NULL
    problem.cand_cost = &cand_cost_us[0] if problem.candidates else NULL
    problem.agent_rank = &agent_rank[0] if problem.agents else NULL
    problem.agent_free = &agent_free[0] if problem.agents else NULL
    problem.endpoint_free = &endpoint_free[0] if problem.endpoints else NULL
    problem.endpoint_step = &endpoint_step_us[0] if problem.endpoints else NULL
    problem.choice = &choice[0] if problem.tasks else NULL

    if shares_memory(&problem) or not in_bounds(&problem):
        return _refuse(task_group, cand_start, cand_agent, cand_endpoint, cand_cost_us, agent_rank,
                       agent_free, endpoint_free, endpoint_step_us, choice)
    if problem.tasks + problem.candidates > RELEASE_ABOVE:
        with nogil:
            assigned = solve(&problem)
    else:
        assigned = solve(&problem)
    if assigned < 0:
        raise MemoryError(f"no memory to schedule {problem.tasks} tasks on {problem.candidates} candidates")
    return assigned


def _refuse(*buffers):
    """Let the twin say what is wrong, so that both say the same."""
    _pysched.check(*[getattr(buffer, "base", buffer) for buffer in buffers])
    raise ValueError("buffers share memory where one of them is written")


cdef bint overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) noexcept nogil:
    return a_bytes > 0 and b_bytes > 0 and <char*> a < <char*> b + b_bytes and <char*> b < <char*> a + a_bytes


cdef bint shares_memory(const Problem* p) noexcept nogil:
    """Whether a buffer that is written lies in another: an index checked before could change after."""
    cdef const void** starts = [
        p.agent_free, p.endpoint_free, p.choice, p.task_group, p.cand_start, p.cand_agent, p.cand_endpoint,
        p.cand_cost, p.agent_rank, p.endpoint_step,
    ]
    cdef int64_t* sizes = [
        4 * p.agents, 4 * p.endpoints, 4 * p.tasks, 4 * p.tasks, 4 * (p.groups + 1), 4 * p.candidates,
        4 * p.candidates, 8 * p.candidates, 8 * p.agents, 8 * p.endpoints,
    ]
    cdef int written, other
    for written in range(3):
        for other in range(written + 1, 10):
            if overlap(starts[written], sizes[written], starts[other], sizes[other]):
                return True
    return False


cdef bint in_bounds(const Problem* p) noexcept nogil:
    """Whether every index and value is as the contract demands. No branches inside: the loops vectorise."""
    cdef int64_t i, costs = 0, steps = 0
    cdef uint32_t groups = <uint32_t> p.groups, agents = <uint32_t> p.agents
    cdef uint32_t endpoints = <uint32_t> p.endpoints, bad = 0

    if p.groups > INT32_LIMIT or p.agents > INT32_LIMIT or p.endpoints > INT32_LIMIT:
        return False
    if p.cand_start[0] != 0 or p.cand_start[p.groups] != p.candidates:
        return False
    for i in range(p.groups):
        bad |= p.cand_start[i] > p.cand_start[i + 1]
    for i in range(p.tasks):  # as unsigned, a negative index is above every bound
        bad |= <uint32_t> p.task_group[i] >= groups
    for i in range(p.candidates):
        bad |= <uint32_t> p.cand_agent[i] >= agents
    for i in range(p.candidates):
        bad |= <uint32_t> p.cand_endpoint[i] + 1 > endpoints  # -1 becomes 0
    for i in range(p.candidates):
        costs |= p.cand_cost[i]  # in the end not below the highest, and negative if one is
    for i in range(p.endpoints):
        steps |= p.endpoint_step[i]
    if bad or costs < 0 or steps < 0:
        return False
    return sum_fits(costs, steps, p.tasks) or sum_fits(
        highest(p.cand_cost, p.candidates), highest(p.endpoint_step, p.endpoints), p.tasks
    )


cdef bint sum_fits(int64_t cost, int64_t step, int64_t times) noexcept nogil:
    """Whether cost + step x times is within an int64; none may be negative."""
    return times == 0 or step <= (INT64_MAX - cost) // times


cdef int64_t highest(const int64_t* values, int64_t count) noexcept nogil:
    cdef int64_t found = 0, i
    for i in range(count):
        found = values[i] if values[i] > found else found
    return found


cdef int64_t solve(Problem* p) noexcept nogil:
    """The number of tasks assigned, or -1 when there is no memory; then nothing was written."""
    cdef Scratch s
    cdef int64_t assigned = -1
    cdef size_t heap_items = 1
    # Heaps are for groups with several tasks; a call without such a group needs no room for them.
    s.groups = <Group*> calloc(p.groups + 1, sizeof(Group))
    s.made = <int32_t*> calloc(p.endpoints + 1, sizeof(int32_t))
    s.place = <int32_t*> malloc((p.endpoints + 1) * sizeof(int32_t))
    if s.groups != NULL and count_tasks(p, s.groups):
        heap_items = p.candidates + 1
    s.heap = <Candidate*> malloc(heap_items * sizeof(Candidate))
    s.endpoints = <Endpoint*> malloc(heap_items * sizeof(Endpoint))
    if s.groups and s.made and s.place and s.heap and s.endpoints:
        memset(s.place, 0xFF, (p.endpoints + 1) * sizeof(int32_t))
        assigned = run(p, &s)
    free(s.endpoints)
    free(s.heap)
    free(s.place)
    free(s.made)
    free(s.groups)
    return assigned


cdef bint count_tasks(const Problem* p, Group* groups) noexcept nogil:
    """Count each group's tasks; whether one has several."""
    cdef int64_t i
    cdef bint several = False
    for i in range(p.tasks):
        groups[p.task_group[i]].tasks += 1
        several |= groups[p.task_group[i]].tasks > 1
    return several


cdef int64_t run(Problem* p, Scratch* s) noexcept nogil:
    cdef int64_t assigned = 0, agents_left = 0, task
    cdef int32_t chosen, endpoint
    cdef Group* group
    for task in range(p.agents):
        agents_left += p.agent_free[task] != 0
    for task in range(p.tasks):
        p.choice[task] = -1
    for task in range(p.tasks):
        if agents_left == 0:
            break
        group = &s.groups[p.task_group[task]]
        if group.exhausted:
            continue
        if group.tasks == 1:
            chosen = scan(p, s, p.task_group[task])
        else:
            if not group.built:
                build(p, s, p.task_group[task])
            chosen = take_best(p, s, group)
        if chosen < 0:
            group.exhausted = True
            continue
        p.choice[task] = chosen
        p.agent_free[p.cand_agent[chosen]] = 0
        endpoint = p.cand_endpoint[chosen]
        if endpoint >= 0:
            p.endpoint_free[endpoint] -= 1
            s.made[endpoint] += 1
        agents_left -= 1
        assigned += 1
    return assigned


cdef inline int64_t added(const Problem* p, const Scratch* s, int32_t endpoint) noexcept nogil:
    """What this call's assignments have added to the cost of a candidate on that endpoint."""
    return 0 if endpoint < 0 else p.endpoint_step[endpoint] * s.made[endpoint]


cdef int32_t scan(const Problem* p, const Scratch* s, int32_t group) noexcept nogil:
    """The best candidate of a group with a single task, or -1: one look at each is cheaper than heaps."""
    cdef int32_t best = -1, best_endpoint = -1, index, agent, endpoint
    cdef int64_t best_cost = INT64_MAX, best_rank = INT64_MAX, cost, rank
    cdef bint tied
    for index in range(p.cand_start[group], p.cand_start[group + 1]):
        agent = p.cand_agent[index]
        endpoint = p.cand_endpoint[index]
        if not can_run(p, index):
            continue
        cost = p.cand_cost[index] + added(p, s, endpoint)
        if best >= 0 and cost > best_cost:
            continue
        rank = p.agent_rank[agent]
        tied = best >= 0 and cost == best_cost
        if not tied or rank < best_rank or (rank == best_rank and endpoint < best_endpoint):
            best, best_cost, best_rank, best_endpoint = index, cost, rank, endpoint
    return best


cdef int32_t take_best(const Problem* p, const Scratch* s, Group* group) noexcept nogil:
    """Take the best candidate out of the group's heaps, or -1 when none is left that can run."""
    cdef Endpoint* top = group.endpoints
    cdef Candidate* heap
    cdef int64_t cost
    cdef int32_t chosen
    while group.endpoint_count > 0:
        heap = &s.heap[top.first]
        if top.endpoint >= 0 and p.endpoint_free[top.endpoint] <= 0:
            top.count = 0
        while top.count > 0 and p.agent_free[heap.agent] == 0:
            drop_candidate(heap, top)
        if top.count == 0:
            group.endpoint_count -= 1
            top[0] = group.endpoints[group.endpoint_count]
        else:
            cost = heap.cost + added(p, s, top.endpoint)
            if cost == top.cost and heap.rank == top.rank:
                chosen = heap.index
                drop_candidate(heap, top)
                return chosen
            top.cost, top.rank = cost, heap.rank
        sift_endpoint(group.endpoints, 0, group.endpoint_count)
    return -1


cdef void drop_candidate(Candidate* heap, Endpoint* owner) noexcept nogil:
    owner.count -= 1
    heap[0] = heap[owner.count]
    sift_candidate(heap, 0, owner.count)


cdef void build(const Problem* p, Scratch* s, int32_t group_index) noexcept nogil:
    """Sort a group's usable candidates into its endpoints (a counting sort), then make the heaps."""
    cdef Group* group = &s.groups[group_index]
    cdef int32_t start = p.cand_start[group_index], end = p.cand_start[group_index + 1]
    cdef int32_t index, agent, endpoint, slot, first = start
    cdef Endpoint* own
    cdef Candidate* candidate
    group.built = True
    group.endpoints = &s.endpoints[start]
    for index in range(start, end):
        if not can_run(p, index):
            continue
        endpoint = p.cand_endpoint[index]
        slot = endpoint if endpoint >= 0 else <int32_t> p.endpoints
        if s.place[slot] < 0:
            s.place[slot] = group.endpoint_count
            own = &group.endpoints[group.endpoint_count]
            own.endpoint, own.count = endpoint, 0
            group.endpoint_count += 1
        group.endpoints[s.place[slot]].count += 1
    for index in range(group.endpoint_count):
        own = &group.endpoints[index]
        own.first = first
        first += own.count
        own.count = 0
    for index in range(start, end):
        if not can_run(p, index):
            continue
        agent = p.cand_agent[index]
        endpoint = p.cand_endpoint[index]
        own = &group.endpoints[s.place[endpoint if endpoint >= 0 else <int32_t> p.endpoints]]
        candidate = &s.heap[own.first + own.count]
        candidate.cost, candidate.rank = p.cand_cost[index], p.agent_rank[agent]
        candidate.agent, candidate.index = agent, index
        own.count += 1
    for index in range(group.endpoint_count):
        own = &group.endpoints[index]
        s.place[own.endpoint if own.endpoint >= 0 else <int32_t> p.endpoints] = -1
        heapify_candidates(&s.heap[own.first], own.count)
        own.cost = s.heap[own.first].cost + added(p, s, own.endpoint)
        own.rank = s.heap[own.first].rank
    for index in range(group.endpoint_count // 2 - 1, -1, -1):
        sift_endpoint(group.endpoints, index, group.endpoint_count)


cdef inline bint can_run(const Problem* p, int32_t index) noexcept nogil:
    cdef int32_t endpoint = p.cand_endpoint[index]
    return p.agent_free[p.cand_agent[index]] != 0 and (endpoint < 0 or p.endpoint_free[endpoint] > 0)


cdef void heapify_candidates(Candidate* heap, int32_t count) noexcept nogil:
    cdef int32_t at
    for at in range(count // 2 - 1, -1, -1):
        sift_candidate(heap, at, count)


cdef inline bint candidate_before(const Candidate* a, const Candidate* b) noexcept nogil:
    if a.cost != b.cost:
        return a.cost < b.cost
    if a.rank != b.rank:
        return a.rank < b.rank
    return a.index < b.index


cdef inline bint endpoint_before(const Endpoint* a, const Endpoint* b) noexcept nogil:
    if a.cost != b.cost:
        return a.cost < b.cost
    if a.rank != b.rank:
        return a.rank < b.rank
    return a.endpoint < b.endpoint


cdef void sift_candidate(Candidate* heap, int32_t at, int32_t count) noexcept nogil:
    cdef Candidate moved
    cdef int32_t child
    if at >= count:
        return
    moved = heap[at]
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and candidate_before(&heap[child + 1], &heap[child]):
            child += 1
        if not candidate_before(&heap[child], &moved):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


cdef void sift_endpoint(Endpoint* heap, int32_t at, int32_t count) noexcept nogil:
    cdef Endpoint moved
    cdef int32_t child
    if at >= count:
        return
    moved = heap[at]
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and endpoint_before(&heap[child + 1], &heap[child]):
            child += 1
        if not endpoint_before(&heap[child], &moved):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved
