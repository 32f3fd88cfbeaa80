/* Processes behind fabric addresses; see process.h. */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
    pthread_mutex_t lock;
    struct process_endpoint *first;
} endpoints = {.lock = PTHREAD_MUTEX_INITIALIZER};

void process_endpoint_add(struct process_endpoint *endpoint, uint64_t token)
{
    endpoint->token = token;
    pthread_mutex_lock(&endpoints.lock);
    endpoint->next = endpoints.first;
    endpoints.first = endpoint;
    pthread_mutex_unlock(&endpoints.lock);
}

void process_endpoint_remove(struct process_endpoint *endpoint)
{
    struct process_endpoint **link = &endpoints.first;

    pthread_mutex_lock(&endpoints.lock);
    while (*link && *link != endpoint)
        link = &(*link)->next;
    if (*link)
        *link = endpoint->next;
    pthread_mutex_unlock(&endpoints.lock);
}

static bool is_here(uint64_t token)
{
    const struct process_endpoint *endpoint;

    pthread_mutex_lock(&endpoints.lock);
    endpoint = endpoints.first;
    while (endpoint && endpoint->token != token)
        endpoint = endpoint->next;
    pthread_mutex_unlock(&endpoints.lock);
    return endpoint != NULL;
}

uint64_t process_namespace_hash(const char *file)
{
    char boot[64] = "";
    uint64_t h = 0xcbf29ce484222325u;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, boot, sizeof boot);
    struct stat namespace = {0};

    if (fd >= 0)
        close(fd);
    for (ssize_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)boot[i]) * 0x100000001b3u;
    if (n <= 0 || stat(file, &namespace))
        return 0;
    return (h ^ namespace.st_ino) * 0x100000001b3u;
}

uint64_t process_boot_hash(void)
{
    return process_namespace_hash("/proc/self/ns/pid");
}

bool process_is_gone(int fd)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};

    return fd >= 0 && poll(&entry, 1, 0) > 0;
}

int process_watch(uint64_t boot, int32_t pid, uint64_t token, int *fd_out)
{
    int fd;

    *fd_out = -1;
    if (!boot || boot != process_boot_hash())
        return 0;
    if (pid == getpid() && !is_here(token))
        return ENOENT;
    fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return errno == ESRCH || errno == EMFILE || errno == ENFILE ? errno : 0;
    if (process_is_gone(fd)) {
        close(fd);
        return ESRCH;
    }
    *fd_out = fd;
    return 0;
}
