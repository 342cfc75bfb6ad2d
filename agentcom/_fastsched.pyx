# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled scheduling core; `_pysched.py` is its readable twin and says what the arguments mean.

A greedy choice per task, made with two levels of heaps per group, built when its first task comes: one of
endpoints keyed by (cost of its best candidate, rank, endpoint), and below each endpoint one of its candidates
keyed by (cost, rank, index). During a call costs only grow and capacity only shrinks, so a key in a heap is
never too high: the top is looked at again before it is believed, and goes down when it has grown. Candidates
of one endpoint grow by the same step, so their order among themselves never changes. Endpoints that are full, and
can be waited for, stand in a third heap of each group, by the best of all their candidates; one that becomes full
during the call is put there at once.

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


cdef struct Wait:  # for an endpoint, by one group
    int64_t cost  # as it was when the key was last computed
    int64_t base  # without what this call adds
    int64_t rank
    int32_t endpoint
    int32_t index  # of the candidate
    int32_t group
    int32_t after  # the next group's for the same endpoint, or -1


cdef struct Group:
    Endpoint* endpoints
    int32_t* waits  # a heap of indexes into the waits of the scratch memory
    int32_t wait_count
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
    Wait* waits  # likewise
    int32_t* wait_heap  # likewise
    int32_t* wait_first  # per endpoint: of the waits for it that groups have, or -1
    int32_t* made  # that start or wait, per endpoint; the last is for "no endpoint" and stays 0
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
    s.waits = <Wait*> malloc(heap_items * sizeof(Wait))
    s.wait_heap = <int32_t*> malloc(heap_items * sizeof(int32_t))
    s.wait_first = <int32_t*> malloc((p.endpoints + 1) * sizeof(int32_t))
    if (s.groups and s.made and s.place and s.heap and s.endpoints and s.waits and s.wait_heap
            and s.wait_first):
        memset(s.place, 0xFF, (p.endpoints + 1) * sizeof(int32_t))
        memset(s.wait_first, 0xFF, (p.endpoints + 1) * sizeof(int32_t))
        assigned = run(p, &s)
    free(s.wait_first)
    free(s.wait_heap)
    free(s.waits)
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
        if chosen == -1:
            group.exhausted = True
            continue
        p.choice[task] = chosen
        if chosen < 0:
            s.made[p.cand_endpoint[-2 - chosen]] += 1
            continue
        p.agent_free[p.cand_agent[chosen]] = 0
        endpoint = p.cand_endpoint[chosen]
        if endpoint >= 0:
            p.endpoint_free[endpoint] -= 1
            s.made[endpoint] += 1
            if p.endpoint_free[endpoint] == 0:
                became_full(p, s, endpoint)
        agents_left -= 1
        assigned += 1
    return assigned


cdef inline bint can_be_waited_for(const Problem* p, int32_t endpoint) noexcept nogil:
    return endpoint >= 0 and p.endpoint_free[endpoint] <= 0 and p.endpoint_step[endpoint] > 0


cdef void became_full(const Problem* p, Scratch* s, int32_t endpoint) noexcept nogil:
    """From now on each group that is built can wait for it."""
    cdef int32_t at = s.wait_first[endpoint]
    while at >= 0:
        push_wait(p, s, &s.groups[s.waits[at].group], at)
        at = s.waits[at].after


cdef inline int64_t added(const Problem* p, const Scratch* s, int32_t endpoint) noexcept nogil:
    """What this call's assignments have added to the cost of a candidate on that endpoint."""
    return 0 if endpoint < 0 else p.endpoint_step[endpoint] * s.made[endpoint]


