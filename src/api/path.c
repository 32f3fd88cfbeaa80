/*
 * The data path of a collective, top to bottom. A newcomer starts here: thrum_allreduce (collectives.c) validates and
 * calls collective_run, which looks at the buffers, finds the program in the cache or selects (select/select.c), builds
 * (algo/<collective>/<algorithm>.c) and compiles (exec/compile.c) it, stages host memory (exec/stage.c), and runs it
 * (exec/run.c): device commands on the queue of the call.
 */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "algo/algo.h"
#include "base/base.h"
#include "select/select.h"

/* A reduction of the caller's says itself whether it needs the order. */
static bool is_ordered(const struct coll_args *args)
{
    const struct comm_redop *redop =
        args->redop >= THRUM_REDOP_COUNT ? comm_redop_find(args->comm, args->redop) : NULL;

    if (redop && redop->fold)
        return !redop->commutative || args->comm->reproducible;
    return args->comm->reproducible && plan_rounds(args->dtype);
}

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
                                .layout = comm->layout,
                                .lanes = comm->lanes,
                                .ranks_per_core = comm->ranks_per_core,
                                .scratch_bytes = comm->scratch_bytes,
                                .line_bytes = comm->line_bytes,
                                .counts = args->counts,
                                .displs = args->displs,
                                .ordered = is_ordered(args)};
}

static struct call_record record_of(const struct coll_args *args)
{
    return (struct call_record){.sequence = args->comm->sequence + 1,
                                .count = args->count,
                                .root = args->root,
                                .collective = (uint8_t)args->collective,
                                .dtype = (uint8_t)args->dtype,
                                .redop = (uint16_t)args->redop};
}

/* Select, build, compile. `op`: what the program folds by. */
static thrum_status_t build_program(const struct coll_args *args, bool in_place, thrum_redop_t op,
                                    const struct call_record *call,
                                    struct exec_program **program_out)
{
    struct plan_params params;
    const struct algo *algo;
    struct plan plan;
    thrum_status_t status;

    fill_params(args, in_place, &params);
    params.redop = op;
    status = select_algorithm(&args->comm->policy, &params, &algo);
    if (status)
        return status;
    status = algo_build(algo, &params, &plan);
    if (status)
        return status;
    status = exec_compile(args->comm, &plan, CHANNEL_COLLECTIVE, exec_signature(call), program_out);
    plan_fini(&plan);
    return status;
}

/* Only on a miss of the plan cache. */
static thrum_status_t make_program(const struct coll_args *args, thrum_redop_t op,
                                   const struct call_record *call, const struct exec_key *key,
                                   struct exec_program **program_out)
{
    struct exec_program *program;
    thrum_status_t status = build_program(args, key->in_place, op, call, &program);

    if (!status)
        status = exec_cache_insert(args->comm->cache, key, program);
    if (!status)
        *program_out = program;
    return status;
}

/* The last step: the call takes its place in the communicator's order, and its program is run. */
static thrum_status_t run_program(const struct coll_args *args, const struct call_record *call,
                                  struct exec_program *program, const struct exec_buffers *buffers,
                                  const struct exec_staging *staging)
{
    struct thrum_comm *comm = args->comm;
    thrum_status_t status;

    comm_record(comm, call);
    status = exec_run(comm, program, buffers, staging, args->queue, call);
    if (status)
        comm_unrecord(comm, call);
    return status;
}

static struct exec_staging staging_of(const struct exec_placement *placement)
{
    return (struct exec_staging){&placement->in,
                                 &placement->out,
                                 placement->in.bytes ? 1 : 0,
                                 placement->out.bytes ? 1 : 0,
                                 NULL,
                                 placement->by_parts};
}

static inline thrum_status_t run_repeat(const struct coll_args *args, struct exec_repeat *repeat)
{
    struct exec_staging staging;

    repeat->call.sequence = args->comm->sequence + 1;
    if (!exec_is_staged(&repeat->placement))
        return run_program(args, &repeat->call, repeat->program, &repeat->placement.buffers, NULL);
    staging = staging_of(&repeat->placement);
    return run_program(args, &repeat->call, repeat->program, &repeat->placement.buffers, &staging);
}

