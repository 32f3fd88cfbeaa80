/*
 * This host's network interfaces: which can serve, and which are named in an endpoint's address. Called by tcp.c when an
 * endpoint opens, through the table by thrum-info, and by link.c for what addresses look like.
 */
#include "tcp.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- addresses ---- */

socklen_t tcp_socket_address(const struct tcp_candidate *candidate, uint16_t port,
                             struct sockaddr_storage *out)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};

    memset(out, 0, sizeof *out);
    if (candidate->family == 4) {
        memcpy(&in.sin_addr, candidate->ip, 4);
        memcpy(out, &in, sizeof in);
        return sizeof in;
    }
    memcpy(&in6.sin6_addr, candidate->ip, 16);
    memcpy(out, &in6, sizeof in6);
    return sizeof in6;
}

void tcp_candidate_text(const struct tcp_candidate *candidate, char *text, size_t bytes)
{
    if (!inet_ntop(candidate->family == 4 ? AF_INET : AF_INET6, candidate->ip, text,
                   (socklen_t)bytes))
        snprintf(text, bytes, "?");
}

static bool same_bits(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;

    return !memcmp(a, b, whole) && (!rest || (a[whole] ^ b[whole]) >> (8 - rest) == 0);
}

bool tcp_same_subnet(const struct tcp_candidate *a, const struct tcp_candidate *b)
{
    unsigned most = a->family == 4 ? 32 : 128;

    return a->family == b->family && a->prefix == b->prefix && a->prefix <= most &&
           same_bits(a->ip, b->ip, a->prefix);
}

static bool is_loopback(const struct tcp_candidate *candidate)
{
    static const uint8_t six[16] = {[15] = 1};

    return candidate->family == 4 ? candidate->ip[0] == 127 : !memcmp(candidate->ip, six, 16);
}

bool tcp_same_network(const struct tcp_address *a, const struct tcp_address *b)
{
    return a->network && a->network == b->network;
}

/* Of an address that came from elsewhere, some of which may be nonsense. */
static bool is_plausible(const struct tcp_candidate *candidate)
{
    return candidate->family == 4 || candidate->family == 6;
}

thrum_status_t tcp_reaches(const struct thrum_fabric_address *from_bytes,
                           const struct thrum_fabric_address *to_bytes)
{
    struct tcp_address from, to;

    memcpy(&from, from_bytes->bytes, sizeof from);
    memcpy(&to, to_bytes->bytes, sizeof to);
    for (unsigned i = 0; i < from.ncandidates && i < TCP_CANDIDATES; i++)
        for (unsigned k = 0; k < to.ncandidates && k < TCP_CANDIDATES; k++)
            if (is_plausible(&to.candidates[k]) &&
                from.candidates[i].family == to.candidates[k].family &&
                (tcp_same_network(&from, &to) || !is_loopback(&to.candidates[k])))
                return THRUM_OK;
    return thrum_plugin_fail(THRUM_ERR_UNREACHABLE,
                             "tcp: %.15s and %.15s have no kind of address (IPv4, IPv6) in common",
                             from.host, to.host);
}

/* ---- finding ---- */

/* Interfaces that the default routes take, of both kinds; their names between spaces. */
static void read_default_routes(char *names, size_t bytes)
{
    char line[512], name[33], destination[40], width[8];
    FILE *file = fopen("/proc/net/route", "re");

    *names = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%32s %39s", name, destination) == 2 && !strcmp(destination, "00000000"))
            snprintf(names + strlen(names), bytes - strlen(names), " %s ", name);
    if (file)
        fclose(file);
    file = fopen("/proc/net/ipv6_route", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%39s %7s %*s %*s %*s %*s %*s %*s %*s %32s", destination, width, name) ==
                3 &&
            !strcmp(width, "00") && strspn(destination, "0") == 32 && strcmp(name, "lo") != 0)
            snprintf(names + strlen(names), bytes - strlen(names), " %s ", name);
    if (file)
        fclose(file);
}

/* Gigabytes per second, as the driver says; 0: it does not. */
static double read_speed(const char *name)
{
    char path[96];
    double megabits = 0;
    FILE *file;

    snprintf(path, sizeof path, "/sys/class/net/%s/speed", name);
    file = fopen(path, "re");
    if (file && fscanf(file, "%lf", &megabits) != 1)
        megabits = 0;
    if (file)
        fclose(file);
    return megabits > 0 ? megabits / 8000 : 0;
}

