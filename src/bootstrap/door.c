/* Abstract unix sockets at which a process answers programs of the same user, and root's. Called by status.c and trace.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/config.h"
#include "bootstrap/control.h"

static socklen_t door_name(const char *prefix, struct sockaddr_un *out)
{
    struct stat space;
    int n;

    if (stat("/proc/self/ns/pid", &space))
        space.st_ino = 0;
    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    n = snprintf(out->sun_path + 1, sizeof out->sun_path - 1, "%s%d-%llu", prefix, (int)getpid(),
                 (unsigned long long)space.st_ino);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

int door_open(const char *prefix, const char *program)
{
    struct sockaddr_un name;
    socklen_t length = door_name(prefix, &name);
    int door = thrum_config_int(CFG_RAS) == 0
                   ? -1
                   : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (door < 0)
        return -1;
    if (!bind(door, (const struct sockaddr *)&name, length) && !listen(door, 8))
        return door;
    thrum_log(LOG_DEBUG, "%s cannot ask this process: %s", program, strerror(errno));
    close(door);
    return -1;
}

int door_admit(int door, bool *broken_out)
{
    struct ucred who;
    socklen_t length = sizeof who;
    int caller = accept4(door, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    *broken_out = caller < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED;
    if (caller < 0)
        return -1;
    if (!getsockopt(caller, SOL_SOCKET, SO_PEERCRED, &who, &length) &&
        (who.uid == geteuid() || who.uid == 0))
        return caller;
    close(caller);
    return -1;
}
