/*
 * The data path of a collective, top to bottom. A newcomer starts here: thrum_allreduce (collectives.c) validates and
 * calls collective_run, which places the buffers (exec/stage.c), finds the program in the cache or selects
 * (select/select.c), builds (algo/<collective>/<algorithm>.c) and compiles (exec/compile.c) it, and runs it
 * (exec/run.c): device commands on the queue of the call.
 */
#include "api/api.h"

#include "algo/algo.h"
#include "base/base.h"
#include "select/select.h"

static void fill_params(const struct coll_args *args, bool in_place, struct plan_params *out)
{
    const struct thrum_comm *comm = args->comm;

    *out = (struct plan_params){.collective = args->collective,
                                .rank = comm->rank,
                                .nranks = comm->nranks,
                                .count = args->count,
                                .dtype = args->dtype,
                                .redop = args->redop,
                                .root = args->root,
                                .in_place = in_place,
                                .peer_access = comm->peer_access,
                                .lanes = comm->lanes,
                                .scratch_bytes = comm->scratch_bytes};
}

static struct call_record record_of(const struct coll_args *args)
{
    return (struct call_record){.sequence = args->comm->sequence + 1,
                                .count = args->count,
                                .root = args->root,
                                .collective = (uint8_t)args->collective,
                                .dtype = (uint8_t)args->dtype,
                                .redop = (uint8_t)args->redop};
}

/* Select, build, compile. Only on a miss of the plan cache. */
static thrum_status_t make_program(const struct coll_args *args, const struct exec_key *key,
                                   struct exec_program **program_out)
{
    struct thrum_comm *comm = args->comm;
    struct plan_params params;
    const struct algo *algo;
    struct exec_program *program;
    struct call_record call = record_of(args);
    struct plan plan;
    thrum_status_t status;

    fill_params(args, key->in_place, &params);
    status = select_algorithm(&params, &algo);
    if (status)
        return status;
    status = algo_build(algo, &params, &plan);
    if (status)
        return status;
    status = exec_compile(comm, &plan, CHANNEL_COLLECTIVE, &program);
    plan_fini(&plan);
    if (status)
        return status;
    program->signature = exec_signature(&call);
    exec_cache_insert(comm->cache, key, program);
    *program_out = program;
    return THRUM_OK;
}

/* The last step: the call takes its place in the communicator's order, and its program is run. */
static thrum_status_t run_program(const struct coll_args *args, struct exec_program *program,
                                  const struct exec_buffers *buffers,
                                  const struct exec_staging *staging)
{
    struct thrum_comm *comm = args->comm;
    struct call_record call = record_of(args);
    thrum_status_t status;

    comm_record(comm, &call);
    status = exec_run(comm, program, buffers, staging, args->queue, &call);
    if (!status)
        comm->sequence++;
    else
        comm_unrecord(comm, &call);
    return status;
}

static uint64_t send_bytes(const struct coll_args *args)
{
    struct plan_params params;

    fill_params(args, false, &params);
    return plan_send_bytes(&params, args->comm->rank);
}

static uint64_t recv_bytes(const struct coll_args *args)
{
    struct plan_params params;

    fill_params(args, false, &params);
    return plan_recv_bytes(&params, args->comm->rank);
}

/* Whether the call is in place by the collective's rule in thrum.h. */
static bool is_in_place(const struct coll_args *args)
{
    uint64_t block = args->count * thrum_datatype_size(args->dtype);
    const uint8_t *send = args->send, *recv = args->recv;

    switch (args->collective) {
    case COLL_ALLREDUCE:
        return send == recv;
    case COLL_BROADCAST:
        return args->comm->rank == args->root && send == recv;
    case COLL_ALLGATHER:
        return send == recv + (uint64_t)args->comm->rank * block;
    case COLL_REDUCE_SCATTER:
        return recv == send + (uint64_t)args->comm->rank * block;
    default:
        return false;
    }
}

/* Where the buffers are for the device, with the copies that host memory needs around the program. */
struct placement {
    struct exec_buffers buffers;
    struct exec_copy in, out;
    struct exec_staging staging;
    bool staged;
};

/* What send and recv are; INVALID_POINTER where a range is bad, or both overlap and are not in place. */
static thrum_status_t classify(const struct coll_args *args, bool in_place, uint64_t nsend,
                               uint64_t nrecv, enum thrum_mem_kind *send_kind_out,
                               enum thrum_mem_kind *recv_kind_out)
{
    uintptr_t send = (uintptr_t)args->send, recv = (uintptr_t)args->recv;
    thrum_status_t status = THRUM_OK;

    *send_kind_out = *recv_kind_out = THRUM_MEM_DEVICE;
    if (nsend)
        status = exec_classify(args->comm, "send", args->send, nsend, send_kind_out);
    if (!status && nrecv)
        status = exec_classify(args->comm, "recv", args->recv, nrecv, recv_kind_out);
    if (!status && !in_place && nsend && nrecv && send < recv + nrecv && recv < send + nsend)
        status = thrum_fail(THRUM_ERR_INVALID_POINTER,
                            "send=%p (%llu bytes) and recv=%p (%llu bytes) overlap and are not in "
                            "place",
                            args->send, (unsigned long long)nsend, args->recv,
                            (unsigned long long)nrecv);
    return status;
}

