# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled incremental scheduler; `_pysched.py` is its readable twin and says what the arguments mean.

Rows live in C arrays. Each pool has heaps over its ways: `local`, endpoints that one host reaches, by (cost, agent);
`shared`, endpoints that all hosts reach, by cost, beside `hosts` by (cost, agent): the best pair is the two tops, since
the two costs add up; and `waits_local` and `waits_shared` of full endpoints. Shared endpoints that failed for some host
lately (`failing`) are looked at pair by pair. A host's free agents are a list in the order of their turn.

A key in a heap is never above the true one: what may lower a key is written to a log, which a pool reads when a tick
first needs it; what raises a key is not, and the top is looked at again before it is believed. So an idle pool costs
nothing. A tick changes rows as it places tasks and takes all of that back at its end.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from agentcom import _pysched
from agentcom._pysched import Parts

# An enum, since the compiler takes a variable of the module for one that may change.
cdef enum:
    ROWS_MAX = 1 << 20
    POOLS_MAX = 1 << 16
    TOPS_MAX = 16
cdef int64_t COST_US_MAX = 1_000_000_000_000_000
cdef int64_t CLOSED_US = COST_US_MAX
cdef int64_t STEP_US_MAX = 1_000_000_000_000
cdef int64_t SINCE_MS_MAX = <int64_t> 1 << 43
cdef int64_t SLOTS_MAX = 1 << 30
cdef int64_t TASKS_MAX = 1_000_000
cdef int64_t RELEASE_ABOVE = 5_000  # tasks; shorter ticks are over before another thread could be woken
cdef enum:
    ANY_HOST = -1
    OUT = 0
    BUSY = 1
    FREE = 2
# Where an endpoint stands in a pool: in no heap, or in which.
cdef enum:
    NOWHERE = -1
    LOCAL = 0
    SHARED = 1
    WAITS_LOCAL = 2
    WAITS_SHARED = 3
    FAILING = 4
    HEAPS = 5


cdef struct Node:
    int64_t cost
    int64_t rank
    int32_t place  # in its heap
    int32_t heap


cdef struct Heap:
    int32_t* items
    int32_t count


cdef struct Way:
    int64_t cost  # the sum of the four; -1 where there is no way
    int64_t wait
    int64_t load
    int64_t run
    int64_t host


cdef struct Pool:
    Way* ways  # by endpoint
    Node* nodes  # by endpoint
    Node* host_nodes  # by host
    int64_t* reach  # by host
    uint8_t* able  # by agent
    Heap heaps[5]
    Heap hosts  # those with a free agent that is able; kept where there is a way on a shared endpoint
    int64_t read  # of the log
    int32_t shared_ways
    int32_t also
    bint must_build
    bint is_used  # in this tick
    bint is_exhausted


cdef struct Host:
    int64_t cost  # raised by the starts of this tick
    int64_t step
    int32_t first_free
    int32_t last_free
    int32_t first_agent
    int32_t first_endpoint
    int64_t logged


cdef struct Agent:
    int64_t rank
    int32_t host  # -1: never set
    int32_t state
    int32_t before  # among the free ones of its host
    int32_t after
    int32_t next  # among all of its host


cdef struct Endpoint:
    int64_t added  # by this tick
    int64_t step
    int64_t failure  # on the host that alone reaches it
    int32_t host
    int32_t slots
    int32_t next  # among those that its host alone reaches
    int32_t first_failure
    int64_t logged


cdef struct Failure:
    int64_t cost
    int32_t host
    int32_t next


cdef struct Repo:
    int64_t missing
    int32_t* hosts
    int32_t count


cdef struct Placed:
    int32_t agent  # -1: the task waits
    int32_t endpoint


cdef struct Option:
    int64_t cost
    int64_t rank  # its lower bits are the agent
    int32_t endpoint  # -1: there is none


cdef struct State:
    Host* hosts
    Agent* agents
    Endpoint* endpoints
    Failure* failures
    Repo* repos
    Pool** pools
    int32_t* log  # an endpoint, or the complement of a host, that some key may have fallen by
    int32_t* used  # pools of this tick
    int64_t* failed  # by host: scratch memory, 0 between uses
    Placed* placed
    int32_t host_rows
    int32_t agent_rows
    int32_t endpoint_rows
    int32_t failure_rows
    int32_t failure_spare
    int32_t repo_rows
    int32_t pool_rows
    int32_t used_count
    int64_t logged
    int64_t log_room
    int64_t epoch  # what was logged since a pool last read the log is not logged again
    int64_t placed_room
    int64_t free_agents


# --- heaps ----------------------------------------------------------------------------------------------


cdef inline bint is_before(const Node* nodes, int32_t a, int32_t b) noexcept nogil:
    if nodes[a].cost != nodes[b].cost:
        return nodes[a].cost < nodes[b].cost
    if nodes[a].rank != nodes[b].rank:
        return nodes[a].rank < nodes[b].rank
    return a < b


cdef void sift_up(Node* nodes, Heap* heap, int32_t at) noexcept nogil:
    cdef int32_t moved = heap.items[at], parent
    while at > 0:
        parent = (at - 1) >> 1
        if not is_before(nodes, moved, heap.items[parent]):
            break
        heap.items[at] = heap.items[parent]
        nodes[heap.items[at]].place = at
        at = parent
    heap.items[at] = moved
    nodes[moved].place = at


cdef void sift_down(Node* nodes, Heap* heap, int32_t at) noexcept nogil:
    cdef int32_t moved = heap.items[at], child
    while 2 * at + 1 < heap.count:
        child = 2 * at + 1
        if child + 1 < heap.count and is_before(nodes, heap.items[child + 1], heap.items[child]):
            child += 1
        if not is_before(nodes, heap.items[child], moved):
            break
        heap.items[at] = heap.items[child]
        nodes[heap.items[at]].place = at
        at = child
    heap.items[at] = moved
    nodes[moved].place = at


cdef void put_in(Node* nodes, Heap* heap, int32_t item) noexcept nogil:
    heap.items[heap.count] = item
    heap.count += 1
    sift_up(nodes, heap, heap.count - 1)