static uint64_t send_bytes(const struct coll_args *args)
{
    struct plan_params params;

    fill_params(args, false, &params);
    return plan_send_bytes(&params, args->comm->rank);
}

/* Of what is written: that of exscan's rank 0 is left alone. */
static uint64_t recv_bytes(const struct coll_args *args)
{
    struct plan_params params;

    if (args->collective == COLL_EXSCAN && args->comm->rank == 0)
        return 0;
    fill_params(args, false, &params);
    return plan_recv_bytes(&params, args->comm->rank);
}

/* Where this rank's block begins in the whole. */
static uint64_t own_offset(const struct coll_args *args)
{
    uint64_t rank = (uint64_t)args->comm->rank;

    return (args->displs ? args->displs[rank] : args->count * rank) *
           thrum_datatype_size(args->dtype);
}

/* Whether the call is in place by the collective's rule in thrum.h. */
static bool is_in_place(const struct coll_args *args)
{
    uint64_t own = own_offset(args);
    bool at_root = args->comm->rank == args->root;
    const uint8_t *send = args->send, *recv = args->recv;

    switch (args->collective) {
    case COLL_ALLREDUCE:
    case COLL_SCAN:
    case COLL_EXSCAN:
        return send == recv;
    case COLL_BROADCAST:
    case COLL_REDUCE:
        return at_root && send == recv;
    case COLL_ALLGATHER:
        return send == recv + own;
    case COLL_REDUCE_SCATTER:
        return recv == send + own;
    case COLL_GATHER:
        return at_root && send == recv + own;
    case COLL_SCATTER:
        return at_root && recv == send + own;
    default:
        return false;
    }
}

/*
 * In place as MPI has it, which no plan knows: peers read what is written meanwhile. All of send is copied to a stage
 * first, as if it were host memory.
 */
