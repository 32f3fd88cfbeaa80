/*
 * Makes and destroys communicators: joins the ranks, lays out the area, exchanges addresses, decides between peer
 * access and puts, starts the control plane. Public entry points of thrum.h's "communicators" part.
 */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "base/config.h"
#include "exec/exec.h"
#include "select/select.h"
#include "topo/topo.h"

#define TICK_MS 20
#define DEADLINE_MAX_MS ((int64_t)1 << 40) /* 34 years, and no product of it overflows */
#define EXCHANGE_VERSION 9
#define CANCEL_WAIT_NS 2000000000 /* for commands that execute; others end at once */

/* ---- area ---- */

uint64_t comm_area_bytes(int nranks, uint64_t scratch_bytes, uint64_t *own_offset_out,
                         uint64_t *scratch_offset_out)
{
    uint64_t own = comm_block_offset(nranks) +
                   2 * (uint64_t)nranks * COMM_ROOM_UNITS * comm_unit_bytes(nranks);
    uint64_t scratch = round_up_u64(own + sizeof(struct comm_own_block), 4096);

    *own_offset_out = own;
    *scratch_offset_out = scratch;
    return scratch + scratch_bytes;
}

uint64_t comm_done(struct thrum_comm *comm)
{
    uint64_t done = 0;

    (void)comm->ops->mem_peek(comm->device->impl, comm->area + comm->own_offset, &done,
                              sizeof done);
    return done;
}

/* ---- the exchange ---- */

struct exchange {
    uint32_t version;
    uint32_t may_load_store;
    uint64_t host, machine;
    uint64_t area_offset;
    uint64_t scratch_bytes;
    int32_t lanes, reproducible;
    struct thrum_device_address device;
    char algorithms[96]; /* THRUM_ALGO, or config.algorithms */
    uint64_t rules; /* digest of these and the tuning file's */
    struct select_figures figures;
    uint32_t given; /* which of them the tuning file has */
    struct topo_cores cores;
    double link_gbytes; /* of this host's ports; 0: not known */
    char fabric[32]; /* THRUM_FABRIC */
    char fabric_in_use[16]; /* of the device, by other communicators; its ports belong to one */
    uint8_t place[BOOTSTRAP_PLACE_BYTES];
    int32_t status; /* thrum_status_t of making the area, or of keeping the place */
    char message[128];
};

struct exchange_fabric {
    struct thrum_fabric_address address;
    uint64_t area_key, area_put_offset;
    uint64_t max_inline; /* that the endpoint takes */
    int32_t status; /* thrum_status_t of opening the endpoint */
    char message[320];
};

static uint64_t fnv1a(uint64_t h, const void *data, size_t bytes)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < bytes; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/*
 * `host`: equal for processes that share a kernel and a network (boot id and network namespace; and THRUM_HOST_ID).
 * `machine`: for those that share the kernel, and so its cores.
 */
static void identify_host(uint64_t *host_out, uint64_t *machine_out)
{
    const char *named = thrum_config_string(CFG_HOST_ID);
    uint64_t h = 0xcbf29ce484222325u;
    char boot[64] = "";
    struct stat net;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

    if (file) {
        size_t n = fread(boot, 1, sizeof boot, file);
        h = fnv1a(h, boot, n);
        fclose(file);
    }
    *machine_out = h;
    h = fnv1a(h, named, strlen(named));
    if (!stat("/proc/self/ns/net", &net))
        h = fnv1a(h, &net.st_ino, sizeof net.st_ino);
    *host_out = h;
    if (!*boot)
        *machine_out = h;
}

