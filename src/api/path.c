/*
 * The data path of a collective, top to bottom. A newcomer starts here: thrum_allreduce (collectives.c) validates and
 * calls collective_run, which places the buffers (exec/stage.c), finds the program in the cache or selects
 * (select/select.c), builds (algo/<collective>/<algorithm>.c) and compiles (exec/compile.c) it, and runs it
 * (exec/run.c): device commands on the queue of the call.
 */
#include "api/api.h"

#include <string.h>

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
                                .ranks_per_core = comm->ranks_per_core,
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
    status = select_algorithm(&comm->policy, &params, &algo);
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
                                  const struct exec_placement *placement)
{
    struct thrum_comm *comm = args->comm;
    struct call_record call = record_of(args);
    const struct exec_staging staging = {&placement->in, &placement->out,
                                         placement->in.bytes ? 1 : 0, placement->out.bytes ? 1 : 0};
    thrum_status_t status;

    comm_record(comm, &call);
    status = exec_run(comm, program, &placement->buffers,
                      exec_is_staged(placement) ? &staging : NULL, args->queue, &call);
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

/*
 * Whether one stage can hold both buffers of a call that is not in place: its program then is the one that is, which
 * touches half the memory. Every algorithm has it, and peers do not see which it is.
 */
static bool can_stage_in_place(const struct coll_args *args)
{
    switch (args->collective) {
    case COLL_ALLREDUCE:
    case COLL_ALLGATHER:
    case COLL_REDUCE_SCATTER:
        return true;
    case COLL_BROADCAST:
        return args->comm->rank == args->root;
    default:
        return false;
    }
}

/* Where the smaller buffer lies in the larger one, in place. */
static uint64_t inner_offset(const struct coll_args *args)
{
    switch (args->collective) {
    case COLL_ALLGATHER:
    case COLL_REDUCE_SCATTER:
        return (uint64_t)args->comm->rank * args->count * thrum_datatype_size(args->dtype);
    default:
        return 0;
    }
}

static thrum_status_t stage_in_place(const struct coll_args *args, uint64_t nsend, uint64_t nrecv,
                                     struct exec_buffers *buffers)
{
    uint64_t whole, part;
    thrum_status_t status = exec_stage(args->comm, 0, max_u64(nsend, nrecv), &whole);

    if (status)
        return status;
    part = whole + inner_offset(args);
    buffers->send = nrecv >= nsend ? part : whole;
    buffers->recv = nrecv >= nsend ? whole : part;
    return THRUM_OK;
}

/* Gives host buffers their stages, and the copies between both. *in_place: the caller's; then the program's. */
static thrum_status_t stage(const struct coll_args *args, bool *in_place, uint64_t nsend,
                            uint64_t nrecv, struct exec_placement *p)
{
    thrum_status_t status = THRUM_OK;

    if (*in_place && args->collective == COLL_BROADCAST)
        p->out.bytes = 0; /* root has it */
    if (*in_place || (p->in.bytes && p->out.bytes && can_stage_in_place(args))) {
        *in_place = true;
        status = stage_in_place(args, nsend, nrecv, &p->buffers);
    } else {
        if (p->in.bytes)
            status = exec_stage(args->comm, 0, nsend, &p->buffers.send);
        if (!status && p->out.bytes)
            status = exec_stage(args->comm, 1, nrecv, &p->buffers.recv);
    }
    p->in.device = p->buffers.send;
    p->out.device = p->buffers.recv;
    return status;
}

/* Where the buffers are for the device. *in_place is whether the program is the one for calls in place. */
static thrum_status_t place(const struct coll_args *args, bool *in_place, struct exec_placement *p)
{
    uint64_t nsend = send_bytes(args), nrecv = recv_bytes(args);
    enum thrum_mem_kind send_kind, recv_kind;
    thrum_status_t status;

    *in_place = is_in_place(args);
    *p = (struct exec_placement){.buffers = {nsend ? (uint64_t)(uintptr_t)args->send : 0,
                                             nrecv ? (uint64_t)(uintptr_t)args->recv : 0}};
    status = classify(args, *in_place, nsend, nrecv, &send_kind, &recv_kind);
    if (status || (send_kind == THRUM_MEM_DEVICE && recv_kind == THRUM_MEM_DEVICE))
        return status;
    p->in = (struct exec_copy){.host = (void *)(uintptr_t)args->send,
                               .bytes = send_kind == THRUM_MEM_DEVICE ? 0 : nsend,
                               .registered = send_kind == THRUM_MEM_HOST_REGISTERED};
    p->out = (struct exec_copy){.host = args->recv,
                                .bytes = recv_kind == THRUM_MEM_DEVICE ? 0 : nrecv,
                                .registered = recv_kind == THRUM_MEM_HOST_REGISTERED};
    return stage(args, in_place, nsend, nrecv, p);
}

thrum_status_t collective_run(const struct coll_args *args)
{
    struct thrum_comm *comm = args->comm;
    struct exec_key key = {.count = args->count,
                           .root = args->root,
                           .collective = (uint8_t)args->collective,
                           .dtype = (uint8_t)args->dtype,
                           .redop = (uint8_t)args->redop};
    struct exec_program *program;
    struct exec_placement placement;
    uint64_t epoch = device_memory_epoch(comm->device); /* before the buffers are looked at */
    bool in_place;
    thrum_status_t status = place(args, &in_place, &placement);

    if (status)
        return status;
    key.in_place = in_place;
    program = exec_cache_find(comm->cache, &key);
    if (!program) {
        status = make_program(args, &key, &program);
        if (status)
            return status;
    }
    exec_cache_remember(comm->cache, args, epoch, program, &placement);
    return run_program(args, program, &placement);
}

bool collective_repeat(const struct coll_args *args, thrum_status_t *status_out)
{
    struct thrum_comm *comm = args->comm;
    struct exec_program *program;
    const struct exec_placement *placement;

    if (!comm_is_valid(comm) || comm->finalized ||
        atomic_load_explicit(&comm->status, memory_order_acquire))
        return false;
    program = exec_cache_recall(comm->cache, args, device_memory_epoch(comm->device), &placement);
    if (!program || !queue_is_still_valid(args->queue) || args->queue->device != comm->device ||
        queue_is_capturing(args->queue))
        return false;
    *status_out = run_program(args, program, placement);
    return true;
}

/* The call that the queries below are about. False if an argument is bad. */
static bool query_params(thrum_comm_t comm, const char *collective, size_t count,
                         thrum_datatype_t dtype, struct plan_params *out)
{
    struct coll_args args = {.comm = comm, .count = count, .dtype = dtype};
    int index = collective ? collective_by_name(collective) : -1;

    if (!comm_is_valid(comm) || index < 0 || !thrum_datatype_size(dtype))
        return false;
    args.collective = (enum collective)index;
    fill_params(&args, false, out);
    return true;
}

const char *thrum_comm_algorithm(thrum_comm_t comm, const char *collective, size_t count,
                                 thrum_datatype_t dtype)
{
    struct plan_params params;
    const struct algo *algo;

    if (!query_params(comm, collective, count, dtype, &params))
        return NULL;
    return select_algorithm(&comm->policy, &params, &algo) ? NULL : algo->name;
}

thrum_status_t thrum_comm_candidate(thrum_comm_t comm, const char *collective, size_t count,
                                    thrum_datatype_t dtype, int index,
                                    struct thrum_algorithm_candidate *candidate_out)
{
    enum { MOST = 32 };
    struct select_candidate all[MOST];
    struct thrum_algorithm_candidate result;
    struct plan_params params;
    thrum_status_t status;
    size_t n;

    if (!query_params(comm, collective, count, dtype, &params))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "comm=%p, collective=\"%s\" or dtype=%d is bad", (void *)comm,
                          collective ? collective : "NULL", (int)dtype);
    if (!candidate_out || candidate_out->size < sizeof candidate_out->size ||
        candidate_out->size > 4096)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "candidate_out is NULL or its size is not that of struct "
                          "thrum_algorithm_candidate");
    status = select_explain(&comm->policy, &params, all, MOST, &n);
    if (status)
        return status;
    if (index < 0 || (size_t)index >= min_u64(n, MOST))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "index=%d: %s has algorithms 0 to %zu", index,
                          collective, n - 1);
    result = (struct thrum_algorithm_candidate){.size = candidate_out->size,
                                                .name = all[index].algo->name,
                                                .refusal = all[index].refusal,
                                                .predicted_us = all[index].predicted_us,
                                                .chosen = all[index].chosen};
    memcpy(candidate_out, &result, min_u64(candidate_out->size, sizeof result));
    return THRUM_OK;
}