thrum_status_t collective_check_buffers(const struct coll_args *args)
{
    enum thrum_mem_kind send_kind, recv_kind;

    return classify(args, is_in_place(args), send_bytes(args), recv_bytes(args), &send_kind,
                    &recv_kind);
}

static thrum_status_t place(const struct coll_args *args, bool in_place, struct placement *p)
{
    struct thrum_comm *comm = args->comm;
    uint64_t nsend = send_bytes(args), nrecv = recv_bytes(args), shift;
    enum thrum_mem_kind send_kind, recv_kind;
    bool send_inside_recv = nrecv >= nsend; /* in place: which of the two is the whole */
    thrum_status_t status;

    p->buffers = (struct exec_buffers){nsend ? (uint64_t)(uintptr_t)args->send : 0,
                                       nrecv ? (uint64_t)(uintptr_t)args->recv : 0};
    p->staged = false;
    status = classify(args, in_place, nsend, nrecv, &send_kind, &recv_kind);
    if (status || (send_kind == THRUM_MEM_DEVICE && recv_kind == THRUM_MEM_DEVICE))
        return status;

    p->staged = true;
    p->in = (struct exec_copy){.host = (void *)(uintptr_t)args->send,
                               .bytes = send_kind == THRUM_MEM_DEVICE ? 0 : nsend,
                               .registered = send_kind == THRUM_MEM_HOST_REGISTERED};
    p->out = (struct exec_copy){.host = args->recv,
                                .bytes = recv_kind == THRUM_MEM_DEVICE ? 0 : nrecv,
                                .registered = recv_kind == THRUM_MEM_HOST_REGISTERED};
    if (in_place) {
        /* One stage for the whole; the part lies in it as in the caller's memory. */
        uint64_t whole;
        status = exec_stage(comm, 0, max_u64(nsend, nrecv), &whole);
        if (status)
            return status;
        shift = send_inside_recv
                    ? (uint64_t)((const uint8_t *)args->send - (const uint8_t *)args->recv)
                    : (uint64_t)((const uint8_t *)args->recv - (const uint8_t *)args->send);
        p->buffers.send = send_inside_recv ? whole + shift : whole;
        p->buffers.recv = send_inside_recv ? whole : whole + shift;
    } else {
        if (p->in.bytes)
            status = exec_stage(comm, 0, nsend, &p->buffers.send);
        if (!status && p->out.bytes)
            status = exec_stage(comm, 1, nrecv, &p->buffers.recv);
        if (status)
            return status;
    }
    p->in.device = p->buffers.send;
    p->out.device = p->buffers.recv;
    p->staging = (struct exec_staging){&p->in, &p->out, p->in.bytes ? 1 : 0, p->out.bytes ? 1 : 0};
    return THRUM_OK;
}

thrum_status_t collective_run(const struct coll_args *args)
{
    struct thrum_comm *comm = args->comm;
    bool in_place = is_in_place(args);
    struct exec_key key = {.count = args->count,
                           .root = args->root,
                           .collective = (uint8_t)args->collective,
                           .dtype = (uint8_t)args->dtype,
                           .redop = (uint8_t)args->redop,
                           .in_place = in_place};
    struct exec_program *program;
    struct placement placement;
    uint64_t epoch = device_memory_epoch(comm->device); /* before the buffers are looked at */
    thrum_status_t status = place(args, in_place, &placement);

    if (status)
        return status;
    program = exec_cache_find(comm->cache, &key);
    if (!program) {
        status = make_program(args, &key, &program);
        if (status)
            return status;
    }
    if (placement.staged)
        return run_program(args, program, &placement.buffers, &placement.staging);
    exec_cache_remember(comm->cache, args, epoch, program, &placement.buffers);
    return run_program(args, program, &placement.buffers, NULL);
}

bool collective_repeat(const struct coll_args *args, thrum_status_t *status_out)
{
    struct thrum_comm *comm = args->comm;
    struct exec_program *program;
    struct exec_buffers buffers;

    if (!comm_is_valid(comm) || comm->finalized || !queue_is_valid(args->queue) ||
        atomic_load_explicit(&comm->status, memory_order_acquire))
        return false;
    program = exec_cache_recall(comm->cache, args, device_memory_epoch(comm->device), &buffers);
    if (!program)
        return false;
    *status_out = run_program(args, program, &buffers, NULL);
    return true;
}

const char *thrum_comm_algorithm(thrum_comm_t comm, const char *collective, size_t count,
                                 thrum_datatype_t dtype)
{
    struct coll_args args = {.comm = comm, .count = count, .dtype = dtype};
    struct plan_params params;
    const struct algo *algo;
    int index = collective ? collective_by_name(collective) : -1;

    if (!comm_is_valid(comm) || index < 0 || !thrum_datatype_size(dtype))
        return NULL;
    args.collective = (enum collective)index;
    fill_params(&args, false, &params);
    return select_algorithm(&params, &algo) ? NULL : algo->name;
}