static thrum_status_t check_agreement(const struct thrum_comm *comm, const struct exchange *all)
{
    const struct exchange *mine = &all[comm->rank];

    for (int r = 0; r < comm->nranks; r++) {
        if (all[r].status)
            return thrum_fail((thrum_status_t)all[r].status, "rank %d: %.*s", r,
                              (int)sizeof all[r].message - 1, all[r].message);
        if (all[r].version != mine->version)
            return thrum_fail(THRUM_ERR_PROTOCOL, "rank %d speaks version %u, this rank %u", r,
                              all[r].version, mine->version);
        if (all[r].scratch_bytes != mine->scratch_bytes)
            return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                              "rank %d has scratch_bytes=%llu, rank %d has %llu: they must be "
                              "equal",
                              r, (unsigned long long)all[r].scratch_bytes, comm->rank,
                              (unsigned long long)mine->scratch_bytes);
        if (all[r].lanes != mine->lanes)
            return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                              "rank %d has lanes=%d, rank %d has %d: they must be equal", r,
                              all[r].lanes, comm->rank, mine->lanes);
        if (all[r].reproducible != mine->reproducible)
            return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                              "rank %d has reproducible=%d, rank %d has %d: they must be equal", r,
                              all[r].reproducible, comm->rank, mine->reproducible);
        if (strncmp(all[r].algorithms, mine->algorithms, sizeof mine->algorithms))
            return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                              "rank %d has THRUM_ALGO=\"%s\", this rank \"%s\": they must be equal",
                              r, all[r].algorithms, mine->algorithms);
        if (all[r].rules != mine->rules)
            return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                              "rank %d has other rules for algorithms than this rank (%s): they "
                              "must be equal",
                              r, *comm->policy.source ? comm->policy.source : "no tuning file");
        if (strncmp(all[r].fabric, mine->fabric, sizeof mine->fabric))
            return thrum_fail(THRUM_ERR_INVALID_CONFIG,
                              "rank %d has THRUM_FABRIC=\"%s\", this rank \"%s\": they must be "
                              "equal",
                              r, all[r].fabric, mine->fabric);
    }
    return THRUM_OK;
}

/*
 * Which fabric serves where there is no peer access; the same answer on every rank. True: verbs is better if all ranks
 * can (offer.c).
 */
static bool choose_fabric(struct thrum_comm *comm, const struct exchange *all)
{
    const char *name = all[0].fabric;
    bool open = false;

    if (!strcmp(name, "auto")) {
        open = comm->local_ranks != comm->nranks;
        name = open ? "ofi" : "loopback";
        for (int r = 0; r < comm->nranks; r++)
            if (!strncmp(all[r].fabric_in_use, "ofi", sizeof all[r].fabric_in_use) ||
                !strncmp(all[r].fabric_in_use, "verbs", sizeof all[r].fabric_in_use)) {
                name = all[r].fabric_in_use;
                open = false;
            }
    }
    snprintf(comm->fabric_name, sizeof comm->fabric_name, "%.31s", name);
    return open;
}

/* Round of its own: only where there is a choice. */
static thrum_status_t exchange_offers(struct thrum_comm *comm)
{
    struct comm_offer *offers = calloc((size_t)comm->nranks, sizeof *offers);
    thrum_status_t status;

    if (!offers)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
    comm_offer_make(comm, &offers[comm->rank]);
    status = bootstrap_allgather(comm->bootstrap, offers, sizeof *offers);
    if (!status)
        comm_offer_decide(comm, offers);
    free(offers);
    return status;
}

/*
 * How many ranks take turns on a core of this rank: those of its machine that may use the same cores, or all of its host
 * where a quota binds them. Sets that overlap in part count as apart.
 */
static int share_of_core(const struct thrum_comm *comm, const struct exchange *all)
{
    const struct exchange *mine = &all[comm->rank];
    int sharers = 0;

    for (int r = 0; r < comm->nranks; r++)
        sharers += all[r].machine == mine->machine && all[r].cores.set == mine->cores.set;
    return topo_share_of_core(&mine->cores, sharers, comm->local_ranks);
}

/* What a rank can load and store. */
struct reach {
    bool everywhere, on_host;
    int share; /* of a core */
};

static void find_reach(struct thrum_comm *comm, const struct exchange *all, struct reach *mine)
{
    mine->everywhere = mine->on_host = true;
    for (int r = 0; r < comm->nranks; r++) {
        bool same = all[r].host == all[comm->rank].host;
        bool can = same && all[r].may_load_store &&
                   (r == comm->rank || comm->ops->peer_access(comm->device->impl, &all[r].device) ==
                                           THRUM_PEER_LOAD_STORE);

        mine->everywhere &= can;
        mine->on_host &= can || !same;
    }
}

