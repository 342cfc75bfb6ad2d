/* The guard of every command, compiled: what guard.py does, in a twentieth of the time to start.
 *
 * guard.py is the readable twin: what is done and why stands there, and its tests run on both. It is what runs where
 * this was not built. The job, the words and the status line are those of guard.py: change both together.
 * Linux only. Memory that runs out, and what cannot be read of a process, end it: its pipes then say so to the sidecar.
 */
#define _GNU_SOURCE
#include "_guard_processes.h"

#include <limits.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>

enum { WATCH_MS = 100, ROUND_MS = 10, REASON_BYTES = 4096, FIELDS_MAX = 1 << 20 };
enum { NICENESS = 10 };
static const char OOM_SCORE[] = "500";

extern char **environ;

struct group {
    char **fields;
    size_t count;
};

struct job {
    double grace_s, kill_s;
    char *cwd;
    struct group limits, tree, argv, env;
};

static char *next_field(char **at, char *end) {
    if (*at > end)
        _exit(1);
    char *field = *at;
    *at += strlen(field) + 1;
    return field;
}

static struct group next_group(char **at, char *end) {
    struct group made = {.count = strtoul(next_field(at, end), NULL, 10)};
    if (made.count > FIELDS_MAX)
        _exit(1);
    made.fields = grown(NULL, (made.count + 1) * sizeof *made.fields);
    for (size_t i = 0; i < made.count; i++)
        made.fields[i] = next_field(at, end);
    made.fields[made.count] = NULL;
    return made;
}

static struct job job_of(int fd) {
    size_t room = 1 << 16, count = 0;
    char *body = grown(NULL, room);
    for (ssize_t part; (part = read(fd, body + count, room - count - 1)) != 0;) {
        if (part < 0 && errno != EINTR)
            _exit(1);
        count += part > 0 ? (size_t)part : 0;
        if (room - count < 2)
            body = grown(body, room *= 2);
    }
    close(fd);
    body[count] = 0; /* also the end of the last field */
    char *at = body, *end = body + count;
    struct job job = {.grace_s = strtod(next_field(&at, end), NULL)};
    job.kill_s = strtod(next_field(&at, end), NULL);
    job.cwd = next_field(&at, end);
    job.limits = next_group(&at, end);
    job.tree = next_group(&at, end);
    job.argv = next_group(&at, end);
    job.env = next_group(&at, end);
    if (job.argv.count == 0)
        _exit(1);
    return job;
}

/* The figure of that name; -1 where there is none. */
static long long figure(const struct group *group, const char *name) {
    size_t length = strlen(name);
    for (size_t i = 0; i < group->count; i++)
        if (strncmp(group->fields[i], name, length) == 0 && group->fields[i][length] == '=')
            return strtoll(group->fields[i] + length + 1, NULL, 10);
    return -1;
}

static void set_limit(const struct group *limits, const char *name, int which) {
    long long wanted = figure(limits, name);
    struct rlimit now;
    if (wanted < 0 || getrlimit(which, &now) != 0)
        return;
    rlim_t value = now.rlim_max == RLIM_INFINITY || (rlim_t)wanted < now.rlim_max ? (rlim_t)wanted : now.rlim_max;
    setrlimit(which, &(struct rlimit){value, value});
}

static void prepare(pid_t guard) {
    setsid();
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* else its own files in /proc are not its own until it is the command */
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != guard)
        _exit(127);
    int null = open("/dev/null", O_RDONLY);
    dup2(null, 0);
    close(null);
    dup2(1, 2);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int lower = nice(NICENESS); /* or a thousand processes at once would leave the guard no time to count them */
    (void)lower;
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (score >= 0) { /* a kernel or container without it: only a preference is lost */
        ssize_t ignored = write(score, OOM_SCORE, sizeof OOM_SCORE - 1);
        (void)ignored;
        close(score);
    }
}