cdef void take_out(Node* nodes, Heap* heap, int32_t item) noexcept nogil:
    cdef int32_t at = nodes[item].place
    heap.count -= 1
    if at == heap.count:
        return
    heap.items[at] = heap.items[heap.count]
    nodes[heap.items[at]].place = at
    mend(nodes, heap, heap.items[at])


cdef void mend(Node* nodes, Heap* heap, int32_t item) noexcept nogil:
    """The item's key has changed either way."""
    sift_up(nodes, heap, nodes[item].place)
    sift_down(nodes, heap, nodes[item].place)


cdef void heapify(Node* nodes, Heap* heap) noexcept nogil:
    cdef int32_t at
    for at in range((heap.count >> 1) - 1, -1, -1):
        sift_down(nodes, heap, at)


# --- what may lower a key -------------------------------------------------------------------------------


cdef void write_log(State* s, int32_t entry) noexcept nogil:
    cdef int32_t at
    if s.logged == s.log_room:  # every pool is told to look at everything; none has to remember so much
        s.logged = 0
        for at in range(s.pool_rows):
            if s.pools[at] != NULL:
                s.pools[at].must_build = True
                s.pools[at].read = 0
    s.log[s.logged] = entry
    s.logged += 1


cdef inline void touch_endpoint(State* s, int32_t endpoint) noexcept nogil:
    if s.endpoints[endpoint].logged != s.epoch:
        s.endpoints[endpoint].logged = s.epoch
        write_log(s, endpoint)


cdef inline void touch_host(State* s, int32_t host) noexcept nogil:
    if s.hosts[host].logged != s.epoch:
        s.hosts[host].logged = s.epoch
        write_log(s, ~host)


cdef inline int32_t first_able(const State* s, const Pool* pool, int32_t host) noexcept nogil:
    """The free agent of the host whose turn it is, or -1."""
    cdef int32_t agent = s.hosts[host].first_free
    while agent >= 0 and not pool.able[agent]:
        agent = s.agents[agent].after
    return agent


cdef bint has_able(const State* s, const Pool* pool, int32_t host) noexcept nogil:
    cdef int32_t agent = s.hosts[host].first_agent
    while agent >= 0:
        if s.agents[agent].state != OUT and pool.able[agent]:
            return True
        agent = s.agents[agent].next
    return False


cdef int32_t heap_of(const State* s, const Pool* pool, int32_t endpoint, Node* key) noexcept nogil:
    """In which heap of the pool the endpoint belongs as things are, and under which key."""
    cdef const Endpoint* e = &s.endpoints[endpoint]
    cdef int32_t agent
    if pool.ways[endpoint].cost < 0:
        return NOWHERE
    key.cost, key.rank = pool.ways[endpoint].cost + e.added, 0
    if e.host == ANY_HOST:
        if e.slots > 0:
            return SHARED if e.first_failure < 0 else FAILING
        return WAITS_SHARED if e.step > 0 and e.first_failure < 0 else NOWHERE
    key.cost += s.hosts[e.host].cost + e.failure
    if e.failure == CLOSED_US:
        return NOWHERE
    if e.slots > 0:
        agent = first_able(s, pool, e.host)
        if agent < 0:
            return NOWHERE
        key.rank = s.agents[agent].rank
        return LOCAL
    return WAITS_LOCAL if e.step > 0 and has_able(s, pool, e.host) else NOWHERE


cdef bint look(const State* s, Pool* pool, int32_t endpoint) noexcept nogil:
    """Put the endpoint where it belongs; whether anything has changed."""
    cdef Node* node = &pool.nodes[endpoint]
    cdef Node key
    cdef int32_t heap = heap_of(s, pool, endpoint, &key)
    if heap == node.heap:
        if heap == NOWHERE or (key.cost == node.cost and key.rank == node.rank):
            return False
        node.cost, node.rank = key.cost, key.rank
        mend(pool.nodes, &pool.heaps[heap], endpoint)
        return True
    if node.heap != NOWHERE:
        take_out(pool.nodes, &pool.heaps[node.heap], endpoint)
    node.heap = heap
    if heap != NOWHERE:
        node.cost, node.rank = key.cost, key.rank
        put_in(pool.nodes, &pool.heaps[heap], endpoint)
    return True


cdef bint look_at_host(const State* s, Pool* pool, int32_t host) noexcept nogil:
    """Likewise for the host as one from which shared endpoints are called."""
    cdef Node* node = &pool.host_nodes[host]
    cdef int32_t agent = first_able(s, pool, host)
    cdef int64_t cost
    if agent < 0:
        if node.heap == NOWHERE:
            return False
        take_out(pool.host_nodes, &pool.hosts, host)
        node.heap = NOWHERE
        return True
    cost = s.hosts[host].cost + pool.reach[host]
    if node.heap != NOWHERE and node.cost == cost and node.rank == s.agents[agent].rank:
        return False
    node.cost, node.rank = cost, s.agents[agent].rank
    if node.heap == NOWHERE:
        node.heap = 0
        put_in(pool.host_nodes, &pool.hosts, host)
    else:
        mend(pool.host_nodes, &pool.hosts, host)
    return True


cdef void build(State* s, Pool* pool) noexcept nogil:
    """All heaps anew."""
    cdef int32_t at, heap
    cdef Node* node
    for heap in range(HEAPS):
        pool.heaps[heap].count = 0
    for at in range(s.endpoint_rows):
        node = &pool.nodes[at]
        node.heap = heap_of(s, pool, at, node)
        if node.heap != NOWHERE:
            node.place = pool.heaps[node.heap].count
            pool.heaps[node.heap].items[node.place] = at
            pool.heaps[node.heap].count += 1
    for heap in range(HEAPS):
        heapify(pool.nodes, &pool.heaps[heap])
    pool.hosts.count = 0
    for at in range(s.host_rows):
        pool.host_nodes[at].heap = NOWHERE
        if pool.shared_ways > 0:
            look_at_host(s, pool, at)
    pool.must_build = False