/* Bridges of containers and virtual machines lead to these, and not to other hosts. */
static bool is_inner(const char *name)
{
    static const char *const prefixes[] = {"docker", "br-", "virbr", "cni", "flannel", "lxc"};

    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (!strncmp(name, prefixes[i], strlen(prefixes[i])))
            return true;
    return false;
}

static enum tcp_class class_of(const struct tcp_interface *interface, const char *default_routes)
{
    const char *met = thrum_plugin_config("THRUM_BOOTSTRAP_INTERFACE");
    char path[96], between[40];

    snprintf(path, sizeof path, "/sys/class/net/%s/device", interface->name);
    snprintf(between, sizeof between, " %s ", interface->name);
    if (met && !strcmp(met, interface->name))
        return TCP_MET;
    if (interface->loopback)
        return TCP_LOOPBACK;
    if (is_inner(interface->name))
        return TCP_INNER;
    if (strstr(default_routes, between))
        return TCP_DEFAULT_ROUTE;
    return access(path, F_OK) ? TCP_VIRTUAL : TCP_ADAPTER;
}

/* Where there are more than fit, one that has an address takes the place of one that has none yet. */
static struct tcp_interface *find_or_add(struct tcp_interfaces *found, const char *name,
                                         bool has_address)
{
    size_t at = 0;

    while (at < found->n && strcmp(found->list[at].name, name) != 0)
        at++;
    if (at < found->n)
        return &found->list[at];
    if (at == TCP_INTERFACES)
        at = 0;
    while (at < found->n && (!has_address || found->list[at].ncandidates))
        at++;
    if (at == TCP_INTERFACES)
        return NULL;
    found->n = max_u64(found->n, at + 1);
    found->list[at] = (struct tcp_interface){.index = (int)if_nametoindex(name)};
    snprintf(found->list[at].name, sizeof found->list[at].name, "%s", name);
    return &found->list[at];
}

static uint8_t count_bits(const uint8_t *mask, size_t bytes)
{
    unsigned bits = 0;

    for (size_t i = 0; i < bytes; i++)
        bits += (unsigned)__builtin_popcount(mask[i]);
    return (uint8_t)bits;
}

/* "10.0.0.0/8", "10.0.0.7", "fd00::/64". */
static bool parse_subnet(const char *text, struct tcp_candidate *out)
{
    char ip[INET6_ADDRSTRLEN + 1], *end;
    const char *slash = strchr(text, '/');
    size_t length = slash ? (size_t)(slash - text) : strlen(text);
    unsigned long bits, most;

    if (length >= sizeof ip)
        return false;
    memcpy(ip, text, length);
    ip[length] = 0;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, ip, out->ip) == 1)
        out->family = 4;
    else if (inet_pton(AF_INET6, ip, out->ip) == 1)
        out->family = 6;
    else
        return false;
    bits = most = out->family == 4 ? 32 : 128;
    if (slash) {
        bits = strtoul(slash + 1, &end, 10);
        if (!isdigit((unsigned char)slash[1]) || *end || bits > most)
            return false;
    }
    out->prefix = (uint8_t)bits;
    return true;
}

/* Whether the address is, or lies in, one of the words, which commas separate. */
static bool is_in_subnets(const struct tcp_candidate *candidate, const char *choice)
{
    char words[256], *rest = NULL;
    struct tcp_candidate subnet;

    snprintf(words, sizeof words, "%s", choice);
    for (char *word = strtok_r(words, ",", &rest); word; word = strtok_r(NULL, ",", &rest))
        if (parse_subnet(word, &subnet) && subnet.family == candidate->family &&
            same_bits(candidate->ip, subnet.ip, subnet.prefix))
            return true;
    return false;
}

/*
 * The first of each kind, of those that are chosen if there are such; IPv4 in front. Link-local ones mean nothing elsewhere.
 */
static void add_address(struct tcp_interface *interface, const struct ifaddrs *entry,
                        const char *choice)
{
    struct tcp_candidate candidate = {0};
    struct sockaddr_in in, mask = {0};
    struct sockaddr_in6 in6, mask6 = {0};

    if (entry->ifa_addr->sa_family == AF_INET) {
        memcpy(&in, entry->ifa_addr, sizeof in);
        if (entry->ifa_netmask)
            memcpy(&mask, entry->ifa_netmask, sizeof mask);
        candidate.family = 4;
        memcpy(candidate.ip, &in.sin_addr, 4);
        candidate.prefix = count_bits((const uint8_t *)&mask.sin_addr, 4);
        if (candidate.ip[0] == 169 && candidate.ip[1] == 254)
            return;
    } else {
        memcpy(&in6, entry->ifa_addr, sizeof in6);
        if (entry->ifa_netmask)
            memcpy(&mask6, entry->ifa_netmask, sizeof mask6);
        candidate.family = 6;
        memcpy(candidate.ip, &in6.sin6_addr, 16);
        candidate.prefix = count_bits((const uint8_t *)&mask6.sin6_addr, 16);
        if (IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr))
            return;
    }
    for (unsigned i = 0; i < interface->ncandidates; i++) {
        struct tcp_candidate *other = &interface->candidates[i];
        if (other->family != candidate.family)
            continue;
        if (is_in_subnets(&candidate, choice) && !is_in_subnets(other, choice))
            *other = candidate;
        return;
    }
    if (interface->ncandidates && candidate.family == 4) {
        interface->candidates[1] = interface->candidates[0];
        interface->candidates[0] = candidate;
    } else {
        interface->candidates[interface->ncandidates] = candidate;
    }
    interface->ncandidates++;
}

static void judge(struct tcp_interface *interface, unsigned flags, const char *default_routes)
{
    interface->loopback = (flags & IFF_LOOPBACK) != 0;
    interface->class = class_of(interface, default_routes);
    interface->gigabytes_per_second = interface->loopback ? 0 : read_speed(interface->name);
    for (unsigned i = 0; i < interface->ncandidates; i++)
        interface->candidates[i].speed =
            (uint16_t)(interface->gigabytes_per_second < 800 ? interface->gigabytes_per_second * 80
                                                             : UINT16_MAX);
    if (!(flags & IFF_UP))
        snprintf(interface->why, sizeof interface->why, "it is down");
    else if (!(flags & IFF_RUNNING))
        snprintf(interface->why, sizeof interface->why, "no carrier: is the cable in?");
    else if (!interface->ncandidates)
        snprintf(interface->why, sizeof interface->why, "it has no address that others can use");
    else
        interface->usable = true;
}

/* The fastest first among those of a class. */
static int by_merit(const void *a, const void *b)
{
    const struct tcp_interface *one = a, *two = b;
    double faster = one->gigabytes_per_second - two->gigabytes_per_second;

    if (one->usable != two->usable)
        return two->usable - one->usable;
    if (one->class != two->class)
        return one->class < two->class ? -1 : 1;
    if (faster < 0 || faster > 0)
        return faster > 0 ? -1 : 1;
    return (one->index > two->index) - (one->index < two->index);
}

thrum_status_t tcp_interfaces_find(const char *choice, struct tcp_interfaces *out)
{
    unsigned flags[TCP_INTERFACES] = {0};
    char default_routes[512];
    struct ifaddrs *list;

    if (getifaddrs(&list))
        return tcp_fail_errno(THRUM_ERR_SYSTEM, "tcp: cannot list network interfaces");
    read_default_routes(default_routes, sizeof default_routes);
    out->n = 0;
    for (const struct ifaddrs *entry = list; entry; entry = entry->ifa_next) {
        int family = entry->ifa_addr ? entry->ifa_addr->sa_family : AF_UNSPEC;
        bool has_address = family == AF_INET || family == AF_INET6;
        struct tcp_interface *interface = find_or_add(out, entry->ifa_name, has_address);
        if (!interface)
            continue;
        flags[interface - out->list] = entry->ifa_flags;
        if (has_address)
            add_address(interface, entry, choice);
    }
    freeifaddrs(list);
    for (size_t i = 0; i < out->n; i++)
        judge(&out->list[i], flags[i], default_routes);
    qsort(out->list, out->n, sizeof *out->list, by_merit);
    return THRUM_OK;
}