/* Tries the entries of the job's own PATH. The error is the first that is not about a file that is not there. */
static int execute(struct job *job) {
    char *name = job->argv.fields[0];
    environ = job->env.fields;
    if (strchr(name, '/') != NULL) {
        execve(name, job->argv.fields, environ);
        return errno;
    }
    const char *path = getenv("PATH");
    int last = ENOENT, told = 0;
    for (const char *at = path ? path : "/bin:/usr/bin"; at != NULL;) {
        const char *colon = strchrnul(at, ':');
        int length = (int)(colon - at);
        char *file;
        if (asprintf(&file, "%.*s%s%s", length, at, length && at[length - 1] != '/' ? "/" : "", name) < 0)
            return ENOMEM;
        execve(file, job->argv.fields, environ);
        last = errno;
        free(file);
        if (last != ENOENT && last != ENOTDIR && !told)
            told = last;
        at = *colon ? colon + 1 : NULL;
    }
    return told ? told : last;
}

/* In the child: turn into the command, or say why not. */
static void become(struct job *job, pid_t guard, int reason) {
    prepare(guard);
    const char *step = "enter the working directory ", *what = job->cwd;
    int error = 0;
    if (chdir(job->cwd) != 0) {
        error = errno;
    } else {
        step = "start ";
        what = job->argv.fields[0];
        set_limit(&job->limits, "core", RLIMIT_CORE);
        set_limit(&job->limits, "nofile", RLIMIT_NOFILE);
        set_limit(&job->limits, "fsize", RLIMIT_FSIZE);
        set_limit(&job->limits, "as", RLIMIT_AS);
        set_limit(&job->limits, "nproc", RLIMIT_NPROC);
        error = execute(job);
    }
    char said[REASON_BYTES];
    int length = snprintf(said, sizeof said, "cannot %s%s: %s", step, what, strerror(error));
    ssize_t ignored = write(reason, said, (size_t)length < sizeof said ? (size_t)length : sizeof said - 1);
    (void)ignored;
    _exit(127);
}

/* Forks the command, in a session of its own: its pid, or 0 with why it did not start. */
static pid_t start(struct job *job, char *reason, size_t room) {
    pid_t guard = getpid();
    int pipe_fds[2]; /* closed by a successful exec */
    if (pipe2(pipe_fds, O_CLOEXEC) != 0)
        _exit(1);
    pid_t pid = fork();
    if (pid == 0)
        become(job, guard, pipe_fds[1]);
    close(pipe_fds[1]);
    if (pid < 0) {
        snprintf(reason, room, "cannot prepare: %s", strerror(errno));
        return 0;
    }
    size_t count = 0;
    for (ssize_t part; count < room - 1 && (part = read(pipe_fds[0], reason + count, room - 1 - count)) != 0;) {
        if (part < 0 && errno != EINTR)
            break;
        count += part > 0 ? (size_t)part : 0;
    }
    reason[count] = 0;
    close(pipe_fds[0]);
    if (count == 0)
        return pid;
    waitpid(pid, NULL, 0);
    return 0;
}

/* The fields and steps are those of guard.py's class Supervision. */
static struct {
    pid_t leader;
    struct job job;
    double started, kill_at;
    int wake, code, signal;
    bool has_ended, is_stopped, is_killing, is_init;
    long long duration_ms;
    size_t survivors, unkilled;
    char exceeded[100];
} run = {.code = -1, .signal = -1};

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Looks without reaping: as a zombie the leader keeps its pid, and its group's, from being reused. */
static void note_leader(void) {
    siginfo_t seen = {0};
    if (run.has_ended || waitid(P_PID, (id_t)run.leader, &seen, WEXITED | WNOHANG | WNOWAIT) != 0 || seen.si_pid == 0)
        return;
    *(seen.si_code == CLD_EXITED ? &run.code : &run.signal) = seen.si_status;
    run.has_ended = true;
    run.duration_ms = (long long)((now_s() - run.started) * 1000 + 0.5);
}