/* Who reaches whom, the same on every rank: all pairs, those on one host, or none. */
static thrum_status_t lay_out(struct thrum_comm *comm, const struct exchange *all,
                              const struct reach *reach)
{
    bool on_host = true;
    int *hosts;
    thrum_status_t status = THRUM_OK;

    comm->peer_access = true; /* alone there is nobody to put to */
    for (int r = 0; r < comm->nranks && comm->nranks > 1; r++) {
        comm->peer_access &= reach[r].everywhere;
        on_host &= reach[r].on_host;
    }
    for (int r = 0; r < comm->nranks; r++)
        comm->peers[r].loads =
            comm->peer_access || (on_host && all[r].host == all[comm->rank].host);
    if (comm->peer_access || comm->local_ranks == comm->nranks)
        return THRUM_OK;
    hosts = malloc((size_t)comm->nranks * sizeof *hosts);
    if (!hosts)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
    for (int r = 0; r < comm->nranks; r++) {
        hosts[r] = r;
        for (int k = 0; on_host && k < r; k = hosts[r] == r ? k + 1 : r)
            if (all[k].host == all[r].host)
                hosts[r] = k;
    }
    status = plan_layout_create(hosts, comm->nranks, &comm->layout);
    free(hosts);
    return status;
}

/* The slowest host's, of those that know it. */
static void use_links(struct thrum_comm *comm, const struct exchange *all)
{
    double least = 0;

    for (int r = 0; r < comm->nranks; r++)
        if (all[r].link_gbytes > 0 && (least <= 0 || all[r].link_gbytes < least))
            least = all[r].link_gbytes;
    comm->policy.given = all[0].given;
    select_use_link(&comm->policy, least);
}

/* First round: devices and areas. Then everybody says whether it can load and store everywhere. */
static thrum_status_t exchange_devices(struct thrum_comm *comm, thrum_status_t area_status)
{
    struct exchange *all = calloc((size_t)comm->nranks, sizeof *all), *mine;
    struct reach *reach = calloc((size_t)comm->nranks, sizeof *reach);
    thrum_status_t status = THRUM_ERR_NO_MEMORY;
    bool choice;

    if (!all || !reach) {
        status = thrum_fail(status, "no host memory for %d ranks", comm->nranks);
        goto out;
    }
    mine = &all[comm->rank];
    mine->version = EXCHANGE_VERSION;
    mine->may_load_store = thrum_config_int(CFG_PEER_ACCESS) == 0;
    identify_host(&mine->host, &mine->machine);
    mine->area_offset = comm->area - comm->device->own_base;
    mine->scratch_bytes = comm->scratch_bytes;
    mine->lanes = comm->lanes;
    mine->reproducible = comm->reproducible;
    snprintf(mine->algorithms, sizeof mine->algorithms, "%s",
             comm->algorithms ? comm->algorithms : thrum_config_string(CFG_ALGO));
    mine->rules = select_rules_digest(&comm->policy);
    mine->figures = comm->policy.figures;
    mine->given = comm->policy.given;
    topo_get_cores(&mine->cores);
    snprintf(mine->fabric, sizeof mine->fabric, "%s", thrum_config_string(CFG_FABRIC));
    comm_endpoint_in_use(comm->device, mine->fabric_in_use, sizeof mine->fabric_in_use);
    status = area_status ? area_status : topo_own_link(&mine->link_gbytes);
    if (!status)
        status = comm->ops->address(comm->device->impl, &mine->device);
    if (!status)
        status = bootstrap_keep_place(mine->place, &comm->place_fd);
    mine->status = status;
    if (status)
        snprintf(mine->message, sizeof mine->message, "%s", thrum_last_error());
    /* Also after a failure: the others learn of it instead of waiting. */
    status = bootstrap_allgather(comm->bootstrap, all, sizeof *all);
    if (!status)
        status = check_agreement(comm, all);
    if (status)
        goto out;

    comm->policy.figures = all[0].figures; /* so that all choose alike */
    use_links(comm, all);
    for (int r = 0; r < comm->nranks; r++) {
        comm->peers[r].device = all[r].device;
        comm->peers[r].area_offset = all[r].area_offset;
        comm->peers[r].host = all[r].host;
        memcpy(comm->peers[r].place, all[r].place, sizeof all[r].place);
        comm->local_ranks += all[r].host == mine->host;
    }
    find_reach(comm, all, &reach[comm->rank]);
    choice = choose_fabric(comm, all);
    comm->own_share = reach[comm->rank].share = share_of_core(comm, all);
    status = bootstrap_allgather(comm->bootstrap, reach, sizeof *reach);
    for (int r = 0; r < comm->nranks && comm->nranks > 1; r++)
        if (reach[r].share > comm->ranks_per_core)
            comm->ranks_per_core = reach[r].share;
    if (!status)
        status = lay_out(comm, all, reach);
    if (!status && choice)
        status = exchange_offers(comm);
out:
    free(all);
    free(reach);
    return status;
}

static thrum_status_t open_endpoint(struct thrum_comm *comm, struct exchange_fabric *mine)
{
    thrum_status_t status =
        comm_endpoint_get(comm->device, comm->fabric_name, &comm->shared_endpoint, &comm->fabric,
                          &comm->endpoint, &mine->address);

    if (!status)
        status = comm->ops->port_attach(comm->device->impl, comm->fabric, comm->endpoint);
    if (!status)
        status = exec_region(comm, comm->area, &mine->area_key, &mine->area_put_offset);
    if (!status)
        mine->max_inline = comm->fabric->max_inline(comm->endpoint);
    return status;
}

/* Second round, only without peer access: endpoints and the keys of areas. */
static thrum_status_t exchange_fabric(struct thrum_comm *comm)
{
    struct exchange_fabric *all, *mine;
    thrum_status_t status, mine_status;
    uint64_t line_bytes;

    comm->unit_bytes = COMM_UNIT_BYTES;
    comm->line_bytes = PLAN_INLINE_BYTES;
    if (comm->peer_access)
        return THRUM_OK;
    comm->unit_bytes = comm_unit_bytes(comm->nranks);
    line_bytes = COMM_LINE_UNITS_MAX * comm->unit_bytes;
    all = calloc((size_t)comm->nranks, sizeof *all);
    if (!all)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d ranks", comm->nranks);
    mine = &all[comm->rank];
    mine_status = open_endpoint(comm, mine);
    mine->status = mine_status;
    if (mine_status)
        snprintf(mine->message, sizeof mine->message, "%s", thrum_last_error());
    /* Also after a failure: the others learn of it instead of waiting. */
    status = bootstrap_allgather(comm->bootstrap, all, sizeof *all);
    for (int r = 0; r < comm->nranks && !status; r++) {
        if (all[r].status)
            status = thrum_fail(
                (thrum_status_t)all[r].status, "%srank %d cannot use the fabric %s: %.*s",
                comm->local_ranks < comm->nranks ? "the ranks are on several hosts, and " : "", r,
                comm->fabric_name, (int)sizeof all[r].message - 1, all[r].message);
        comm->peers[r].fabric = all[r].address;
        comm->peers[r].area_key = all[r].area_key;
        comm->peers[r].area_put_offset = all[r].area_put_offset;
        line_bytes = min_u64(line_bytes, all[r].max_inline);
    }
    comm->line_bytes = max_u64(comm->line_bytes, line_bytes);
    free(all);
    return status;
}

thrum_status_t comm_reach(struct thrum_comm *comm, int rank)
{
    struct comm_peer *peer = &comm->peers[rank];
    thrum_status_t status = THRUM_OK;
    void *fabric_peer = NULL;

    if (peer->reachable)
        return THRUM_OK;
    if (rank == comm->rank)
        peer->window_base = comm->device->own_base;
    else if (peer->loads)
        status = comm->ops->peer_window_open(comm->device->impl, &peer->device, &peer->window_base);
    else
        status = comm->fabric->connect(comm->endpoint, &peer->fabric, &fabric_peer);
    if (!status && fabric_peer)
        thrum_log(LOG_DEBUG, "%s: rank %d connects to rank %d by %s", comm->name, comm->rank, rank,
                  comm->fabric_name);
    if (status) {
        status = thrum_fail(status, "%s: rank %d cannot reach rank %d: %s", comm->name, comm->rank,
                            rank, thrum_last_error());
        /* The others are in the same call, or will be: they wait for this rank. */
        comm_fail(comm, status, rank, true, thrum_last_error());
        return comm_failure(comm) ? comm_failure(comm) : status;
    }
    __atomic_store_n(&peer->fabric_peer, fabric_peer,
                     __ATOMIC_RELEASE); /* operation_failed looks */
    peer->reachable = true;
    return THRUM_OK;
}

/* ---- creation ---- */

static thrum_status_t check_config_struct(const struct thrum_comm_config *config)
{
    if (!config)
        return THRUM_OK;
    if (config->size < sizeof config->size || config->size > 4096)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "config.size=%zu: set it to sizeof(struct thrum_comm_config)",
                          config->size);
    return THRUM_OK;
}

static thrum_status_t check_algorithms(const char *text)
{
    struct select_policy unused = {.nrules = 0};

    if (strlen(text) >= COMM_ALGORITHMS_BYTES)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "config.algorithms has %zu characters; %d are possible", strlen(text),
                          COMM_ALGORITHMS_BYTES - 1);
    return select_rules_parse("config.algorithms", text, &unused);
}

thrum_status_t comm_effective_config(const struct thrum_comm_config *config,
                                     struct thrum_comm_config *out)
{
    const struct config_row *scratch_row = &thrum_config_rows[CFG_SCRATCH_BYTES];
    const struct config_row *lanes_row = &thrum_config_rows[CFG_LANES];
    thrum_status_t status = check_config_struct(config);

    if (status)
        return status;
    memset(out, 0, sizeof *out);
    if (config)
        memcpy(out, config, min_u64(config->size, sizeof *out));
    if (out->deadline_ms < 0)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "config.deadline_ms=%lld is negative",
                          (long long)out->deadline_ms);
    if (out->init_deadline_ms < 0)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "config.init_deadline_ms=%lld is negative",
                          (long long)out->init_deadline_ms);
    if (out->scratch_bytes && (out->scratch_bytes < (uint64_t)scratch_row->min ||
                               out->scratch_bytes > (uint64_t)scratch_row->max))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "config.scratch_bytes=%llu is not between %lld and %lld",
                          (unsigned long long)out->scratch_bytes, (long long)scratch_row->min,
                          (long long)scratch_row->max);
    if (out->reproducible < -1 || out->reproducible > 1)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "config.reproducible=%d is not -1, 0 or 1",
                          out->reproducible);
    if (out->lanes && (out->lanes < lanes_row->min || out->lanes > lanes_row->max))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "config.lanes=%d is not between %lld and %lld", out->lanes,
                          (long long)lanes_row->min, (long long)lanes_row->max);
    if (out->algorithms) {
        status = check_algorithms(out->algorithms);
        if (status)
            return status;
    }
    if (!out->deadline_ms)
        out->deadline_ms = thrum_config_int(CFG_DEADLINE_MS);
    if (!out->init_deadline_ms)
        out->init_deadline_ms = thrum_config_int(CFG_INIT_DEADLINE_MS);
    out->deadline_ms = (int64_t)min_u64((uint64_t)out->deadline_ms, DEADLINE_MAX_MS);
    out->init_deadline_ms = (int64_t)min_u64((uint64_t)out->init_deadline_ms, DEADLINE_MAX_MS);
    if (!out->scratch_bytes)
        out->scratch_bytes = (uint64_t)thrum_config_int(CFG_SCRATCH_BYTES);
    out->scratch_bytes = round_up_u64(out->scratch_bytes, 4096);
    if (!out->reproducible)
        out->reproducible = thrum_config_bool(CFG_REPRODUCIBLE) ? 1 : -1;
    if (!out->lanes)
        out->lanes = (int)thrum_config_int(CFG_LANES);
    return THRUM_OK;
}