cdef void read_log(State* s, Pool* pool) noexcept nogil:
    """Bring the pool's heaps up to date."""
    cdef int64_t at
    cdef int32_t entry, endpoint
    if pool.must_build or s.logged - pool.read > (s.endpoint_rows + s.host_rows) >> 1:
        build(s, pool)
    else:
        for at in range(pool.read, s.logged):
            entry = s.log[at]
            if entry >= 0:
                look(s, pool, entry)
                continue
            if pool.shared_ways > 0:
                look_at_host(s, pool, ~entry)
            endpoint = s.hosts[~entry].first_endpoint
            while endpoint >= 0:
                look(s, pool, endpoint)
                endpoint = s.endpoints[endpoint].next
    pool.read = s.logged
    s.epoch += 1


# --- one task -------------------------------------------------------------------------------------------


cdef inline int32_t top_of(const State* s, Pool* pool, int32_t heap) noexcept nogil:
    """The endpoint on top, its key as it is now; -1 when there is none."""
    while pool.heaps[heap].count > 0:
        if not look(s, pool, pool.heaps[heap].items[0]):
            return pool.heaps[heap].items[0]
    return -1


cdef inline int32_t top_host(const State* s, Pool* pool) noexcept nogil:
    while pool.hosts.count > 0:
        if not look_at_host(s, pool, pool.hosts.items[0]):
            return pool.hosts.items[0]
    return -1


cdef inline void offer(Option* best, int64_t cost, int64_t rank, int32_t endpoint) noexcept nogil:
    if best.endpoint >= 0 and (
        cost > best.cost
        or (cost == best.cost and (rank > best.rank or (rank == best.rank and endpoint > best.endpoint)))
    ):
        return
    best.cost, best.rank, best.endpoint = cost, rank, endpoint


cdef void offer_failing(State* s, Pool* pool, int64_t missing, Option* best) noexcept nogil:
    """Shared endpoints that failed for some hosts lately, with every host."""
    cdef int32_t at, n, endpoint, host, agent, failure
    cdef int64_t cost
    for at in range(pool.heaps[FAILING].count):
        endpoint = pool.heaps[FAILING].items[at]
        if s.endpoints[endpoint].slots <= 0:
            continue
        cost = pool.ways[endpoint].cost + s.endpoints[endpoint].added + missing
        failure = s.endpoints[endpoint].first_failure
        while failure >= 0:
            s.failed[s.failures[failure].host] = s.failures[failure].cost
            failure = s.failures[failure].next
        for n in range(pool.hosts.count):
            host = pool.hosts.items[n]
            agent = first_able(s, pool, host)
            if agent >= 0 and s.failed[host] != CLOSED_US:
                offer(best, cost + s.hosts[host].cost + pool.reach[host] + s.failed[host], s.agents[agent].rank,
                      endpoint)
        failure = s.endpoints[endpoint].first_failure
        while failure >= 0:
            s.failed[s.failures[failure].host] = 0
            failure = s.failures[failure].next


cdef void offer_there(
    State* s, Pool* pool, int32_t host, int32_t shared, Option* best, int64_t* host_cost
) noexcept nogil:
    """What can run on a host that has the repository; `host_cost` is the least of such hosts for shared endpoints."""
    cdef int32_t agent = first_able(s, pool, host), endpoint, at, failure
    cdef int64_t rank, cost, here
    if agent < 0:
        return
    rank = s.agents[agent].rank
    here = s.hosts[host].cost + pool.reach[host]
    endpoint = s.hosts[host].first_endpoint
    while endpoint >= 0:
        if (
            pool.ways[endpoint].cost >= 0 and s.endpoints[endpoint].slots > 0
            and s.endpoints[endpoint].failure != CLOSED_US
        ):
            cost = pool.ways[endpoint].cost + s.endpoints[endpoint].added + s.endpoints[endpoint].failure
            offer(best, cost + s.hosts[host].cost, rank, endpoint)
        endpoint = s.endpoints[endpoint].next
    if pool.shared_ways == 0:
        return
    host_cost[0] = min(host_cost[0], here)
    if shared >= 0:
        offer(best, pool.nodes[shared].cost + here, rank, shared)
    for at in range(pool.heaps[FAILING].count):
        endpoint = pool.heaps[FAILING].items[at]
        if s.endpoints[endpoint].slots <= 0:
            continue
        cost = pool.ways[endpoint].cost + s.endpoints[endpoint].added
        failure = s.endpoints[endpoint].first_failure
        while failure >= 0 and s.failures[failure].host != host:
            failure = s.failures[failure].next
        if failure >= 0:
            if s.failures[failure].cost == CLOSED_US:
                continue
            cost += s.failures[failure].cost
        offer(best, cost + here, rank, endpoint)


cdef void offer_wait_there(State* s, Pool* pool, int32_t host, Option* best) noexcept nogil:
    cdef int32_t endpoint = s.hosts[host].first_endpoint
    cdef Node key
    while endpoint >= 0:
        if heap_of(s, pool, endpoint, &key) == WAITS_LOCAL:
            offer(best, key.cost, 0, endpoint)
        endpoint = s.endpoints[endpoint].next


cdef Option choose(State* s, int32_t number, int32_t repo, bint* waits) noexcept nogil:
    """The best way for a task of the pool, or of those that it also uses; its endpoint is -1 when none is free."""
    cdef Option best = Option(0, 0, -1), wait = Option(0, 0, -1)
    while number >= 0 and number < s.pool_rows and s.pools[number] != NULL:
        if not s.pools[number].is_used:
            start_using(s, number)
        offer_all(s, s.pools[number], repo, &best, &wait)
        number = s.pools[number].also
    waits[0] = best.endpoint >= 0 and wait.endpoint >= 0 and wait.cost < best.cost
    return wait if waits[0] else best


