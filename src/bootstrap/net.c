/* Addresses, interfaces, listening sockets. Called by id.c, root.c, join.c and the launchers. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/config.h"
#include "bootstrap/internal.h"

socklen_t boot_address_length(const struct boot_address *address)
{
    return address->sa.sa_family == AF_INET6 ? sizeof address->in6 : sizeof address->in;
}

uint16_t boot_address_port(const struct boot_address *address)
{
    return ntohs(address->sa.sa_family == AF_INET6 ? address->in6.sin6_port : address->in.sin_port);
}

void boot_address_set_port(struct boot_address *address, uint16_t port)
{
    if (address->sa.sa_family == AF_INET6)
        address->in6.sin6_port = htons(port);
    else
        address->in.sin_port = htons(port);
}

bool boot_address_is_loopback(const struct boot_address *address)
{
    if (address->sa.sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&address->in6.sin6_addr);
    return ntohl(address->in.sin_addr.s_addr) >> 24 == 127;
}

const char *boot_address_text(const struct boot_address *address, char *text)
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (address->sa.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &address->in6.sin6_addr, host, sizeof host);
        snprintf(text, BOOT_ADDRESS_TEXT, "[%s]:%d", host, boot_address_port(address));
    } else {
        inet_ntop(AF_INET, &address->in.sin_addr, host, sizeof host);
        snprintf(text, BOOT_ADDRESS_TEXT, "%s:%d", host, boot_address_port(address));
    }
    return text;
}

/* 0 family (4 or 6), 1 zero, 2 port big endian, 4 address. */
void boot_address_put(const struct boot_address *address, uint8_t *wire)
{
    uint16_t port = boot_address_port(address);

    memset(wire, 0, BOOT_ADDRESS_WIRE);
    wire[2] = (uint8_t)(port >> 8);
    wire[3] = (uint8_t)port;
    if (address->sa.sa_family == AF_INET6) {
        wire[0] = 6;
        memcpy(wire + 4, &address->in6.sin6_addr, 16);
    } else {
        wire[0] = 4;
        memcpy(wire + 4, &address->in.sin_addr, 4);
    }
}

bool boot_address_get(const uint8_t *wire, struct boot_address *out)
{
    struct boot_address address;

    memset(&address, 0, sizeof address);
    if (wire[0] == 6) {
        address.in6.sin6_family = AF_INET6;
        memcpy(&address.in6.sin6_addr, wire + 4, 16);
    } else if (wire[0] == 4) {
        address.in.sin_family = AF_INET;
        memcpy(&address.in.sin_addr, wire + 4, 4);
    } else {
        return false;
    }
    boot_address_set_port(&address, (uint16_t)(wire[2] << 8 | wire[3]));
    *out = address;
    return true;
}

/* ---- host:port ---- */

static bool split_host_port(const char *text, char *host, size_t host_bytes, char *port,
                            size_t port_bytes)
{
    const char *colon = strrchr(text, ':'), *end = colon;
    unsigned long number;
    char *rest;

    if (!colon || !colon[1])
        return false;
    if (*text == '[') {
        if (end[-1] != ']')
            return false;
        text++;
        end--;
    } else if (memchr(text, ':', (size_t)(colon - text))) {
        return false; /* a bare IPv6 address: which colon is it? */
    }
    if (end <= text || (size_t)(end - text) >= host_bytes || strlen(colon + 1) >= port_bytes)
        return false;
    memcpy(host, text, (size_t)(end - text));
    host[end - text] = 0;
    strcpy(port, colon + 1);
    number = strtoul(port, &rest, 10);
    return port[0] >= '0' && port[0] <= '9' && !*rest && number >= 1 && number <= 65535;
}

