/* Cores that this process may use. See topo.h. */
#include "topo/topo.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "topo/topo_internal.h"

static uint64_t hash(const void *data, size_t bytes)
{
    const uint8_t *p = data;

    while (bytes && !p[bytes - 1]) /* the kernel's idea of the length does not count */
        bytes--;
    return hash_bytes(HASH_START, p, bytes);
}

static int affinity_cores(uint64_t *set_out)
{
    /* The kernel refuses a mask that is smaller than its own. */
    for (size_t cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        size_t bytes = CPU_ALLOC_SIZE(cpus);
        int error, n;

        if (!set)
            return 1;
        error = sched_getaffinity(0, bytes, set) ? errno : 0;
        n = error ? 0 : CPU_COUNT_S(bytes, set);
        *set_out = error ? 0 : hash(set, bytes);
        CPU_FREE(set);
        if (error != EINVAL)
            return n > 0 ? n : 1;
    }
    return 1;
}

/* Two numbers of a file, such as "max 100000" or "200000 100000". Returns how many; "max" ends them. */
static int read_numbers(const char *directory, const char *name, long *first, long *second)
{
    char path[PATH_MAX + 32];
    FILE *file;
    int n;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "re");
    if (!file)
        return 0;
    n = fscanf(file, "%ld %ld", first, second);
    fclose(file);
    return n < 0 ? 0 : n;
}

/* Cores by the quota of one control group, version 2 or 1; INT_MAX if it has none. */
static int group_quota(const char *directory)
{
    long quota = -1, period = 0, unused;

    if (read_numbers(directory, "cpu.max", &quota, &period) != 2) {
        if (read_numbers(directory, "cpu.cfs_quota_us", &quota, &unused) != 1 ||
            read_numbers(directory, "cpu.cfs_period_us", &period, &unused) != 1)
            return INT_MAX;
    }
    if (quota <= 0 || period <= 0 || quota / period >= INT_MAX - 1)
        return INT_MAX;
    return (int)((quota + period - 1) / period);
}

int topo_quota_cores(const char *mount, const char *group)
{
    char directory[PATH_MAX];
    int least = INT_MAX;
    size_t root = strlen(mount);

    if ((size_t)snprintf(directory, sizeof directory, "%s%s", mount, group) >= sizeof directory)
        return INT_MAX;
    for (;;) { /* a group is also bound by those above it */
        char *slash;
        int quota = group_quota(directory);

        least = quota < least ? quota : least;
        slash = strrchr(directory, '/');
        if (strlen(directory) <= root || !slash)
            return least;
        *slash = 0;
    }
}

/* The group of this process for version 2 ("0::/path") and for the cpu controller of version 1 ("3:cpu,cpuacct:/path"). */
static int quota_cores(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[PATH_MAX];
    int least = INT_MAX;

    if (!file)
        return INT_MAX;
    while (fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'),
             *path = controllers ? strchr(controllers + 1, ':') : NULL;
        int quota = INT_MAX;

        if (!path)
            continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        controllers++;
        if (!strcmp(path, "/"))
            path = path + 1;
        if (!*controllers)
            quota = topo_quota_cores("/sys/fs/cgroup", path);
        else if (!strcmp(controllers, "cpu") || !strncmp(controllers, "cpu,", 4) ||
                 strstr(controllers, ",cpu,") ||
                 !strcmp(controllers + strlen(controllers) - (strlen(controllers) > 4 ? 4 : 0),
                         ",cpu"))
            quota = topo_quota_cores("/sys/fs/cgroup/cpu", path);
        least = quota < least ? quota : least;
    }
    fclose(file);
    return least;
}

int topo_usable_cores(void)
{
    struct topo_cores cores;

    topo_get_cores(&cores);
    return cores.quota < cores.affinity ? cores.quota : cores.affinity;
}

void topo_get_cores(struct topo_cores *cores_out)
{
    *cores_out = (struct topo_cores){0};
    cores_out->affinity = affinity_cores(&cores_out->set);
    cores_out->quota = quota_cores();
}

int topo_share_of_core(const struct topo_cores *cores, int sharers, int local)
{
    int by_set = (sharers - 1) / cores->affinity + 1, by_quota = (local - 1) / cores->quota + 1;

    return by_set > by_quota ? by_set : by_quota;
}
