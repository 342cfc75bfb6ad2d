# Part of _fastsched.pyx: the rows, their memory, and which host an agent and an endpoint belong to.

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