thrum_status_t boot_address_resolve(const char *host_port, struct boot_address *out,
                                    bool *named_out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
    struct addrinfo *list = NULL, *chosen;
    char host[256], port[8];
    bool named = false;
    int rc;

    if (!split_host_port(host_port, host, sizeof host, port, sizeof port))
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "\"%.200s\" is not host:port or [IPv6 address]:port, port 1 to 65535",
                          host_port);
    rc = getaddrinfo(host, port, &hints, &list);
    if (rc == EAI_NONAME) {
        named = true;
        hints.ai_flags = AI_ADDRCONFIG;
        rc = getaddrinfo(host, port, &hints, &list);
    }
    if (rc)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "host \"%s\" of \"%.200s\" is not known: %s",
                          host, host_port, gai_strerror(rc));
    chosen = list;
    for (struct addrinfo *i = list; i; i = i->ai_next)
        if (i->ai_family == AF_INET) {
            chosen = i;
            break;
        }
    memset(out, 0, sizeof *out);
    memcpy(out, chosen->ai_addr, min_u64(chosen->ai_addrlen, sizeof *out));
    *named_out = named;
    freeaddrinfo(list);
    return THRUM_OK;
}

/* ---- interfaces ---- */

static bool usable(const struct ifaddrs *i)
{
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP))
        return false;
    if (i->ifa_addr->sa_family == AF_INET)
        return true;
    /* Link-local addresses need a scope that means nothing on another host. */
    return i->ifa_addr->sa_family == AF_INET6 &&
           !IN6_IS_ADDR_LINKLOCAL(
               &((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr);
}

static void take(const struct ifaddrs *i, struct boot_address *out)
{
    memset(out, 0, sizeof *out);
    memcpy(out, i->ifa_addr, i->ifa_addr->sa_family == AF_INET6 ? sizeof out->in6 : sizeof out->in);
    boot_address_set_port(out, 0);
}

static bool same_host(const struct boot_address *a, const struct boot_address *b)
{
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    if (a->sa.sa_family == AF_INET6)
        return !memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, 16);
    return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
}

/* Bridges and virtual pairs of containers lead to no other host. */
static bool is_virtual(const char *name)
{
    return !strncmp(name, "docker", 6) || !strncmp(name, "veth", 4) || !strncmp(name, "virbr", 5) ||
           !strncmp(name, "br-", 3);
}

/* Lower is better; -1: not to be used. */
static int cost_of(const struct ifaddrs *i)
{
    int cost = i->ifa_addr->sa_family == AF_INET6 ? 1 : 0;

    if (i->ifa_flags & IFF_LOOPBACK)
        return cost + 8;
    if (!(i->ifa_flags & IFF_RUNNING))
        return -1;
    return cost + (is_virtual(i->ifa_name) ? 4 : 0);
}

static thrum_status_t choose_named(const struct ifaddrs *list, const char *wanted,
                                   struct boot_address *out)
{
    char names[256] = "";
    struct boot_address literal, candidate;
    const struct ifaddrs *found = NULL;
    bool is_literal;

    memset(&literal, 0, sizeof literal);
    literal.sa.sa_family = AF_INET;
    is_literal = inet_pton(AF_INET, wanted, &literal.in.sin_addr) == 1;
    if (!is_literal) {
        literal.sa.sa_family = AF_INET6;
        is_literal = inet_pton(AF_INET6, wanted, &literal.in6.sin6_addr) == 1;
    }
    for (const struct ifaddrs *i = list; i; i = i->ifa_next) {
        size_t used = strlen(names);

        if (!usable(i))
            continue;
        take(i, &candidate);
        if (is_literal ? same_host(&candidate, &literal) : !strcmp(i->ifa_name, wanted)) {
            if (!found ||
                (found->ifa_addr->sa_family == AF_INET6 && i->ifa_addr->sa_family == AF_INET))
                found = i;
        }
        if (!strstr(names, i->ifa_name))
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", i->ifa_name);
    }
    if (!found)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "THRUM_BOOTSTRAP_INTERFACE=\"%.80s\" is not an interface or address that "
                          "is up on this host; up are %s",
                          wanted, names);
    take(found, out);
    return THRUM_OK;
}