cdef int32_t scan(const Problem* p, const Scratch* s, int32_t group) noexcept nogil:
    """The best candidate of a group with a single task, or -1: one look at each is cheaper than heaps."""
    cdef Candidate best = Candidate(0, 0, -1, -1), one
    cdef int32_t best_endpoint = -1, index, endpoint
    cdef bint found = False, runs, best_runs = False, any_runs = False
    for index in range(p.cand_start[group], p.cand_start[group + 1]):
        endpoint = p.cand_endpoint[index]
        runs = can_run(p, index)
        if not runs and not can_be_waited_for(p, endpoint):
            continue
        any_runs |= runs
        one.cost = p.cand_cost[index] + added(p, s, endpoint)
        if found and one.cost > best.cost:
            continue
        one.agent, one.index = p.cand_agent[index], index
        one.rank = p.agent_rank[one.agent]
        if not found or is_before(&one, endpoint, &best, best_endpoint):
            found, best, best_endpoint, best_runs = True, one, endpoint, runs
    if not any_runs:
        return -1
    return best.index if best_runs else -2 - best.index


cdef inline bint is_before(const Candidate* a, int32_t a_on, const Candidate* b, int32_t b_on) noexcept nogil:
    """By the whole key; costs as they are now."""
    if a.cost != b.cost:
        return a.cost < b.cost
    if a.rank != b.rank:
        return a.rank < b.rank
    if a_on != b_on:
        return a_on < b_on
    return a.index < b.index


cdef int32_t take_best(const Problem* p, const Scratch* s, Group* group) noexcept nogil:
    """Take the best candidate out of the group's heaps, or -1 when none is left that can run."""
    cdef Endpoint* top = group.endpoints
    cdef Candidate best, wait
    cdef Wait* waits
    if not settle(p, s, group):
        return -1
    best = s.heap[top.first]
    if group.wait_count > 0:
        waits = settle_wait(p, s, group)
        wait.cost, wait.rank, wait.index = waits.cost, waits.rank, waits.index
        best.cost = top.cost
        if is_before(&wait, waits.endpoint, &best, top.endpoint):
            return -2 - wait.index
    drop_candidate(&s.heap[top.first], top)
    return best.index


cdef bint settle(const Problem* p, const Scratch* s, Group* group) noexcept nogil:
    """Bring the best candidate that can run to the top, its key as it is now; False when there is none."""
    cdef Endpoint* top = group.endpoints
    cdef Candidate* heap
    cdef int64_t cost
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
                return True
            top.cost, top.rank = cost, heap.rank
        sift_endpoint(group.endpoints, 0, group.endpoint_count)
    return False


cdef Wait* settle_wait(const Problem* p, const Scratch* s, Group* group) noexcept nogil:
    """Bring the best wait to the top, its key as it is now. There is one: a full endpoint stays full."""
    cdef Wait* top
    cdef int64_t cost
    while True:
        top = &s.waits[group.waits[0]]
        cost = top.base + added(p, s, top.endpoint)
        if cost == top.cost:
            return top
        top.cost = cost
        sift_wait(s.waits, group.waits, 0, group.wait_count)


cdef void push_wait(const Problem* p, Scratch* s, Group* group, int32_t wait) noexcept nogil:
    cdef int32_t at = group.wait_count, parent
    s.waits[wait].cost = s.waits[wait].base + added(p, s, s.waits[wait].endpoint)
    group.wait_count += 1
    while at > 0:
        parent = (at - 1) // 2
        if not wait_before(&s.waits[wait], &s.waits[group.waits[parent]]):
            break
        group.waits[at] = group.waits[parent]
        at = parent
    group.waits[at] = wait


cdef void drop_candidate(Candidate* heap, Endpoint* owner) noexcept nogil:
    owner.count -= 1
    heap[0] = heap[owner.count]
    sift_candidate(heap, 0, owner.count)