static bool is_copied_first(const struct coll_args *args)
{
    return args->send == args->recv &&
           (args->collective == COLL_ALLTOALL ||
            (args->collective == COLL_REDUCE_SCATTER && own_offset(args)));
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
    if (!status && !in_place && nsend && nrecv && send < recv + nrecv && recv < send + nsend &&
        !is_copied_first(args) && !(args->counts && !vector_overlaps(args, nsend)))
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
    case COLL_SCAN:
    case COLL_EXSCAN:
        return true;
    case COLL_BROADCAST:
    case COLL_REDUCE:
    case COLL_GATHER:
    case COLL_SCATTER:
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
    case COLL_GATHER:
    case COLL_SCATTER:
        return own_offset(args);
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

/* Peers use what this rank's own commands do. */
static void show_peers(struct exec_buffers *buffers)
{
    buffers->peer_send = buffers->send;
    buffers->peer_recv = buffers->recv;
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
    show_peers(&p->buffers);
    return status;
}

/* What the buffers are, in `p`, before any of them has a stage; whether one needs it. */
static thrum_status_t look_at(const struct coll_args *args, bool in_place, struct exec_placement *p,
                              enum thrum_mem_kind *send_kind, enum thrum_mem_kind *recv_kind)
{
    uint64_t nsend = send_bytes(args), nrecv = recv_bytes(args);
    thrum_status_t status = classify(args, in_place, nsend, nrecv, send_kind, recv_kind);

    *p = (struct exec_placement){.buffers = {.send = nsend ? (uint64_t)(uintptr_t)args->send : 0,
                                             .recv = nrecv ? (uint64_t)(uintptr_t)args->recv : 0}};
    show_peers(&p->buffers);
    p->in = (struct exec_copy){
        .host = (void *)(uintptr_t)args->send,
        .bytes = *send_kind == THRUM_MEM_DEVICE && !is_copied_first(args) ? 0 : nsend,
        .registered = *send_kind != THRUM_MEM_HOST};
    p->out = (struct exec_copy){.host = args->recv,
                                .bytes = *recv_kind == THRUM_MEM_DEVICE ? 0 : nrecv,
                                .registered = *recv_kind == THRUM_MEM_HOST_REGISTERED};
    return status;
}

/* Where the buffers are for the device, with all of a host buffer staged. *in_place is whether the program is. */
static thrum_status_t place(const struct coll_args *args, bool *in_place, struct exec_placement *p)
{
    enum thrum_mem_kind send_kind, recv_kind;
    thrum_status_t status;

    *in_place = is_in_place(args);
    status = look_at(args, *in_place, p, &send_kind, &recv_kind);
    if (status || !exec_is_staged(p))
        return status;
    return stage(args, in_place, send_bytes(args), recv_bytes(args), p);
}

/* The program names what peers touch: only that gets a stage. */
static thrum_status_t stage_parts(const struct coll_args *args, const struct exec_program *program,
                                  struct exec_placement *p)
{
    bool in = p->in.bytes && program->stages_send, out = p->out.bytes && program->stages_recv;
    bool shared = in && out && program->shares_stages;
    thrum_status_t status = THRUM_OK;

    p->by_parts = true;
    if (in)
        status =
            exec_stage(args->comm, 0, shared ? max_u64(p->in.bytes, p->out.bytes) : p->in.bytes,
                       &p->buffers.peer_send);
    if (!status && out && !shared)
        status = exec_stage(args->comm, 1, p->out.bytes, &p->buffers.peer_recv);
    if (shared)
        p->buffers.peer_recv = p->buffers.peer_send;
    p->in.device = p->buffers.peer_send;
    p->out.device = p->buffers.peer_recv;
    return status;
}

/* The program of a call with equal blocks and no scalar; from the cache, or made for it. */
static thrum_status_t plain_program(const struct coll_args *args, bool in_place,
                                    struct exec_program **program_out)
{
    const struct exec_key key = {.count = args->count,
                                 .root = args->root,
                                 .collective = (uint8_t)args->collective,
                                 .dtype = (uint8_t)args->dtype,
                                 .redop = (uint16_t)args->redop,
                                 .in_place = in_place};
    struct call_record call;

    *program_out = exec_cache_find(args->comm->cache, &key);
    if (*program_out)
        return THRUM_OK;
    call = record_of(args);
    return make_program(args, args->redop, &call, &key, program_out);
}

/* Places the buffers of such a call, by parts where the program allows it. */
static thrum_status_t place_plain(const struct coll_args *args, struct exec_placement *p,
                                  struct exec_program **program_out)
{
    bool in_place = is_in_place(args);
    enum thrum_mem_kind send_kind, recv_kind;
    thrum_status_t status = look_at(args, in_place, p, &send_kind, &recv_kind);

    if (!status)
        status = plain_program(args, in_place, program_out);
    if (status || !exec_is_staged(p))
        return status;
    if ((*program_out)->names_stages && !is_copied_first(args) &&
        exec_reaches(args->comm, send_kind) && exec_reaches(args->comm, recv_kind))
        return stage_parts(args, *program_out, p);
    status = stage(args, &in_place, send_bytes(args), recv_bytes(args), p);
    return status ? status : plain_program(args, in_place, program_out);
}

/* ---- what is not on the fast path: v-variants, premultiplied sums, persistent calls ---- */

/* The key of the program that a placed call runs; it borrows the arrays. */
static struct exec_key prepared_key(const struct coll_args *args, const struct prepared *prepared)
{
    return (struct exec_key){.count = args->count,
                             .detail = prepared->call.detail,
                             .counts = args->counts,
                             .displs = args->displs,
                             .nranks = args->comm->nranks,
                             .root = args->root,
                             .redop = (uint16_t)args->redop,
                             .collective = (uint8_t)args->collective,
                             .dtype = (uint8_t)args->dtype,
                             .in_place = prepared->in_place};
}

/* Before the buffers are placed. */
static void prepare(const struct coll_args *args, struct prepared *out)
{
    *out = (struct prepared){
        .in_place = is_in_place(args), .program_op = args->redop, .call = record_of(args)};
    if (args->counts)
        vector_record(args, &out->call);
}

thrum_status_t collective_place(const struct coll_args *args, struct prepared *out)
{
    thrum_status_t status;

    prepare(args, out);
    status = place(args, &out->in_place, &out->placement);
    out->staging = staging_of(&out->placement);
    out->staged = out->on_stage = exec_is_staged(&out->placement);
    if (!status && args->counts)
        status = vector_place(args, out);
    if (!status && args->redop >= THRUM_REDOP_COUNT)
        status = redop_place(args, send_bytes(args), out);
    show_peers(&out->placement.buffers);
    if (status)
        collective_unplace(out);
    return status;
}

void collective_unplace(struct prepared *prepared)
{
    free(prepared->outs);
    prepared->outs = NULL;
}

thrum_status_t collective_build(const struct coll_args *args, const struct prepared *prepared,
                                struct exec_program **program_out)
{
    return build_program(args, prepared->in_place, prepared->program_op, &prepared->call,
                         program_out);
}

thrum_status_t collective_begin(const struct coll_args *args, struct exec_program *program,
                                struct prepared *prepared)
{
    prepared->call.sequence = args->comm->sequence + 1;
    return run_program(args, &prepared->call, program, &prepared->placement.buffers,
                       prepared->staged ? &prepared->staging : NULL);
}

static bool is_premultiplied(const struct coll_args *args)
{
    return args->redop >= THRUM_REDOP_COUNT && !comm_redop_find(args->comm, args->redop)->fold;
}

/* From the cache, or made for it. */
static thrum_status_t find_program(const struct coll_args *args, const struct prepared *prepared,
                                   struct exec_program **program_out)
{
    struct exec_key key = prepared_key(args, prepared);

    *program_out = exec_cache_find(args->comm->cache, &key);
    if (*program_out)
        return THRUM_OK;
    return make_program(args, prepared->program_op, &prepared->call, &key, program_out);
}

thrum_status_t collective_plan(const struct coll_args *args)
{
    struct exec_program *program;
    struct prepared prepared;

    if (is_premultiplied(args))
        return THRUM_OK; /* where it is placed decides whether it is in place */
    prepare(args, &prepared);
    return find_program(args, &prepared, &program);
}

/* collective_run for any call. */
static thrum_status_t run_prepared(const struct coll_args *args)
{
    struct exec_program *program;
    struct prepared prepared;
    thrum_status_t status = collective_place(args, &prepared);

    if (status)
        return status;
    status = find_program(args, &prepared, &program);
    if (!status)
        status = collective_begin(args, program, &prepared);
    collective_unplace(&prepared);
    return status;
}

thrum_status_t collective_run(const struct coll_args *args)
{
    struct thrum_comm *comm = args->comm;
    struct exec_program *program;
    struct exec_placement placement;
    uint64_t epoch = device_memory_epoch(comm->device); /* before the buffers are looked at */
    struct call_record call;
    thrum_status_t status;

    if (args->counts || is_premultiplied(args))
        return run_prepared(args);
    status = place_plain(args, &placement, &program);
    if (status)
        return status;
    call = record_of(args);
    return run_repeat(args,
                      exec_cache_remember(comm->cache, args, epoch, program, &placement, &call));
}

bool collective_repeat(const struct coll_args *args, thrum_status_t *status_out)
{
    struct thrum_comm *comm = args->comm;
    struct exec_repeat *repeat;

    if (!comm_is_valid(comm) || comm->finalized ||
        atomic_load_explicit(&comm->status, memory_order_acquire))
        return false;
    repeat = exec_cache_recall(comm->cache, args, device_memory_epoch(comm->device));
    if (!repeat || !queue_is_still_valid(args->queue) || args->queue->device != comm->device ||
        queue_is_capturing(args->queue))
        return false;
    *status_out = run_repeat(args, repeat);
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
