/*
 * Starts libfabric. In 1.17 its provider `verbs` begins with reading the kernel's table of symbols twice, whether it is
 * used or not: 0.15 s of a core in each process, more than all else that a communicator takes. What it looks for matters
 * to RDMA devices only. So where there is none, the first call into libfabric is made by a thread that may read
 * everything but that table (Landlock, which needs no privilege); where the kernel has no Landlock, it takes its time.
 * Called by provider.c.
 */
#include "ofi.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if __has_include(<linux/landlock.h>)
#include <linux/landlock.h>
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;

#if defined(LANDLOCK_ACCESS_FS_READ_FILE) && defined(SYS_landlock_create_ruleset)

static bool has_rdma_device(void)
{
    DIR *folder = opendir("/sys/class/infiniband");
    const struct dirent *entry;
    bool found = false;

    if (!folder)
        return false;
    while (!found && (entry = readdir(folder)))
        found = *entry->d_name != '.';
    closedir(folder);
    return found;
}

/* Everything in the folder may be read but `name`; of processes only our own. False: not all of it could be said. */
static bool allow_all_but(int rules, const char *path, const char *name)
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    bool good = folder != NULL;

    while (good && (entry = readdir(folder))) {
        struct landlock_path_beneath_attr rule = {.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE};

        if (*entry->d_name == '.' || isdigit((unsigned char)*entry->d_name) ||
            !strcmp(entry->d_name, name))
            continue;
        rule.parent_fd = openat(dirfd(folder), entry->d_name, O_PATH | O_CLOEXEC);
        if (rule.parent_fd < 0)
            continue; /* a link to nowhere */
        good = !syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
        close(rule.parent_fd);
    }
    if (folder)
        closedir(folder);
    return good;
}

/* Of this thread, for the rest of its life. */
static void hide_symbol_table(void)
{
    const struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_ACCESS_FS_READ_FILE};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);

    if (rules < 0)
        return;
    if (allow_all_but(rules, "/", "proc") && allow_all_but(rules, "/proc", "kallsyms") &&
        !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        (void)syscall(SYS_landlock_restrict_self, rules, 0);
    close(rules);
}

static void *call_libfabric(void *unused)
{
    struct fi_info *info = NULL;

    hide_symbol_table();
    if (!fi_getinfo(OFI_API, NULL, NULL, FI_PROV_ATTR_ONLY, NULL, &info)) /* asks no provider */
        fi_freeinfo(info);
    return unused;
}

static void start(void)
{
    sigset_t all, before;
    pthread_t thread;

    if (has_rdma_device())
        return;
    sigfillset(&all); /* handlers of the application may read what they want */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!pthread_create(&thread, NULL, call_libfabric, NULL))
        pthread_join(thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

#else

static void start(void) {}

#endif

void ofi_start(void)
{
    (void)pthread_once(&once, start);
}