cdef void build(const Problem* p, Scratch* s, int32_t group_index) noexcept nogil:
    """Sort a group's usable candidates into its endpoints (a counting sort), then make the heaps."""
    cdef Group* group = &s.groups[group_index]
    cdef int32_t start = p.cand_start[group_index], end = p.cand_start[group_index + 1]
    cdef int32_t index, endpoint, first = start, runnable = 0
    cdef Endpoint* own
    cdef Candidate* candidate
    group.built = True
    group.endpoints = &s.endpoints[start]
    group.waits = &s.wait_heap[start]
    find_endpoints(p, s, group_index)
    for index in range(group.endpoint_count):
        own = &group.endpoints[index]
        own.first = first
        first += own.count
        own.count = 0
    for index in range(start, end):
        if not can_run(p, index):
            continue
        endpoint = p.cand_endpoint[index]
        own = &group.endpoints[s.place[endpoint if endpoint >= 0 else <int32_t> p.endpoints]]
        candidate = &s.heap[own.first + own.count]
        candidate.agent, candidate.index = p.cand_agent[index], index
        candidate.cost, candidate.rank = p.cand_cost[index], p.agent_rank[candidate.agent]
        own.count += 1
    for index in range(group.endpoint_count):
        own = &group.endpoints[index]
        s.place[own.endpoint if own.endpoint >= 0 else <int32_t> p.endpoints] = -1
        note_wait(p, s, group, start + index)
        if own.count == 0:
            continue
        heapify_candidates(&s.heap[own.first], own.count)
        own.cost = s.heap[own.first].cost + added(p, s, own.endpoint)
        own.rank = s.heap[own.first].rank
        group.endpoints[runnable] = own[0]
        runnable += 1
    group.endpoint_count = runnable
    for index in range(group.endpoint_count // 2 - 1, -1, -1):
        sift_endpoint(group.endpoints, index, group.endpoint_count)


cdef void find_endpoints(const Problem* p, Scratch* s, int32_t group_index) noexcept nogil:
    """Count the candidates that can run per endpoint, and find the best of all for a wait."""
    cdef Group* group = &s.groups[group_index]
    cdef int32_t start = p.cand_start[group_index], index, endpoint, slot
    cdef Endpoint* own
    cdef Wait* wait
    cdef bint runs, may_wait
    for index in range(start, p.cand_start[group_index + 1]):
        endpoint = p.cand_endpoint[index]
        runs = can_run(p, index)
        may_wait = endpoint >= 0 and p.endpoint_step[endpoint] > 0
        if not runs and not may_wait:
            continue
        slot = endpoint if endpoint >= 0 else <int32_t> p.endpoints
        if s.place[slot] < 0:
            s.place[slot] = group.endpoint_count
            own = &group.endpoints[group.endpoint_count]
            own.endpoint, own.count = endpoint, 0
            wait = &s.waits[start + group.endpoint_count]
            wait.endpoint, wait.index, wait.group = endpoint, -1, group_index
            group.endpoint_count += 1
        group.endpoints[s.place[slot]].count += runs
        if may_wait:
            wait = &s.waits[start + s.place[slot]]
            if wait.index < 0 or p.cand_cost[index] < wait.base or (
                p.cand_cost[index] == wait.base and p.agent_rank[p.cand_agent[index]] < wait.rank
            ):
                wait.base, wait.rank = p.cand_cost[index], p.agent_rank[p.cand_agent[index]]
                wait.index = index


cdef void note_wait(const Problem* p, Scratch* s, Group* group, int32_t at) noexcept nogil:
    """Let the group wait for the endpoint: now if it is full, else as soon as it becomes so."""
    cdef Wait* wait = &s.waits[at]
    if wait.index < 0:
        return
    wait.after = s.wait_first[wait.endpoint]
    s.wait_first[wait.endpoint] = at
    if p.endpoint_free[wait.endpoint] <= 0:
        push_wait(p, s, group, at)


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


cdef inline bint wait_before(const Wait* a, const Wait* b) noexcept nogil:
    if a.cost != b.cost:
        return a.cost < b.cost
    if a.rank != b.rank:
        return a.rank < b.rank
    return a.endpoint < b.endpoint


cdef void sift_wait(const Wait* waits, int32_t* heap, int32_t at, int32_t count) noexcept nogil:
    cdef int32_t moved = heap[at], child
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and wait_before(&waits[heap[child + 1]], &waits[heap[child]]):
            child += 1
        if not wait_before(&waits[heap[child]], &waits[moved]):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved
