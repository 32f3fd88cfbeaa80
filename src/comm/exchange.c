/*
 * What the ranks of a new communicator tell each other: where they run, where their areas lie, what they were told to do.
 * From that all decide alike between peer access and puts, and on the fabric. Called by comm.c; comm_reach by exec.
 */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/config.h"
#include "exec/exec.h"
#include "select/select.h"
#include "topo/topo.h"

#define EXCHANGE_VERSION 13

struct exchange {
    uint32_t version;
    uint32_t may_load_store;
    uint64_t host, machine;
    uint64_t area_offset;
    uint64_t scratch_bytes;
    int32_t lanes, reproducible, probes;
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
    struct comm_process process;
    int32_t status; /* thrum_status_t of making the area, or of keeping the place */
    char message[128];
};

struct exchange_fabric {
    struct thrum_fabric_address address;
    uint64_t area_key, area_put_offset;
    uint64_t max_inline; /* that the endpoint takes */
    int32_t offloads;
    int32_t status; /* thrum_status_t of opening the endpoint */
    char message[320];
};

static void identify_process(struct comm_process *out)
{
    out->pid = getpid();
    if (gethostname(out->host, sizeof out->host))
        out->host[0] = 0;
    out->host[sizeof out->host - 1] = 0; /* a long name may come without its end */
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
 * Which fabric serves where there is no peer access; the same answer on every rank. True: verbs or ofi is better if all
 * ranks can (offer.c).
 */
static bool choose_fabric(struct thrum_comm *comm, const struct exchange *all)
{
    const char *name = all[0].fabric;
    bool open = false;

    if (!strcmp(name, "auto")) {
        open = comm->local_ranks != comm->nranks;
        name = open ? "tcp" : "loopback";
        for (int r = 0; r < comm->nranks; r++)
            if (*all[r].fabric_in_use &&
                strncmp(all[r].fabric_in_use, "loopback", sizeof all[r].fabric_in_use) != 0) {
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
    comm->runs_ahead = comm->ranks_per_core > 1 || !comm->peer_access;
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

thrum_status_t comm_exchange_devices(struct thrum_comm *comm, thrum_status_t area_status)
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
    topo_identify_host(&mine->host, &mine->machine);
    identify_process(&mine->process);
    mine->area_offset = comm->area - comm->device->own_base;
    mine->scratch_bytes = comm->scratch_bytes;
    mine->lanes = comm->lanes;
    mine->reproducible = comm->reproducible;
    mine->probes = comm->peers[comm->rank].probes;
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
        comm->peers[r].probes = all[r].probes;
        memcpy(comm->peers[r].place, all[r].place, sizeof all[r].place);
        comm->peers[r].process = all[r].process;
        comm->peers[r].process.host[sizeof all[r].process.host - 1] = 0;
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
        comm_endpoint_choose(comm->shared_endpoint);
    if (!status)
        status = comm->ops->port_attach(comm->device->impl, comm->fabric, comm->endpoint);
    if (!status)
        status = exec_region(comm, comm->area, &mine->area_key, &mine->area_put_offset);
    if (!status) {
        mine->max_inline = comm->fabric->max_inline(comm->endpoint);
        mine->offloads = comm->fabric->offloads(comm->endpoint);
    }
    return status;
}

thrum_status_t comm_exchange_fabric(struct thrum_comm *comm)
{
    struct exchange_fabric *all, *mine;
    thrum_status_t status, mine_status;
    uint64_t line_bytes;
    bool offloads = true;

    comm->unit_bytes = comm_used_unit_bytes(comm->peer_access, comm->ranks_per_core, comm->nranks);
    comm->line_bytes = line_bytes = COMM_LINE_UNITS_MAX * comm->unit_bytes;
    if (comm->peer_access)
        return THRUM_OK;
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
        offloads = offloads && all[r].offloads;
    }
    select_use_adapters(&comm->policy, offloads);
    comm->line_bytes = max_u64(PLAN_INLINE_BYTES, line_bytes);
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
    __atomic_store_n(&peer->reachable, true, __ATOMIC_RELEASE); /* owner_of looks */
    return THRUM_OK;
}