/* Reaps adopted children that have died; false when there is no child. */
static bool reap_strays(void) {
    note_leader();
    while (!run.has_ended) {
        siginfo_t dead = {0};
        if (waitid(P_ALL, 0, &dead, WEXITED | WNOHANG | WNOWAIT) != 0)
            return errno != ECHILD;
        if (dead.si_pid == 0)
            return true;
        if (dead.si_pid == run.leader)
            note_leader();
        else
            waitpid(dead.si_pid, NULL, 0);
    }
    return true;
}

/* Waits for what has died; false when no child of any kind is left. */
static bool reap(void) {
    if (!reap_strays())
        return false;
    while (run.has_ended) {
        pid_t dead = waitpid(-1, NULL, WNOHANG);
        if (dead == 0)
            return true;
        if (dead < 0)
            return errno != ECHILD;
    }
    return true;
}

static bool has_only_leader(void) {
    char path[64], text[4096], *end;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    if (read_small(path, text, sizeof text) <= 0)
        return false; /* a kernel built without it: walk the process table */
    long first = strtol(text, &end, 10);
    return first == run.leader && end[strspn(end, " \n")] == 0;
}

/* Living descendants besides the leader. */
static struct processes others(void) {
    struct processes found = {0};
    if (run.has_ended && has_only_leader())
        return found;
    found = descendants(getpid());
    size_t kept = 0;
    for (size_t i = 0; i < found.count; i++)
        if (runs(&found.all[i]) && found.all[i].pid != run.leader)
            found.all[kept++] = found.all[i];
    found.count = kept;
    return found;
}

static size_t count_others(void) {
    struct processes found = others();
    free(found.all);
    return found.count;
}

/* True when nothing is worth waiting for: the rest is killed. */
static bool is_over(void) {
    reap_strays();
    if (!run.is_killing)
        return run.has_ended;
    if (now_s() >= run.kill_at)
        return true;
    /* A shell dies of SIGTERM at once while its child still tidies up: the grace is the whole tree's. */
    return run.has_ended && count_others() == 0;
}

static void kill_from(double when) {
    run.is_killing = true;
    run.kill_at = when;
}

static void obey(const char *words, ssize_t count) {
    note_leader();
    if (!run.has_ended)
        run.is_stopped = true;
    if (count <= 0 || memchr(words, 'K', (size_t)count) != NULL) {
        kill_from(now_s());
    } else if (memchr(words, 'T', (size_t)count) != NULL && !run.is_killing) {
        kill_from(now_s() + run.job.grace_s);
        killpg(run.leader, SIGTERM);
        killpg(run.leader, SIGCONT); /* a stopped process would not see the first */
    }
}

/* Whether one of the signals that came concerns more than a child. */
static bool was_told_to_end(void) {
    struct signalfd_siginfo heard[16];
    ssize_t count = read(run.wake, heard, sizeof heard);
    for (ssize_t i = 0; i < count / (ssize_t)sizeof heard[0]; i++)
        if (heard[i].ssi_signo != SIGCHLD)
            return true;
    return false;
}

static void wait_for_news(void) {
    struct pollfd watched[] = {{run.wake, POLLIN, 0}, {0, POLLIN, 0}};
    int left_ms = run.job.tree.count ? WATCH_MS : -1;
    if (run.is_killing) {
        double left = (run.kill_at - now_s()) * 1000 + 1;
        left_ms = left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
    }
    if (poll(watched, 2, left_ms) <= 0)
        return;
    if (watched[1].revents) {
        char words[512];
        ssize_t count = read(0, words, sizeof words);
        if (count >= 0 || errno != EINTR)
            obey(words, count);
    }
    if (watched[0].revents && was_told_to_end()) /* the machine is being shut down */
        obey("K", 1);
}