static struct thrum_comm *allocate(int nranks, int rank, thrum_device_t device,
                                   const struct thrum_comm_config *config,
                                   const struct select_policy *policy)
{
    static _Atomic int names;
    struct thrum_comm *comm = calloc(1, sizeof *comm);

    if (!comm)
        return NULL;
    comm->peers = calloc((size_t)nranks, sizeof *comm->peers);
    comm->cache = exec_cache_create();
    comm->algorithms = config->algorithms ? strdup(config->algorithms) : NULL;
    if (!comm->peers || !comm->cache || (config->algorithms && !comm->algorithms)) {
        exec_cache_destroy(comm->cache);
        free(comm->algorithms);
        free(comm->peers);
        free(comm);
        return NULL;
    }
    comm->magic = COMM_MAGIC;
    comm->place_fd = -1;
    comm->rank = rank;
    comm->nranks = nranks;
    comm->device = device;
    comm->ops = device->ops;
    comm->deadline_ns = config->deadline_ms * 1000000;
    comm->scratch_bytes = config->scratch_bytes;
    comm->init_deadline_ms = config->init_deadline_ms;
    comm->lanes = config->lanes;
    comm->reproducible = config->reproducible > 0;
    pthread_mutex_init(&comm->retire_lock, NULL);
    comm->policy = *policy;
    if (config->name)
        snprintf(comm->name, sizeof comm->name, "%s", config->name);
    else
        snprintf(comm->name, sizeof comm->name, "comm%d", atomic_fetch_add(&names, 1));
    return comm;
}

/* Frees whatever there is; the control plane, if started, is stopped first. */
static void release(struct thrum_comm *comm)
{
    control_stop(comm->control);
    bootstrap_close(comm->bootstrap);
    comm_windows_free(comm);
    for (int i = 1; i < PLAN_MAX_LANES; i++)
        thrum_queue_destroy(comm->lane_queues[i]);
    for (int i = 0; i < comm->nqueues; i++)
        queue_release(comm->queues[i]);
    free(comm->queues);
    if (comm->endpoint) {
        (void)comm->ops->port_detach(comm->device->impl, comm->endpoint);
        for (int r = 0; r < comm->nranks; r++)
            if (comm->peers[r].fabric_peer)
                comm->fabric->disconnect(comm->peers[r].fabric_peer);
        for (int i = 0; i < comm->nregions; i++)
            comm->fabric->region_deregister(comm->endpoint, comm->regions[i].region);
        comm_endpoint_put(comm->shared_endpoint);
    }
    while (comm->shrinks) {
        struct comm_shrink *shrink = comm->shrinks;

        comm->shrinks = shrink->next;
        free(shrink);
    }
    if (comm->place_fd >= 0)
        close(comm->place_fd);
    free(comm->regions);
    for (int r = 0; r < comm->nranks; r++)
        if (comm->peers[r].loads && r != comm->rank && comm->peers[r].reachable)
            comm->ops->peer_window_close(comm->device->impl, comm->peers[r].window_base);
    for (int i = 0; i < 2; i++)
        if (comm->stage[i])
            (void)comm->ops->mem_free(comm->device->impl, comm->stage[i]);
    while (comm->old_stages) {
        struct comm_old_stage *old = comm->old_stages;

        comm->old_stages = old->next;
        (void)comm->ops->mem_free(comm->device->impl, old->address);
        free(old);
    }
    if (comm->bounce) {
        (void)comm->ops->host_unregister(comm->device->impl, comm->bounce);
        free(comm->bounce);
    }
    if (comm->area)
        (void)comm->ops->mem_free(comm->device->impl, comm->area);
    exec_cache_destroy(comm->cache);
    free(comm->redops);
    for (struct comm_link *link = comm->links; link; link = link->next)
        link->comm = NULL;
    exec_list_destroy(comm->list);
    pthread_mutex_destroy(&comm->retire_lock);
    plan_layout_destroy(comm->layout);
    free(comm->peers);
    free(comm->algorithms);
    thrum_device_close(comm->held_device);
    comm->magic = 0;
    free(comm);
}

static thrum_status_t make_area(struct thrum_comm *comm)
{
    comm->area_bytes = comm_area_bytes(comm->nranks, comm->scratch_bytes, &comm->own_offset,
                                       &comm->scratch_offset);
    return comm->ops->mem_reserve(comm->device->impl, comm->area_bytes, &comm->area);
}

/* What exec builds programs from; there is no other lowering yet. */
static thrum_status_t check_device(const struct thrum_device *device)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } needed[] = {{THRUM_CAP_INDIRECT, "THRUM_CAP_INDIRECT"},
                  {THRUM_CAP_INLINE_LINE, "THRUM_CAP_INLINE_LINE"},
                  {THRUM_CAP_MULTICAST, "THRUM_CAP_MULTICAST"},
                  {THRUM_CAP_HOST_CALLBACK, "THRUM_CAP_HOST_CALLBACK"}};
    const struct thrum_device_properties *properties = &device->properties;

    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!(properties->capabilities & needed[i].bit))
            return thrum_fail(THRUM_ERR_UNSUPPORTED, "device %s lacks %s, which communicators need",
                              properties->name, needed[i].name);
    if (properties->semaphore_bits < 64)
        return thrum_fail(THRUM_ERR_UNSUPPORTED,
                          "device %s has semaphores of %u bits, communicators need 64",
                          properties->name, properties->semaphore_bits);
    return THRUM_OK;
}

thrum_status_t comm_create(const struct thrum_unique_id *id, int nranks, int rank,
                           thrum_device_t device, const struct thrum_comm_config *config,
                           thrum_comm_t *comm_out)
{
    struct thrum_comm_config effective;
    struct select_policy policy;
    struct thrum_comm *comm;
    thrum_status_t status = comm_effective_config(config, &effective);

    if (!status)
        status = check_device(device);
    if (!status)
        status = select_policy_load(effective.algorithms, &policy);
    comm = status ? NULL : allocate(nranks, rank, device, &effective, &policy);
    if (!status && !comm)
        status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a communicator of %d ranks",
                            nranks);
    if (status) {
        bootstrap_withdraw(id); /* where it was made here, the others need not wait */
        return status;
    }
    status = thrum_device_open(device->index, &comm->held_device);
    if (status) {
        bootstrap_withdraw(id);
        release(comm);
        return status;
    }
    comm->id = fnv1a(0xcbf29ce484222325u, id, sizeof *id);
    atomic_store(&device_queue_error_hook, comm_settle_queue);
    status = bootstrap_join(id, rank, nranks, effective.init_deadline_ms, &comm->bootstrap);
    if (!status)
        status = exchange_devices(comm, make_area(comm));
    if (!status)
        status = exchange_fabric(comm);
    comm_offer_drop(comm);
    /* Ranks that share cores go on doing so, also where a later communicator has few of them. */
    if (!status && comm->own_share > 1) {
        thrum_log(LOG_DEBUG, "%s: rank %d: %d ranks take turns on a core", comm->name, rank,
                  comm->own_share);
        comm->ops->set_oversubscribed(device->impl, true);
    }
    if (!status)
        status = comm_registry_add(comm);
    if (status)
        goto err_release;
    status = control_start(comm->bootstrap, &comm_control_callbacks, comm, TICK_MS, &comm->control);
    if (status)
        goto err_remove;
    *comm_out = comm;
    return THRUM_OK;

err_remove:
    comm_registry_remove(comm);
err_release:
    release(comm);
    return status;
}

thrum_status_t thrum_comm_init_rank(const struct thrum_unique_id *id, int nranks, int rank,
                                    thrum_device_t device, const struct thrum_comm_config *config,
                                    thrum_comm_t *comm_out)
{
    thrum_status_t status = thrum_config_load();

    if (status)
        return status;
    if (!id)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "id is NULL");
    if (!comm_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "comm_out is NULL");
    if (nranks < 1 || nranks > 1 << 20)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "nranks=%d is not between 1 and 1048576",
                          nranks);
    if (rank < 0 || rank >= nranks)
        return thrum_fail(THRUM_ERR_INVALID_RANK, "rank=%d is not between 0 and %d", rank,
                          nranks - 1);
    if (!device_is_valid(device))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "device=%p is not an open device",
                          (void *)device);
    return comm_create(id, nranks, rank, device, config, comm_out);
}

