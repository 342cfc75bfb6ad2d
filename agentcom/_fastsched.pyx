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


include "_fastsched_rows.pxi"
include "_fastsched_places.pxi"


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
