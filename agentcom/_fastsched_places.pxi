# Part of _fastsched.pyx: heaps and what may lower their keys, the choice for one task, a whole tick.

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
