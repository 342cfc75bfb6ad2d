/* Processes as /proc shows them, for _guard.c: the same reading as in guard.py, whose comments say why. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct process {
    pid_t pid, parent;
    char state;
    unsigned long long start_ticks;
};

struct processes {
    struct process *all;
    size_t count, room;
};

static void *grown(void *memory, size_t bytes) {
    void *more = realloc(memory, bytes);
    if (more == NULL)
        _exit(1);
    return more;
}

static void add(struct processes *list, struct process one) {
    if (list->count == list->room) {
        list->room = list->room ? list->room * 2 : 64;
        list->all = grown(list->all, list->room * sizeof *list->all);
    }
    list->all[list->count++] = one;
}

static ssize_t read_small(const char *path, char *text, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t count = read(fd, text, room - 1);
    close(fd);
    if (count >= 0)
        text[count] = 0;
    return count;
}

/* False when there is none. The name stands in parentheses and may itself hold spaces and parentheses. */
static bool process_of(pid_t pid, struct process *found) {
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_small(path, text, sizeof text) <= 0)
        return false;
    char *rest = strrchr(text, ')');
    int parent;
    if (rest == NULL || sscanf(rest + 1, " %c %d", &found->state, &parent) != 2)
        return false;
    char *field = rest + 1, *kept = NULL;
    for (int number = 3; number <= 22; number++)
        if ((field = strtok_r(number == 3 ? field : NULL, " ", &kept)) == NULL)
            return false;
    found->pid = pid;
    found->parent = parent;
    found->start_ticks = strtoull(field, NULL, 10);
    return true;
}

static bool runs(const struct process *one) { return one->state != 'Z' && one->state != 'X'; }

static struct processes processes(void) {
    struct processes found = {0};
    DIR *table = opendir("/proc");
    if (table == NULL)
        return found;
    for (struct dirent *entry; (entry = readdir(table)) != NULL;) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        struct process one;
        if (*end == 0 && pid > 0 && process_of((pid_t)pid, &one))
            add(&found, one);
    }
    closedir(table);
    return found;
}

static int by_parent(const void *a, const void *b) {
    const struct process *one = a, *other = b;
    return (one->parent > other->parent) - (one->parent < other->parent);
}

static void add_children(struct processes *found, const struct processes *every, pid_t parent) {
    size_t low = 0, high = every->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (every->all[middle].parent < parent)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < every->count && every->all[low].parent == parent; low++)
        add(found, every->all[low]);
}

/* Children, their children and so on, zombies included. */
static struct processes descendants(pid_t root) {
    struct processes every = processes(), found = {0};
    if (every.count)
        qsort(every.all, every.count, sizeof *every.all, by_parent);
    add_children(&found, &every, root);
    for (size_t i = 0; i < found.count; i++)
        add_children(&found, &every, found.all[i].pid);
    free(every.all);
    return found;
}

static int by_identity(const void *a, const void *b) {
    const struct process *one = a, *other = b;
    if (one->pid != other->pid)
        return one->pid < other->pid ? -1 : 1;
    return (one->start_ticks > other->start_ticks) - (one->start_ticks < other->start_ticks);
}

static int newest_first(const void *a, const void *b) { return -by_identity(a, b); }

static void keep_different(struct processes *list) {
    size_t kept = 0;
    if (list->count)
        qsort(list->all, list->count, sizeof *list->all, by_identity);
    for (size_t i = 0; i < list->count; i++)
        if (kept == 0 || by_identity(&list->all[kept - 1], &list->all[i]) != 0)
            list->all[kept++] = list->all[i];
    list->count = kept;
}

/* This very process; false when it has ended, even if its pid has been given to another. */
static bool send_exactly(const struct process *target, int number) {
    int pidfd = (int)syscall(SYS_pidfd_open, target->pid, 0);
    if (pidfd < 0)
        return errno == ENOSYS && kill(target->pid, number) == 0;
    struct process now; /* the descriptor pins the process; only now does a comparison prove anything */
    bool is_sent = process_of(target->pid, &now) && now.start_ticks == target->start_ticks &&
                   syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) == 0;
    close(pidfd);
    return is_sent;
}