cdef void offer_all(State* s, Pool* pool, int32_t repo, Option* best, Option* wait) noexcept nogil:
    cdef int64_t missing = s.repos[repo].missing if 0 <= repo < s.repo_rows else 0, host_cost = INT64_MAX
    cdef int32_t endpoint, host = -1, shared = -1, at
    endpoint = top_of(s, pool, LOCAL)
    if endpoint >= 0:
        offer(best, pool.nodes[endpoint].cost + missing, pool.nodes[endpoint].rank, endpoint)
    if pool.shared_ways > 0:
        host = top_host(s, pool)
        if host >= 0:
            host_cost = pool.host_nodes[host].cost + missing
            shared = top_of(s, pool, SHARED)
            if shared >= 0:
                offer(best, pool.nodes[shared].cost + host_cost, pool.host_nodes[host].rank, shared)
            offer_failing(s, pool, missing, best)
    if missing > 0:
        for at in range(s.repos[repo].count):
            offer_there(s, pool, s.repos[repo].hosts[at], shared, best, &host_cost)
    if pool.heaps[WAITS_LOCAL].count > 0:
        endpoint = top_of(s, pool, WAITS_LOCAL)
        if endpoint >= 0:
            offer(wait, pool.nodes[endpoint].cost + missing, 0, endpoint)
        if missing > 0:
            for at in range(s.repos[repo].count):
                offer_wait_there(s, pool, s.repos[repo].hosts[at], wait)
    if pool.heaps[WAITS_SHARED].count > 0 and host >= 0:
        endpoint = top_of(s, pool, WAITS_SHARED)
        if endpoint >= 0:
            offer(wait, pool.nodes[endpoint].cost + host_cost, 0, endpoint)


# --- the best ways --------------------------------------------------------------------------------------


cdef struct Tops:
    Option options[16]
    int32_t count
    int32_t most


cdef void keep_top(Tops* tops, int64_t cost, int64_t rank, int32_t endpoint) noexcept nogil:
    """Keep it among the best, in order."""
    cdef int32_t at = tops.count
    if tops.most == 0:
        return
    if at == tops.most:
        at -= 1
        if not comes_first(cost, rank, endpoint, &tops.options[at]):
            return
    else:
        tops.count += 1
    while at > 0 and comes_first(cost, rank, endpoint, &tops.options[at - 1]):
        tops.options[at] = tops.options[at - 1]
        at -= 1
    tops.options[at] = Option(cost, rank, endpoint)


cdef inline bint comes_first(int64_t cost, int64_t rank, int32_t endpoint, const Option* other) noexcept nogil:
    if cost != other.cost:
        return cost < other.cost
    return rank < other.rank or (rank == other.rank and endpoint < other.endpoint)


cdef void keep_pool_tops(State* s, Pool* pool, int32_t repo, Tops* tops) noexcept nogil:
    """O(ways + hosts). The best sums of a shared endpoint and a host are among those of the best of both."""
    cdef Tops shared, hosts
    cdef int64_t missing = s.repos[repo].missing if 0 <= repo < s.repo_rows else 0, cost
    cdef int32_t at, n, endpoint, host, agent, failure
    shared.count = hosts.count = 0
    shared.most = hosts.most = tops.most
    for at in range(s.repos[repo].count if missing else 0):
        s.failed[s.repos[repo].hosts[at]] = -missing  # scratch memory: what is the less there
    for at in range(pool.heaps[LOCAL].count):
        endpoint = pool.heaps[LOCAL].items[at]
        host = s.endpoints[endpoint].host
        agent = first_able(s, pool, host)
        if agent >= 0 and s.endpoints[endpoint].slots > 0:
            cost = pool.ways[endpoint].cost + s.hosts[host].cost + s.endpoints[endpoint].failure
            keep_top(tops, cost + missing + s.failed[host], s.agents[agent].rank, endpoint)
    if pool.shared_ways > 0:
        for at in range(pool.heaps[SHARED].count):
            endpoint = pool.heaps[SHARED].items[at]
            if s.endpoints[endpoint].slots > 0:
                keep_top(&shared, pool.ways[endpoint].cost, 0, endpoint)
        for at in range(pool.hosts.count):
            host = pool.hosts.items[at]
            agent = first_able(s, pool, host)
            if agent >= 0:
                cost = s.hosts[host].cost + pool.reach[host] + missing + s.failed[host]
                keep_top(&hosts, cost, s.agents[agent].rank, host)
        for at in range(shared.count):
            for n in range(hosts.count):
                keep_top(tops, shared.options[at].cost + hosts.options[n].cost, hosts.options[n].rank,
                         shared.options[at].endpoint)
        for at in range(pool.heaps[FAILING].count):
            keep_failing_tops(s, pool, pool.heaps[FAILING].items[at], missing, tops)
    for at in range(s.repos[repo].count if missing else 0):
        s.failed[s.repos[repo].hosts[at]] = 0


cdef void keep_failing_tops(
    State* s, Pool* pool, int32_t endpoint, int64_t missing, Tops* tops
) noexcept nogil:
    cdef int32_t n, host, agent, failure
    cdef int64_t failed
    if s.endpoints[endpoint].slots <= 0:
        return
    for n in range(pool.hosts.count):
        host = pool.hosts.items[n]
        agent = first_able(s, pool, host)
        failure = s.endpoints[endpoint].first_failure
        while failure >= 0 and s.failures[failure].host != host:
            failure = s.failures[failure].next
        failed = s.failures[failure].cost if failure >= 0 else 0
        if agent >= 0 and failed != CLOSED_US:
            failed += pool.ways[endpoint].cost + s.hosts[host].cost + pool.reach[host] + missing + s.failed[host]
            keep_top(tops, failed, s.agents[agent].rank, endpoint)


# --- a tick ---------------------------------------------------------------------------------------------


cdef void start_using(State* s, int32_t number) noexcept nogil:
    cdef Pool* pool = s.pools[number]
    pool.is_used, pool.is_exhausted = True, False
    s.used[s.used_count] = number
    s.used_count += 1
    read_log(s, pool)


cdef void start(State* s, int32_t agent, int32_t endpoint) noexcept nogil:
    """The agent takes a task on the endpoint, for this tick."""
    cdef int32_t host = s.agents[agent].host, at
    unlink_free(s, agent)
    s.hosts[host].cost += s.hosts[host].step
    s.endpoints[endpoint].slots -= 1
    s.endpoints[endpoint].added += s.endpoints[endpoint].step
    touch_host(s, host)
    touch_endpoint(s, endpoint)
    if s.endpoints[endpoint].slots == 0:  # now tasks of every pool may wait for it
        for at in range(s.used_count):
            look(s, s.pools[s.used[at]], endpoint)