static void describe(const struct tcp_interface *interface, struct thrum_fabric_info *out)
{
    char ip[INET6_ADDRSTRLEN];

    *out = (struct thrum_fabric_info){.usable = interface->usable,
                                      .same_host_only = interface->loopback,
                                      .bandwidth_gbps = interface->gigabytes_per_second,
                                      .max_inline_bytes = TCP_INLINE_BYTES};
    snprintf(out->name, sizeof out->name, "%s", interface->name);
    for (unsigned i = 0; i < interface->ncandidates; i++) {
        tcp_candidate_text(&interface->candidates[i], ip, sizeof ip);
        text_append(out->detail, sizeof out->detail, "%s%s/%u", i ? ", " : "", ip,
                    interface->candidates[i].prefix);
    }
    text_append(out->detail, sizeof out->detail, "%s%s",
                *interface->why && *out->detail ? ": " : "", interface->why);
}

thrum_status_t tcp_enumerate(struct thrum_fabric_info *info_out, size_t max, size_t *n_out)
{
    const char *choice = thrum_plugin_config("THRUM_TCP_INTERFACE");
    struct tcp_interfaces found;
    thrum_status_t status = tcp_interfaces_find(choice ? choice : "", &found);

    if (status)
        return status;
    for (size_t i = 0; i < found.n && i < max; i++)
        describe(&found.list[i], &info_out[i]);
    *n_out = found.n;
    return THRUM_OK;
}

/* ---- choosing ---- */

/* Whether one of the words names the interface. */
static bool is_chosen(const struct tcp_interface *interface, const char *choice)
{
    char words[256], *rest = NULL;

    for (unsigned i = 0; i < interface->ncandidates; i++)
        if (is_in_subnets(&interface->candidates[i], choice))
            return true;
    snprintf(words, sizeof words, "%s", choice);
    for (char *word = strtok_r(words, ",", &rest); word; word = strtok_r(NULL, ",", &rest))
        if (!strcmp(interface->name, word))
            return true;
    return false;
}

static thrum_status_t fail_choice(const struct tcp_interfaces *found, const char *device,
                                  const char *choice)
{
    char list[280] = "", wish[200] = "";

    if (device)
        text_append(wish, sizeof wish, " called \"%.60s\" (THRUM_FABRIC_DEVICE)", device);
    if (*choice)
        text_append(wish, sizeof wish, " of \"%.60s\" (THRUM_TCP_INTERFACE)", choice);
    for (size_t i = 0; i < found->n && strlen(list) < 200; i++) {
        const struct tcp_interface *interface = &found->list[i];
        text_append(list, sizeof list, "%s%s", *list ? ", " : "", interface->name);
        if (!interface->usable)
            text_append(list, sizeof list, " (%s)", interface->why);
    }
    return thrum_plugin_fail(THRUM_ERR_NO_DEVICE,
                             "fabric tcp: no usable network interface%s; there is: %s. "
                             "thrum-info --fabrics lists all",
                             wish, *list ? list : "none");
}

thrum_status_t tcp_interfaces_choose(struct tcp_endpoint *endpoint, const char *device)
{
    const char *choice = thrum_plugin_config("THRUM_TCP_INTERFACE");
    struct tcp_address *address = &endpoint->address;
    struct tcp_interfaces found;
    thrum_status_t status;

    choice = choice ? choice : "";
    status = tcp_interfaces_find(device ? device : choice, &found);
    if (status)
        return status;
    endpoint->chosen = device || *choice;
    for (size_t i = 0; i < found.n; i++) {
        const struct tcp_interface *interface = &found.list[i];
        if (!interface->usable || (device && !is_chosen(interface, device)) ||
            (*choice && !is_chosen(interface, choice)) ||
            (interface->class >= TCP_INNER && address->ncandidates && !endpoint->chosen) ||
            address->ncandidates + interface->ncandidates > TCP_CANDIDATES)
            continue;
        endpoint->interfaces[endpoint->ninterfaces++] = *interface;
        for (unsigned k = 0; k < interface->ncandidates; k++)
            address->candidates[address->ncandidates++] = interface->candidates[k];
    }
    return address->ncandidates ? THRUM_OK : fail_choice(&found, device, choice);
}