/* ---- end ---- */

thrum_status_t comm_await(struct thrum_comm *comm, uint64_t number)
{
    for (;;) {
        const struct comm_operation *oldest;
        uint64_t retired;
        thrum_status_t status;

        comm_retire(comm);
        retired = atomic_load_explicit(&comm->retired_number, memory_order_acquire);
        if (retired >= number)
            return THRUM_OK;
        if (atomic_load_explicit(&comm->status, memory_order_acquire))
            return comm_failure(comm);
        oldest = &comm->operations[(retired + 1) % COMM_IN_FLIGHT];
        status = comm->ops->wait(oldest->queue->impl, oldest->ticket, 20000000);
        if (status && status != THRUM_ERR_TIMEOUT) {
            struct timespec pause = {.tv_nsec = 1000000}; /* the control thread finds the cause */
            nanosleep(&pause, NULL);
        }
    }
}

thrum_status_t comm_drain(struct thrum_comm *comm)
{
    return comm_await(comm, atomic_load_explicit(&comm->issued, memory_order_relaxed));
}

thrum_status_t thrum_comm_finalize(thrum_comm_t comm)
{
    thrum_status_t status;

    if (!comm_is_valid(comm))
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is not a live communicator",
                          (void *)comm);
    if (comm->finalized)
        return thrum_fail(THRUM_ERR_INVALID_COMM, "%s is finalized already", comm->name);
    status = comm_drain(comm);
    if (!status)
        status = control_finalize(comm->control, comm->deadline_ns / 1000000);
    comm->finalized = true;
    return atomic_load(&comm->status) ? comm_failure(comm) : status;
}

static int64_t left_until(int64_t end)
{
    int64_t now = now_ns();

    return now < end ? end - now : 0;
}

/* After a failure: waits, bounded in all, until queues are through with this communicator's commands. */
static void wait_cancelled(struct thrum_comm *comm)
{
    uint64_t issued = atomic_load(&comm->issued);
    int64_t end = now_ns() + CANCEL_WAIT_NS;

    for (uint64_t number = atomic_load(&comm->retired_number) + 1; number <= issued; number++) {
        struct comm_operation *operation = &comm->operations[number % COMM_IN_FLIGHT];
        thrum_status_t status =
            comm->ops->wait(operation->queue->impl, operation->ticket, left_until(end));
        (void)status;
        for (int lane = 1; lane < PLAN_MAX_LANES; lane++)
            if (operation->lane_queue[lane])
                status = comm->ops->wait(operation->lane_queue[lane]->impl,
                                         operation->lane_ticket[lane], left_until(end));
        pthread_mutex_lock(&comm->retire_lock);
        comm_free_operation(operation);
        pthread_mutex_unlock(&comm->retire_lock);
    }
}

void thrum_comm_destroy(thrum_comm_t comm)
{
    if (!comm)
        return;
    if (!comm_is_valid(comm)) {
        thrum_log(LOG_WARN, "thrum_comm_destroy: %p is not a live communicator", (void *)comm);
        return;
    }
    if (comm_drain(comm)) {
        comm_cancel_all(comm);
        wait_cancelled(comm);
    }
    control_stop(comm->control);
    comm->control = NULL;
    comm_registry_remove(comm);
    release(comm);
}

thrum_status_t thrum_comm_abort(thrum_comm_t comm)
{
    char message[128];

    if (!comm_is_valid(comm))
        return thrum_fail(THRUM_ERR_INVALID_COMM, "comm=%p is not a live communicator",
                          (void *)comm);
    snprintf(message, sizeof message, "%s: rank %d called thrum_comm_abort", comm->name,
             comm->rank);
    comm_fail(comm, THRUM_ERR_ABORTED, comm->rank, true, message);
    return THRUM_OK;
}