cdef int64_t place(
    State* s, const int32_t* pools, const int32_t* repos, int32_t* agents, int32_t* endpoints, int64_t tasks
) noexcept nogil:
    cdef int64_t task, count = 0, starts = 0
    cdef Pool* pool
    cdef Option best
    cdef bint waits
    for task in range(tasks):
        if s.free_agents == 0:
            break
        pool = s.pools[pools[task]] if pools[task] < s.pool_rows else NULL
        if pool == NULL or (pool.is_used and pool.is_exhausted):
            continue
        best = choose(s, pools[task], repos[task], &waits)
        if best.endpoint < 0:
            pool.is_exhausted = True
            continue
        endpoints[task] = best.endpoint
        s.placed[count].endpoint, s.placed[count].agent = best.endpoint, -1
        if waits:
            s.endpoints[best.endpoint].added += s.endpoints[best.endpoint].step
            touch_endpoint(s, best.endpoint)
        else:
            s.placed[count].agent = agents[task] = <int32_t> (best.rank & (ROWS_MAX - 1))
            start(s, agents[task], best.endpoint)
            starts += 1
        count += 1
    take_back(s, count)
    return starts


cdef void take_back(State* s, int64_t count) noexcept nogil:
    """Undo what the tick did to rows, the last first. That lowers keys again, also of pools that came into use late
    and have read the log of the starts already."""
    cdef int64_t at
    cdef int32_t agent, endpoint, host
    for at in range(count - 1, -1, -1):
        agent, endpoint = s.placed[at].agent, s.placed[at].endpoint
        s.endpoints[endpoint].added -= s.endpoints[endpoint].step
        touch_endpoint(s, endpoint)
        if agent >= 0:
            host = s.agents[agent].host
            s.endpoints[endpoint].slots += 1
            s.hosts[host].cost -= s.hosts[host].step
            link_back(s, agent)
            touch_host(s, host)
    for at in range(s.used_count):
        s.pools[s.used[at]].is_used = False
    s.used_count = 0


cdef inline void unlink_free(State* s, int32_t agent) noexcept nogil:
    """Out of the list of its host; it remembers its place."""
    cdef Agent* a = &s.agents[agent]
    if a.before >= 0:
        s.agents[a.before].after = a.after
    else:
        s.hosts[a.host].first_free = a.after
    if a.after >= 0:
        s.agents[a.after].before = a.before
    else:
        s.hosts[a.host].last_free = a.before
    s.free_agents -= 1


cdef inline void link_back(State* s, int32_t agent) noexcept nogil:
    """Back to the place that it remembers: right after the last `unlink_free` that was not taken back."""
    cdef Agent* a = &s.agents[agent]
    if a.before >= 0:
        s.agents[a.before].after = agent
    else:
        s.hosts[a.host].first_free = agent
    if a.after >= 0:
        s.agents[a.after].before = agent
    else:
        s.hosts[a.host].last_free = agent
    s.free_agents += 1


cdef void link_free(State* s, int32_t agent) noexcept nogil:
    """By its turn; who became free last comes last, so the search begins there."""
    cdef Agent* a = &s.agents[agent]
    a.before = s.hosts[a.host].last_free
    while a.before >= 0 and s.agents[a.before].rank > a.rank:
        a.before = s.agents[a.before].before
    a.after = s.agents[a.before].after if a.before >= 0 else s.hosts[a.host].first_free
    link_back(s, agent)


# --- memory ---------------------------------------------------------------------------------------------


cdef int32_t room_for(int32_t rows, int32_t row) noexcept nogil:
    cdef int32_t room = 16 if rows == 0 else rows
    while room <= row:
        room *= 2
    return room


cdef void* more(void* old, size_t bytes) except NULL:
    cdef void* found = realloc(old, bytes)
    if found == NULL:
        raise MemoryError(f"no memory for {bytes} bytes of the scheduler's rows")
    return found


cdef int grow_log(State* s, int64_t hosts, int64_t endpoints) except -1:
    cdef int64_t room = 4 * (hosts + endpoints) + 64
    s.log = <int32_t*> more(s.log, room * sizeof(int32_t))
    s.log_room = room
    return 0


cdef int grow_hosts(State* s, int32_t host) except -1:
    cdef int32_t rows, at, n
    if host < s.host_rows:
        return 0
    rows = room_for(s.host_rows, host)
    grow_log(s, rows, s.endpoint_rows)
    s.hosts = <Host*> more(s.hosts, rows * sizeof(Host))
    s.failed = <int64_t*> more(s.failed, rows * sizeof(int64_t))
    for n in range(s.pool_rows):
        if s.pools[n] != NULL:
            grow_pool_hosts(s.pools[n], s.host_rows, rows)
    for at in range(s.host_rows, rows):
        s.hosts[at] = Host(0, 0, -1, -1, -1, -1, 0)
        s.failed[at] = 0
    s.host_rows = rows
    return 0


cdef int grow_pool_hosts(Pool* pool, int32_t rows, int32_t room) except -1:
    cdef int32_t at
    pool.host_nodes = <Node*> more(pool.host_nodes, room * sizeof(Node))
    pool.reach = <int64_t*> more(pool.reach, room * sizeof(int64_t))
    pool.hosts.items = <int32_t*> more(pool.hosts.items, room * sizeof(int32_t))
    for at in range(rows, room):
        pool.host_nodes[at] = Node(0, 0, 0, NOWHERE)
        pool.reach[at] = 0
    return 0


cdef int grow_agents(State* s, int32_t agent) except -1:
    cdef int32_t rows, at
    if agent < s.agent_rows:
        return 0
    rows = room_for(s.agent_rows, agent)
    s.agents = <Agent*> more(s.agents, rows * sizeof(Agent))
    for at in range(s.pool_rows):
        if s.pools[at] != NULL:
            grow_pool_agents(s.pools[at], s.agent_rows, rows)
    for at in range(s.agent_rows, rows):
        s.agents[at] = Agent(0, -1, OUT, -1, -1, -1)
    s.agent_rows = rows
    return 0


cdef int grow_pool_agents(Pool* pool, int32_t rows, int32_t room) except -1:
    pool.able = <uint8_t*> more(pool.able, room)
    memset(pool.able + rows, 0, room - rows)
    return 0