thrum_status_t boot_address_choose(struct boot_address *out)
{
    const char *wanted = thrum_config_string(CFG_BOOTSTRAP_INTERFACE);
    const struct ifaddrs *best = NULL;
    struct ifaddrs *list;
    thrum_status_t status = THRUM_OK;

    if (getifaddrs(&list)) {
        if (errno == EMFILE || errno == ENFILE)
            return boot_fail_descriptor(errno, "listing the network interfaces");
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "the network interfaces cannot be listed");
    }
    if (*wanted) {
        status = choose_named(list, wanted, out);
        freeifaddrs(list);
        return status;
    }
    for (const struct ifaddrs *i = list; i; i = i->ifa_next)
        if (usable(i) && cost_of(i) >= 0 && (!best || cost_of(i) < cost_of(best)))
            best = i;
    if (best) {
        take(best, out);
    } else {
        memset(out, 0, sizeof *out);
        out->in.sin_family = AF_INET;
        out->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    }
    freeifaddrs(list);
    return THRUM_OK;
}

bool boot_address_is_local(const struct boot_address *address)
{
    struct boot_address candidate;
    struct ifaddrs *list;
    bool local = boot_address_is_loopback(address);

    if (local || getifaddrs(&list))
        return local;
    for (const struct ifaddrs *i = list; i && !local; i = i->ifa_next)
        if (usable(i)) {
            take(i, &candidate);
            local = same_host(&candidate, address);
        }
    freeifaddrs(list);
    return local;
}

/* ---- sockets ---- */

thrum_status_t boot_fail_descriptor(int error, const char *what)
{
    struct rlimit limit = {0};

    if (error == EMFILE) {
        getrlimit(RLIMIT_NOFILE, &limit);
        return thrum_fail(THRUM_ERR_LIMIT,
                          "%s: RLIMIT_NOFILE is reached, this process may have %llu open files",
                          what, (unsigned long long)limit.rlim_cur);
    }
    if (error == ENFILE)
        return thrum_fail(THRUM_ERR_LIMIT,
                          "%s: the system's limit of open files (fs.file-max) is reached", what);
    errno = error;
    return thrum_fail_errno(THRUM_ERR_SYSTEM, "%s", what);
}

static int listen_on(const struct boot_address *address)
{
    int one = 1, zero = 0, error;
    int fd = socket(address->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (address->sa.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, &address->sa, boot_address_length(address)) || listen(fd, 4096)) {
        error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static struct boot_address wildcard(int family, uint16_t port)
{
    struct boot_address any;

    memset(&any, 0, sizeof any);
    any.sa.sa_family = (sa_family_t)family;
    boot_address_set_port(&any, port);
    return any;
}

thrum_status_t boot_listen(struct boot_address *address, bool any_interface, int *fd_out)
{
    struct boot_address bound = *address, any;
    socklen_t length = sizeof bound;
    char text[BOOT_ADDRESS_TEXT];
    int fd;

    if (any_interface) {
        any = wildcard(AF_INET6, boot_address_port(address));
        fd = listen_on(&any);
        if (fd < 0 && errno != EADDRINUSE) { /* a host without IPv6 */
            any = wildcard(AF_INET, boot_address_port(address));
            fd = listen_on(&any);
        }
    } else {
        fd = listen_on(address);
    }
    if (fd < 0 && errno == EADDRINUSE)
        return thrum_fail(THRUM_ERR_BUSY, "port of %s is in use by another program",
                          boot_address_text(address, text));
    if (fd < 0 && errno == EADDRNOTAVAIL)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                          "%s is not an address of this host, so ranks cannot be served here",
                          boot_address_text(address, text));
    if (fd < 0)
        return boot_fail_descriptor(errno, "listening for ranks");
    if (getsockname(fd, &bound.sa, &length)) {
        close(fd);
        return thrum_fail_errno(THRUM_ERR_SYSTEM, "getsockname");
    }
    boot_address_set_port(address, boot_address_port(&bound));
    *fd_out = fd;
    return THRUM_OK;
}