/* Bytes that are a process's own, without what it shares. */
static long long memory_of(pid_t pid) {
    char path[64], text[256];
    long long resident, shared;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    if (read_small(path, text, sizeof text) <= 0 || sscanf(text, "%*s %lld %lld", &resident, &shared) != 2)
        return 0;
    return (resident - shared) * sysconf(_SC_PAGESIZE);
}

/* Ends a tree that has outgrown its bounds, which no kernel limit holds. */
static void watch(void) {
    if (run.job.tree.count == 0 || run.has_ended || run.is_killing)
        return;
    long long processes_max = figure(&run.job.tree, "processes"), memory_max = figure(&run.job.tree, "memory");
    long long count = 0, memory = 0;
    DIR *table = opendir("/proc");
    if (table == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(table)) != NULL;) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        if (*end != 0 || pid <= 1)
            continue;
        count++;
        memory += memory_max >= 0 ? memory_of((pid_t)pid) : 0;
    }
    closedir(table);
    if (processes_max >= 0 && count > processes_max)
        snprintf(run.exceeded, sizeof run.exceeded, "more than %lld processes at once (sandbox.processes_max)",
                 processes_max);
    else if (memory_max >= 0 && memory > memory_max)
        snprintf(run.exceeded, sizeof run.exceeded, "more than %lld bytes of memory at once (sandbox.memory_mib)",
                 memory_max);
    else
        return;
    kill_from(now_s());
}

/* Kills adopted children on sight, newest first: see guard.py. */
static void pounce(struct processes *killed) {
    struct processes every = processes();
    if (every.count)
        qsort(every.all, every.count, sizeof *every.all, newest_first);
    for (size_t i = 0; i < every.count; i++) {
        struct process *one = &every.all[i];
        if (one->parent == getpid() && one->pid != run.leader && runs(one) && send_exactly(one, SIGKILL))
            add(killed, *one);
    }
    free(every.all);
}

static void kill_all(struct processes *left, struct processes *killed) {
    if (run.is_init) /* one call that no fork can outrun: it spares only the caller */
        kill(-1, SIGKILL);
    for (size_t i = 0; i < left->count; i++)
        if (run.is_init || send_exactly(&left->all[i], SIGKILL))
            add(killed, left->all[i]);
    if (!run.is_init)
        pounce(killed);
    if (killed->count * 2 > killed->room)
        keep_different(killed);
}

/* Kills and reaps until no child is left, or the bound is reached. */
static void sweep(void) {
    bool had_ended = run.has_ended;
    struct processes killed = {0}, left = others();
    double give_up_at = now_s() + run.job.kill_s;
    /* One call for the whole group is atomic against fork: a fork bomb in it cannot outrun the walk. */
    killpg(run.leader, SIGKILL);
    for (;;) {
        kill_all(&left, &killed);
        free(left.all);
        if (!reap())
            break;
        if (now_s() >= give_up_at) { /* another user's process, or one stuck in the kernel */
            run.unkilled = count_others();
            break;
        }
        struct pollfd woken = {run.wake, POLLIN, 0};
        if (poll(&woken, 1, ROUND_MS) > 0)
            was_told_to_end();
        left = others();
    }
    keep_different(&killed);
    run.survivors = had_ended && killed.count > run.unkilled ? killed.count - run.unkilled : 0;
}

static void say(int status, const char *text, size_t length) {
    while (length > 0) {
        ssize_t count = write(status, text, length);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return; /* the sidecar is gone: nobody is left to tell */
        text += count;
        length -= (size_t)count;
    }
}

/* The bytes of a well-formed character of UTF-8 that begins here; 0 where none does. */
static size_t character_at(const unsigned char *text) {
    size_t length = text[0] < 0x80 ? 1 : (text[0] & 0xE0) == 0xC0 ? 2 : (text[0] & 0xF0) == 0xE0 ? 3 : 4;
    if (length == 4 && (text[0] < 0xF0 || text[0] > 0xF4))
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    bool is_long = (length == 2 && text[0] < 0xC2) || (length == 3 && text[0] == 0xE0 && text[1] < 0xA0) ||
                   (length == 4 && text[0] == 0xF0 && text[1] < 0x90);
    bool is_none = (length == 3 && text[0] == 0xED && text[1] > 0x9F) || (length == 4 && text[0] == 0xF4 && text[1] > 0x8F);
    return is_long || is_none ? 0 : length;
}