cdef int grow_endpoints(State* s, int32_t endpoint) except -1:
    cdef int32_t rows, at
    if endpoint < s.endpoint_rows:
        return 0
    rows = room_for(s.endpoint_rows, endpoint)
    grow_log(s, s.host_rows, rows)
    s.endpoints = <Endpoint*> more(s.endpoints, rows * sizeof(Endpoint))
    for at in range(s.pool_rows):
        if s.pools[at] != NULL:
            grow_pool_endpoints(s.pools[at], s.endpoint_rows, rows)
    for at in range(s.endpoint_rows, rows):
        s.endpoints[at] = Endpoint(0, 0, 0, ANY_HOST, 0, -1, -1, 0)
    s.endpoint_rows = rows
    return 0


cdef int grow_pool_endpoints(Pool* pool, int32_t rows, int32_t room) except -1:
    cdef int32_t at
    pool.ways = <Way*> more(pool.ways, room * sizeof(Way))
    pool.nodes = <Node*> more(pool.nodes, room * sizeof(Node))
    for at in range(HEAPS):
        pool.heaps[at].items = <int32_t*> more(pool.heaps[at].items, room * sizeof(int32_t))
    for at in range(rows, room):
        pool.ways[at] = Way(-1, 0, 0, 0, 0)
        pool.nodes[at] = Node(0, 0, 0, NOWHERE)
    return 0


cdef Pool* pool_at(State* s, int32_t number) except NULL:
    """The pool, made where it is new."""
    cdef int32_t rows, at
    cdef Pool* pool
    if number >= s.pool_rows:
        rows = room_for(s.pool_rows, number)
        s.pools = <Pool**> more(s.pools, rows * sizeof(Pool*))
        s.used = <int32_t*> more(s.used, rows * sizeof(int32_t))
        for at in range(s.pool_rows, rows):
            s.pools[at] = NULL
        s.pool_rows = rows
    if s.pools[number] == NULL:
        pool = <Pool*> calloc(1, sizeof(Pool))
        if pool == NULL:
            raise MemoryError("no memory for a pool of the scheduler")
        pool.must_build, pool.also = True, -1
        try:
            grow_pool_hosts(pool, 0, max(s.host_rows, 1))
            grow_pool_agents(pool, 0, max(s.agent_rows, 1))
            grow_pool_endpoints(pool, 0, max(s.endpoint_rows, 1))
        except MemoryError:
            free_pool(pool)
            raise
        s.pools[number] = pool
    return s.pools[number]


cdef void free_pool(Pool* pool) noexcept nogil:
    cdef int32_t at
    if pool == NULL:
        return
    for at in range(HEAPS):
        free(pool.heaps[at].items)
    free(pool.hosts.items)
    free(pool.able)
    free(pool.reach)
    free(pool.host_nodes)
    free(pool.nodes)
    free(pool.ways)
    free(pool)


# --- rows -----------------------------------------------------------------------------------------------


cdef void leave_host(State* s, int32_t agent) noexcept nogil:
    cdef int32_t* at = &s.hosts[s.agents[agent].host].first_agent
    while at[0] != agent:
        at = &s.agents[at[0]].next
    at[0] = s.agents[agent].next


cdef void leave_endpoint_host(State* s, int32_t endpoint) noexcept nogil:
    cdef int32_t* at = &s.hosts[s.endpoints[endpoint].host].first_endpoint
    while at[0] != endpoint:
        at = &s.endpoints[at[0]].next
    at[0] = s.endpoints[endpoint].next


cdef void move_endpoint(State* s, int32_t endpoint, int32_t host) noexcept nogil:
    """The endpoint is reached from elsewhere now: pools count their ways on shared ones anew."""
    cdef Endpoint* e = &s.endpoints[endpoint]
    cdef int32_t at, failure = e.first_failure
    if e.host != ANY_HOST:
        leave_endpoint_host(s, endpoint)
    for at in range(s.pool_rows):
        if s.pools[at] != NULL and s.pools[at].ways[endpoint].cost >= 0:
            s.pools[at].shared_ways += (host == ANY_HOST) - (e.host == ANY_HOST)
            s.pools[at].must_build = True
    e.host = host
    if host != ANY_HOST:
        e.next = s.hosts[host].first_endpoint
        s.hosts[host].first_endpoint = endpoint
    e.failure = 0
    while failure >= 0:
        if s.failures[failure].host == host:
            e.failure = s.failures[failure].cost
        failure = s.failures[failure].next


cdef inline bint is_in(int64_t value, int64_t low, int64_t high) noexcept nogil:
    return low <= value <= high


cdef class Scheduler:
    """As `agentcom._pysched.Scheduler`."""

    cdef State s

    def __cinit__(self):
        memset(&self.s, 0, sizeof(State))
        self.s.epoch = 1
        self.s.failure_spare = -1

    def __dealloc__(self):
        cdef int32_t at
        for at in range(self.s.pool_rows):
            free_pool(self.s.pools[at])
        for at in range(self.s.repo_rows):
            free(self.s.repos[at].hosts)
        free(self.s.hosts)
        free(self.s.agents)
        free(self.s.endpoints)
        free(self.s.failures)
        free(self.s.repos)
        free(self.s.pools)
        free(self.s.log)
        free(self.s.used)
        free(self.s.failed)
        free(self.s.placed)

    def set_host(self, int64_t host, int64_t cost_us, int64_t step_us):
        if not (is_in(host, 0, ROWS_MAX - 1) and is_in(cost_us, 0, COST_US_MAX) and is_in(step_us, 0, STEP_US_MAX)):
            return _pysched.Scheduler().set_host(host, cost_us, step_us)
        grow_hosts(&self.s, host)
        self.s.hosts[host].cost, self.s.hosts[host].step = cost_us, step_us
        touch_host(&self.s, host)

    def set_agent(self, int64_t agent, int64_t host, int64_t state, int64_t since_ms):
        cdef State* s = &self.s
        cdef Agent* a
        if not (
            is_in(agent, 0, ROWS_MAX - 1) and is_in(host, 0, ROWS_MAX - 1) and is_in(state, OUT, FREE)
            and is_in(since_ms, 0, SINCE_MS_MAX)
        ):
            return _pysched.Scheduler().set_agent(agent, host, state, since_ms)
        grow_hosts(s, host)
        grow_agents(s, agent)
        a = &s.agents[agent]
        if a.state == FREE:
            unlink_free(s, agent)
        if a.host != host:
            if a.host >= 0:
                touch_host(s, a.host)
                leave_host(s, agent)
            a.next = s.hosts[host].first_agent
            s.hosts[host].first_agent = agent
            a.host = host
        a.state, a.rank = state, since_ms * ROWS_MAX + agent
        if state == FREE:
            link_free(s, agent)
        touch_host(s, host)

    def set_endpoint(self, int64_t endpoint, int64_t host, int64_t slots, int64_t step_us):
        cdef State* s = &self.s
        if not (
            is_in(endpoint, 0, ROWS_MAX - 1) and is_in(host, ANY_HOST, ROWS_MAX - 1)
            and is_in(slots, -SLOTS_MAX, SLOTS_MAX) and is_in(step_us, 0, STEP_US_MAX)
        ):
            return _pysched.Scheduler().set_endpoint(endpoint, host, slots, step_us)
        if host >= 0:
            grow_hosts(s, host)
        grow_endpoints(s, endpoint)
        if s.endpoints[endpoint].host != host:
            move_endpoint(s, endpoint, host)
        s.endpoints[endpoint].slots, s.endpoints[endpoint].step = slots, step_us
        touch_endpoint(s, endpoint)

    def set_failure(self, int64_t endpoint, int64_t host, int64_t cost_us):
        cdef State* s = &self.s
        if not (
            is_in(endpoint, 0, ROWS_MAX - 1) and is_in(host, 0, ROWS_MAX - 1) and is_in(cost_us, 0, COST_US_MAX)
        ):
            return _pysched.Scheduler().set_failure(endpoint, host, cost_us)
        grow_hosts(s, host)
        grow_endpoints(s, endpoint)
        self._keep_failure(endpoint, host, cost_us)
        if s.endpoints[endpoint].host == host:
            s.endpoints[endpoint].failure = cost_us
        touch_endpoint(s, endpoint)

    cdef int _keep_failure(self, int32_t endpoint, int32_t host, int64_t cost) except -1:
        cdef State* s = &self.s
        cdef int32_t* at = &s.endpoints[endpoint].first_failure
        cdef int32_t found, n, room
        while at[0] >= 0 and s.failures[at[0]].host != host:
            at = &s.failures[at[0]].next
        found = at[0]
        if found >= 0 and cost > 0:
            s.failures[found].cost = cost
        elif found >= 0:
            at[0] = s.failures[found].next
            s.failures[found].next = s.failure_spare
            s.failure_spare = found
        elif cost > 0:
            if s.failure_spare < 0:
                room = room_for(s.failure_rows, s.failure_rows)
                s.failures = <Failure*> more(s.failures, room * sizeof(Failure))
                for n in range(s.failure_rows, room):
                    s.failures[n].next = s.failure_spare
                    s.failure_spare = n
                s.failure_rows = room
            found = s.failure_spare
            s.failure_spare = s.failures[found].next
            s.failures[found] = Failure(cost, host, s.endpoints[endpoint].first_failure)
            s.endpoints[endpoint].first_failure = found
        return 0

    def set_able(self, int64_t pool, int64_t agent, bint is_able):
        cdef State* s = &self.s
        cdef Pool* p
        if not (is_in(pool, 0, POOLS_MAX - 1) and is_in(agent, 0, ROWS_MAX - 1)):
            return _pysched.Scheduler().set_able(pool, agent, is_able)
        grow_agents(s, agent)
        p = pool_at(s, pool)
        if p.able[agent] != is_able:
            p.able[agent] = is_able
            if s.agents[agent].host >= 0:
                touch_host(s, s.agents[agent].host)

    def set_way(
        self, int64_t pool, int64_t endpoint, int64_t wait_us, int64_t load_us, int64_t run_us, int64_t host_us=0
    ):
        cdef State* s = &self.s
        cdef Pool* p
        if not (
            is_in(pool, 0, POOLS_MAX - 1) and is_in(endpoint, 0, ROWS_MAX - 1) and is_in(wait_us, 0, COST_US_MAX)
            and is_in(load_us, 0, COST_US_MAX) and is_in(run_us, 0, COST_US_MAX) and is_in(host_us, 0, COST_US_MAX)
        ):
            return _pysched.Scheduler().set_way(pool, endpoint, wait_us, load_us, run_us, host_us)
        grow_endpoints(s, endpoint)
        p = pool_at(s, pool)
        if p.ways[endpoint].cost < 0 and s.endpoints[endpoint].host == ANY_HOST:
            p.must_build |= p.shared_ways == 0
            p.shared_ways += 1
        p.ways[endpoint] = Way(wait_us + load_us + run_us + host_us, wait_us, load_us, run_us, host_us)
        touch_endpoint(s, endpoint)

    def set_reach(self, int64_t pool, int64_t host, int64_t cost_us):
        cdef State* s = &self.s
        if not (
            is_in(pool, 0, POOLS_MAX - 1) and is_in(host, 0, ROWS_MAX - 1) and is_in(cost_us, 0, COST_US_MAX)
        ):
            return _pysched.Scheduler().set_reach(pool, host, cost_us)
        grow_hosts(s, host)
        pool_at(s, pool).reach[host] = cost_us
        touch_host(s, host)

    def set_also(self, int64_t pool, int64_t other):
        if not (is_in(pool, 0, POOLS_MAX - 1) and (other == -1 or is_in(other, pool + 1, POOLS_MAX - 1))):
            return _pysched.Scheduler().set_also(pool, other)
        pool_at(&self.s, pool).also = other

    def drop_way(self, int64_t pool, int64_t endpoint):
        cdef State* s = &self.s
        cdef Pool* p
        if not (is_in(pool, 0, s.pool_rows - 1) and is_in(endpoint, 0, s.endpoint_rows - 1)):
            return
        p = s.pools[pool]
        if p == NULL or p.ways[endpoint].cost < 0:
            return
        p.ways[endpoint].cost = -1
        p.shared_ways -= s.endpoints[endpoint].host == ANY_HOST
        touch_endpoint(s, endpoint)

    def drop_pool(self, int64_t pool):
        if is_in(pool, 0, self.s.pool_rows - 1):
            free_pool(self.s.pools[pool])
            self.s.pools[pool] = NULL

    def set_repo(self, int64_t repo, int64_t missing_us, hosts):
        cdef State* s = &self.s
        cdef int32_t rows, n
        cdef int32_t* kept = NULL
        there = sorted(set(hosts))
        if not (
            is_in(repo, 0, ROWS_MAX - 1) and is_in(missing_us, 0, COST_US_MAX)
            and 0 <= min(there, default=0) and max(there, default=0) < ROWS_MAX
        ):
            return _pysched.Scheduler().set_repo(repo, missing_us, there)
        if there:
            grow_hosts(s, max(there))
        if repo >= s.repo_rows:
            rows = room_for(s.repo_rows, repo)
            s.repos = <Repo*> more(s.repos, rows * sizeof(Repo))
            for n in range(s.repo_rows, rows):
                s.repos[n] = Repo(0, NULL, 0)
            s.repo_rows = rows
        if there:
            kept = <int32_t*> more(NULL, len(there) * sizeof(int32_t))
        for n in range(len(there)):
            kept[n] = there[n]
        free(s.repos[repo].hosts)
        s.repos[repo] = Repo(missing_us, kept, len(there))

    def parts(self, int64_t pool, int64_t repo, int64_t endpoint, int64_t host):
        cdef State* s = &self.s
        cdef Way way
        cdef int64_t failed = 0, missing = 0, load
        cdef int32_t at
        if not (
            is_in(pool, 0, s.pool_rows - 1) and is_in(endpoint, 0, s.endpoint_rows - 1)
            and is_in(host, 0, ROWS_MAX - 1)
        ):
            return None
        if s.pools[pool] == NULL or s.pools[pool].ways[endpoint].cost < 0:
            return None
        if s.endpoints[endpoint].host != ANY_HOST and s.endpoints[endpoint].host != host:
            return None
        way = s.pools[pool].ways[endpoint]
        at = s.endpoints[endpoint].first_failure
        while at >= 0:
            failed = s.failures[at].cost if s.failures[at].host == host else failed
            at = s.failures[at].next
        if is_in(repo, 0, s.repo_rows - 1):
            missing = s.repos[repo].missing
            for at in range(s.repos[repo].count):
                missing = 0 if s.repos[repo].hosts[at] == host else missing
        load = way.host
        if host < s.host_rows:
            load += s.hosts[host].cost + (s.pools[pool].reach[host] if s.endpoints[endpoint].host == ANY_HOST else 0)
        return Parts(way.wait, way.load, way.run, load, failed, missing)

    def tops(self, int64_t pool, int64_t repo, int64_t count):
        cdef State* s = &self.s
        cdef Tops tops
        cdef int32_t number = pool if is_in(pool, 0, POOLS_MAX - 1) else -1, at
        if not is_in(count, 0, TOPS_MAX):
            return _pysched.Scheduler().tops(pool, repo, count)
        tops.count, tops.most = 0, count
        while 0 <= number < s.pool_rows and s.pools[number] != NULL:
            read_log(s, s.pools[number])
            keep_pool_tops(s, s.pools[number], repo if is_in(repo, 0, ROWS_MAX - 1) else -1, &tops)
            number = s.pools[number].also
        return [
            (tops.options[at].cost, tops.options[at].rank & (ROWS_MAX - 1), tops.options[at].endpoint)
            for at in range(tops.count)
        ]

    def tick(
        self,
        const int32_t[::1] task_pool not None,
        const int32_t[::1] task_repo not None,
        int32_t[::1] chosen_agent not None,
        int32_t[::1] chosen_endpoint not None,
    ):
        cdef State* s = &self.s
        cdef int64_t tasks = task_pool.shape[0], n, starts
        cdef uint32_t bad = 0
        cdef const int32_t* buffers[4]
        if not (
            tasks == task_repo.shape[0] == chosen_agent.shape[0] == chosen_endpoint.shape[0] and tasks <= TASKS_MAX
        ):
            return _refuse(task_pool, task_repo, chosen_agent, chosen_endpoint)
        if tasks == 0:
            return 0
        buffers[0], buffers[1] = &task_pool[0], &task_repo[0]
        buffers[2], buffers[3] = &chosen_agent[0], &chosen_endpoint[0]
        for n in range(tasks):  # as unsigned, a negative number is above every bound, and -1 becomes 0
            bad |= (<uint32_t> buffers[0][n] >= <uint32_t> POOLS_MAX) | (<uint32_t> buffers[1][n] + 1 > <uint32_t> ROWS_MAX)
        for n in range(3):
            bad |= is_shared(buffers[n], buffers[3], tasks)
        if bad or is_shared(buffers[0], buffers[2], tasks) or is_shared(buffers[1], buffers[2], tasks):
            return _refuse(task_pool, task_repo, chosen_agent, chosen_endpoint)
        if tasks > s.placed_room:
            s.placed = <Placed*> more(s.placed, tasks * sizeof(Placed))
            s.placed_room = tasks
        memset(&chosen_agent[0], 0xFF, tasks * sizeof(int32_t))
        memset(&chosen_endpoint[0], 0xFF, tasks * sizeof(int32_t))
        if tasks > RELEASE_ABOVE:
            with nogil:
                starts = place(s, buffers[0], buffers[1], &chosen_agent[0], &chosen_endpoint[0], tasks)
        else:
            starts = place(s, buffers[0], buffers[1], &chosen_agent[0], &chosen_endpoint[0], tasks)
        return starts


cdef bint is_shared(const int32_t* a, const int32_t* b, int64_t count) noexcept nogil:
    return a < b + count and b < a + count


def _refuse(*buffers):
    """Let the twin say what is wrong, so that both say the same."""
    _pysched.tick_views(*[getattr(buffer, "base", buffer) for buffer in buffers])
    raise ValueError("arguments of a tick share memory where one of them is written")