/* As a JSON string; `room` holds six bytes for each of the text, and two. */
static size_t quote(const char *text, char *quoted) {
    char *at = quoted;
    *at++ = '"';
    for (const unsigned char *from = (const unsigned char *)text; *from;) {
        size_t length = character_at(from);
        if (length == 0)
            at += sprintf(at, "\\ufffd");
        else if (*from < 0x20 || *from == '"' || *from == '\\')
            at += sprintf(at, "\\u%04x", *from);
        else
            at = (char *)memcpy(at, from, length) + length;
        from += length ? length : 1;
    }
    *at++ = '"';
    *at = 0;
    return (size_t)(at - quoted);
}

static void report(int status) {
    char code[16] = "null", number[16] = "null", exceeded[6 * sizeof run.exceeded + 3], line[1200];
    if (run.code >= 0)
        snprintf(code, sizeof code, "%d", run.code);
    if (run.signal >= 0)
        snprintf(number, sizeof number, "%d", run.signal);
    quote(run.exceeded, exceeded);
    int length = snprintf(line, sizeof line,
                          "{\"exit_code\": %s, \"signal\": %s, \"unkilled\": %zu, \"stopped\": %s, \"survivors\": %zu, "
                          "\"duration_ms\": %lld, \"exceeded\": %s}\n",
                          code, number, run.unkilled, run.is_stopped ? "true" : "false", run.survivors,
                          run.duration_ms, exceeded);
    say(status, line, (size_t)length);
}

static void report_failure(int status, const char *reason) {
    static char line[6 * REASON_BYTES + 32];
    char *at = line + sprintf(line, "{\"failed\": ");
    at += quote(reason, at);
    at += sprintf(at, "}\n");
    say(status, line, (size_t)(at - line));
}

/* Signals that concern the guard, as a descriptor. Process 1 of a namespace listens to no signal from inside; from
 * outside bubblewrap ends it. */
static int wake_fd(void) {
    sigset_t heard;
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    if (!run.is_init) {
        sigaddset(&heard, SIGTERM);
        sigaddset(&heard, SIGINT);
        sigaddset(&heard, SIGHUP);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* inherited as ignored, children would vanish unseen */
    sigprocmask(SIG_SETMASK, &heard, NULL);
    return signalfd(-1, &heard, SFD_CLOEXEC);
}

/* As process 1: what the command could otherwise reach through /proc/1, ptrace and the user's key ring. */
static void shut_off(void) {
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
}

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    int status = atoi(arguments[1]), job_file = atoi(arguments[2]);
    const int ours[] = {0, status, job_file};
    for (size_t i = 0; i < 3; i++)
        fcntl(ours[i], F_SETFD, FD_CLOEXEC);
    run.is_init = getpid() == 1;
    if (run.is_init)
        shut_off();
    say(status, "\n", 1);
    char word;
    ssize_t heard;
    while ((heard = read(0, &word, 1)) < 0 && errno == EINTR)
        ;
    if (heard != 1 || word != 'G') /* the sidecar died or changed its mind: nothing has started */
        _exit(0);
    run.job = job_of(job_file);
    run.wake = wake_fd();
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    run.started = now_s();
    char reason[REASON_BYTES];
    run.leader = start(&run.job, reason, sizeof reason);
    if (run.leader == 0) {
        report_failure(status, reason);
        _exit(0);
    }
    while (!is_over()) {
        wait_for_news();
        watch();
    }
    sweep();
    report(status);
    _exit(0);
}
