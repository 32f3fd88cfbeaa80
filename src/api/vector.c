/*
 * The v-variants. allgatherv and reduce_scatterv are plans with blocks of their own sizes; alltoallv, gatherv and
 * scatterv are point-to-point messages, which carry their name so that a disagreement is told by it. Called by
 * applications; path.c asks it where the blocks of a call lie.
 */
#include "api/api.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "counts are taken as they are");

/* ---- blocks ---- */

/* Blocks as the caller gives them, with the arguments' names for messages. */
struct blocks {
    const char *counts_name, *displs_name;
    const size_t *counts, *displs; /* displs NULL: one after the other */
};

/* Fills starts[r], in elements, and refuses what does not fit an address. */
static thrum_status_t find_starts(const struct blocks *blocks, int nranks, thrum_datatype_t dtype,
                                  uint64_t *starts)
{
    uint64_t next = 0, end, bytes;

    for (int r = 0; r < nranks; r++) {
        starts[r] = blocks->displs ? blocks->displs[r] : next;
        if (__builtin_add_overflow(starts[r], blocks->counts[r], &end) ||
            mul_overflows(end, thrum_datatype_size(dtype), &bytes) || bytes > INT64_MAX)
            return thrum_fail(THRUM_ERR_INVALID_COUNT,
                              "%s[%d]=%zu of %s from element %llu on overflows",
                              blocks->counts_name, r, blocks->counts[r], thrum_datatype_name(dtype),
                              (unsigned long long)starts[r]);
        next = end;
    }
    return THRUM_OK;
}

struct interval {
    uint64_t start, end;
    int rank;
};

static int by_start(const void *a, const void *b)
{
    const struct interval *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static thrum_status_t refuse_overlap(const struct blocks *blocks, int a, int b)
{
    return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                      "%s and %s: the blocks of ranks %d and %d overlap: %zu elements at %zu and "
                      "%zu at %zu",
                      blocks->counts_name, blocks->displs_name, a < b ? a : b, a < b ? b : a,
                      blocks->counts[a < b ? a : b], blocks->displs[a < b ? a : b],
                      blocks->counts[a < b ? b : a], blocks->displs[a < b ? b : a]);
}

/* Blocks that are written may not overlap. In rank order, as nearly always, one look at each is enough. */
static thrum_status_t check_disjoint(const struct blocks *blocks, int nranks)
{
    struct interval *intervals;
    thrum_status_t status = THRUM_OK;
    uint64_t end = 0;
    int r, n = 0;

    for (r = 0; blocks->displs && r < nranks; r++) {
        if (!blocks->counts[r])
            continue;
        if (blocks->displs[r] < end)
            break;
        end = blocks->displs[r] + blocks->counts[r];
    }
    if (!blocks->displs || r == nranks)
        return THRUM_OK;
    intervals = malloc((size_t)nranks * sizeof *intervals);
    if (!intervals)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory to check %d blocks", nranks);
    for (r = 0; r < nranks; r++)
        if (blocks->counts[r])
            intervals[n++] =
                (struct interval){blocks->displs[r], blocks->displs[r] + blocks->counts[r], r};
    qsort(intervals, (size_t)n, sizeof *intervals, by_start);
    for (int i = 1; i < n && !status; i++)
        if (intervals[i].start < intervals[i - 1].end)
            status = refuse_overlap(blocks, intervals[i - 1].rank, intervals[i].rank);
    free(intervals);
    return status;
}

static thrum_status_t check_array(const struct blocks *blocks)
{
    return blocks->counts
               ? THRUM_OK
               : thrum_fail(THRUM_ERR_INVALID_POINTER, "%s is NULL", blocks->counts_name);
}

/* ---- allgatherv and reduce_scatterv: plans ---- */

bool vector_overlaps(const struct coll_args *args, uint64_t nsend)
{
    uint64_t element = thrum_datatype_size(args->dtype);
    uint64_t send = (uint64_t)(uintptr_t)args->send, recv = (uint64_t)(uintptr_t)args->recv;

    if (args->collective != COLL_ALLGATHER)
        return true; /* recv is one block, send has no gaps */
    for (int r = 0; r < args->comm->nranks; r++) {
        uint64_t start = recv + args->displs[r] * element, bytes = args->counts[r] * element;

        if (bytes && send < start + bytes && start < send + nsend)
            return true;
    }
    return false;
}

void vector_record(const struct coll_args *args, struct call_record *call)
{
    uint64_t total = 0, detail = 1, gaps = 0;

    for (int r = 0; r < args->comm->nranks; r++) {
        uint64_t weight = comm_count_weight(r);

        gaps += weight * (args->displs[r] - total);
        total += args->counts[r];
        detail += weight * args->counts[r];
    }
    call->count = total;
    call->detail = detail ? detail : 1;
    call->root = (int32_t)(gaps >> 32 ^ gaps);
}

/* Out of a stage only the blocks are copied: what lies between them is the caller's. */
static thrum_status_t copy_blocks_out(const struct coll_args *args, struct prepared *prepared)
{
    const struct exec_placement *p = &prepared->placement;
    uint64_t element = thrum_datatype_size(args->dtype);
    size_t n = 0;

    prepared->outs = malloc((size_t)args->comm->nranks * sizeof *prepared->outs);
    if (!prepared->outs)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for the copies of %d blocks",
                          args->comm->nranks);
    for (int r = 0; r < args->comm->nranks; r++) {
        uint64_t at = args->displs[r] * element;

        if (args->counts[r])
            prepared->outs[n++] = (struct exec_copy){.host = (uint8_t *)p->out.host + at,
                                                     .device = p->out.device + at,
                                                     .bytes = args->counts[r] * element,
                                                     .registered = p->out.registered};
    }
    prepared->staging.out = prepared->outs;
    prepared->staging.nout = n;
    return THRUM_OK;
}

thrum_status_t vector_place(const struct coll_args *args, struct prepared *prepared)
{
    vector_record(args, &prepared->call);
    if (!prepared->placement.out.bytes || args->collective != COLL_ALLGATHER)
        return THRUM_OK;
    return copy_blocks_out(args, prepared);
}

#define FEW_RANKS 64 /* whose displacements fit the stack */

/* args with its blocks, checked; *starts is `few` or from malloc, and lives as long as args. */
static thrum_status_t fill_blocks(struct coll_args *args, const struct blocks *blocks,
                                  uint64_t *few, uint64_t **starts_out)
{
    thrum_status_t status = collective_check_comm(args->comm);
    uint64_t *starts = few;

    *starts_out = NULL;
    if (!status)
        status = check_array(blocks);
    if (status)
        return status;
    for (int r = 0; r < args->comm->nranks; r++)
        args->count = max_u64(args->count, blocks->counts[r]);
    status = collective_check(args);
    if (status)
        return status;
    if (args->comm->nranks > FEW_RANKS) {
        starts = malloc((size_t)args->comm->nranks * sizeof *starts);
        if (!starts)
            return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d blocks",
                              args->comm->nranks);
        *starts_out = starts;
    }
    status = find_starts(blocks, args->comm->nranks, args->dtype, starts);
    if (!status && args->collective == COLL_ALLGATHER)
        status = check_disjoint(blocks, args->comm->nranks);
    args->counts = (const uint64_t *)blocks->counts;
    args->displs = starts;
    return status;
}

/* The call, or where persistent_out is not NULL what can start it. */
static thrum_status_t call_blocks(struct coll_args args, const struct blocks *blocks,
                                  struct thrum_persistent **persistent_out)
{
    uint64_t few[FEW_RANKS], *starts;
    thrum_status_t status = fill_blocks(&args, blocks, few, &starts);

    status = persistent_out ? persistent_of_collective(&args, status, persistent_out)
                            : collective_call_checked(&args, status);
    free(starts);
    return status;
}

static struct blocks allgatherv_blocks(const size_t *recvcounts, const size_t *displs)
{
    return (struct blocks){"recvcounts", "displs", recvcounts, displs};
}

static struct blocks reduce_scatterv_blocks(const size_t *counts)
{
    return (struct blocks){"counts", "displs", counts, NULL};
}

thrum_status_t thrum_allgatherv(const void *send, void *recv, const size_t *recvcounts,
                                const size_t *displs, thrum_datatype_t dtype, thrum_comm_t comm,
                                thrum_queue_t queue)
{
    struct blocks blocks = allgatherv_blocks(recvcounts, displs);

    return call_blocks(
        coll_args_of(COLL_ALLGATHER, send, recv, 0, dtype, THRUM_SUM, 0, comm, queue), &blocks,
        NULL);
}

thrum_status_t thrum_allgatherv_init(const void *send, void *recv, const size_t *recvcounts,
                                     const size_t *displs, thrum_datatype_t dtype,
                                     thrum_comm_t comm, thrum_queue_t queue,
                                     thrum_persistent_t *persistent_out)
{
    struct blocks blocks = allgatherv_blocks(recvcounts, displs);

    if (!persistent_out)
        return persistent_no_output();
    return call_blocks(
        coll_args_of(COLL_ALLGATHER, send, recv, 0, dtype, THRUM_SUM, 0, comm, queue), &blocks,
        persistent_out);
}

thrum_status_t thrum_reduce_scatterv(const void *send, void *recv, const size_t *counts,
                                     thrum_datatype_t dtype, thrum_redop_t op, thrum_comm_t comm,
                                     thrum_queue_t queue)
{
    struct blocks blocks = reduce_scatterv_blocks(counts);

    return call_blocks(coll_args_of(COLL_REDUCE_SCATTER, send, recv, 0, dtype, op, 0, comm, queue),
                       &blocks, NULL);
}

thrum_status_t thrum_reduce_scatterv_init(const void *send, void *recv, const size_t *counts,
                                          thrum_datatype_t dtype, thrum_redop_t op,
                                          thrum_comm_t comm, thrum_queue_t queue,
                                          thrum_persistent_t *persistent_out)
{
    struct blocks blocks = reduce_scatterv_blocks(counts);

    if (!persistent_out)
        return persistent_no_output();
    return call_blocks(coll_args_of(COLL_REDUCE_SCATTER, send, recv, 0, dtype, op, 0, comm, queue),
                       &blocks, persistent_out);
}

/* ---- alltoallv, gatherv and scatterv: messages ---- */

/* One end of a call: blocks of all ranks, or one block for the root. */
struct side {
    bool is_send;
    const char *name; /* of its count, where there is one */
    const void *buffer;
    struct blocks blocks; /* counts NULL: one block */
    size_t count;
    uint64_t *starts; /* from malloc; NULL: one block */
};

struct vector_call {
    enum message_kind kind;
    struct side send, recv;
    thrum_datatype_t dtype;
    int root;
    bool
        in_place; /* the own block stays where it is; of alltoallv all of them: what is sent is copied first */
    struct thrum_comm *comm;
    struct thrum_queue *queue;
};

static uint64_t side_elems(const struct side *side, int rank)
{
    return side->starts ? side->blocks.counts[rank] : side->count;
}

static const uint8_t *side_at(const struct vector_call *v, const struct side *side, int rank)
{
    uint64_t start = side->starts ? side->starts[rank] : 0;

    return (const uint8_t *)side->buffer + start * thrum_datatype_size(v->dtype);
}

/* Reads the arrays of a side that has some. */
static thrum_status_t open_side(const struct vector_call *v, struct side *side, bool has_blocks)
{
    thrum_status_t status;

    if (!has_blocks)
        return collective_check_count(v->comm, side->name, side->count, v->dtype);
    status = check_array(&side->blocks);
    if (status)
        return status;
    side->starts = malloc((size_t)v->comm->nranks * sizeof *side->starts);
    if (!side->starts)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d blocks", v->comm->nranks);
    status = find_starts(&side->blocks, v->comm->nranks, v->dtype, side->starts);
    return !status && !side->is_send ? check_disjoint(&side->blocks, v->comm->nranks) : status;
}

/* Whether this rank's end of the call has a block for `rank`. */
static bool has_message(const struct vector_call *v, const struct side *side, int rank)
{
    bool only_root = v->kind == MESSAGE_GATHERV ? side->is_send : !side->is_send;

    if (v->kind == MESSAGE_ALLTOALLV)
        return true;
    return only_root ? rank == v->root : v->comm->rank == v->root;
}

/* From the first to the last byte of a side. */
static void find_range(const struct vector_call *v, const struct side *side, uint64_t *first_out,
                       uint64_t *end_out)
{
    *first_out = UINT64_MAX;
    *end_out = 0;
    for (int r = 0; r < v->comm->nranks; r++) {
        uint64_t at = (uint64_t)(uintptr_t)side_at(v, side, r);
        uint64_t bytes = side_elems(side, r) * thrum_datatype_size(v->dtype);

        if (!has_message(v, side, r) || !bytes)
            continue;
        *first_out = min_u64(*first_out, at);
        *end_out = max_u64(*end_out, at + bytes);
    }
}

static thrum_status_t check_apart(const struct vector_call *v)
{
    uint64_t element = thrum_datatype_size(v->dtype), send_first, send_end, recv_first, recv_end;

    find_range(v, &v->send, &send_first, &send_end);
    find_range(v, &v->recv, &recv_first, &recv_end);
    if (send_end <= recv_first || recv_end <= send_first)
        return THRUM_OK;
    for (int s = 0; s < v->comm->nranks; s++)
        for (int r = 0; r < v->comm->nranks && has_message(v, &v->send, s); r++) {
            uint64_t send = (uint64_t)(uintptr_t)side_at(v, &v->send, s);
            uint64_t recv = (uint64_t)(uintptr_t)side_at(v, &v->recv, r);
            uint64_t nsend = side_elems(&v->send, s) * element,
                     nrecv = side_elems(&v->recv, r) * element;

            if (!has_message(v, &v->recv, r) || !nsend || !nrecv ||
                (v->in_place && s == v->comm->rank && r == v->comm->rank))
                continue;
            if (send < recv + nrecv && recv < send + nsend)
                return thrum_fail(THRUM_ERR_INVALID_POINTER,
                                  "the block of send for rank %d (%llu bytes at %p) and that of "
                                  "recv from rank %d (%llu bytes at %p) overlap and are not in "
                                  "place",
                                  s, (unsigned long long)nsend, (void *)(uintptr_t)send, r,
                                  (unsigned long long)nrecv, (void *)(uintptr_t)recv);
        }
    return THRUM_OK;
}

/* "sendcounts[2]" or "recvcount" */
static void name_count(const struct side *side, int rank, char *text, size_t bytes)
{
    if (side->starts)
        snprintf(text, bytes, "%s[%d]", side->blocks.counts_name, rank);
    else
        snprintf(text, bytes, "%s", side->name);
}

/* What this rank sends to itself is what it receives from itself. */
static thrum_status_t check_own(const struct vector_call *v)
{
    int rank = v->comm->rank;
    uint64_t nsend = side_elems(&v->send, rank), nrecv = side_elems(&v->recv, rank);
    char send[40], recv[40];

    if (!has_message(v, &v->send, rank) || !has_message(v, &v->recv, rank) || nsend == nrecv)
        return THRUM_OK;
    name_count(&v->send, rank, send, sizeof send);
    name_count(&v->recv, rank, recv, sizeof recv);
    return thrum_fail(THRUM_ERR_INVALID_COUNT, "%s=%llu, but %s=%llu on the same rank", send,
                      (unsigned long long)nsend, recv, (unsigned long long)nrecv);
}

static size_t add_messages(const struct vector_call *v, const struct side *side,
                           struct p2p_call *calls)
{
    size_t n = 0;

    for (int r = 0; r < v->comm->nranks; r++) {
        if (!has_message(v, side, r) || (v->in_place && r == v->comm->rank))
            continue;
        calls[n++] = (struct p2p_call){.is_send = side->is_send,
                                       .buffer = side_at(v, side, r),
                                       .count = side_elems(side, r),
                                       .dtype = v->dtype,
                                       .peer = r,
                                       .kind = v->kind,
                                       .copied_first = side->is_send && v->in_place &&
                                                       v->kind == MESSAGE_ALLTOALLV,
                                       .queue = v->queue};
    }
    return n;
}

/* What goes to a rank lies where comes what it sends, as in MPI. */
static bool are_exchanged_in_place(const struct vector_call *v)
{
    if (v->send.buffer != v->recv.buffer)
        return false;
    for (int r = 0; r < v->comm->nranks; r++)
        if (v->send.blocks.counts[r] != v->recv.blocks.counts[r] ||
            (v->send.blocks.counts[r] && v->send.starts[r] != v->recv.starts[r]))
            return false;
    return true;
}

/* The root's own block in gatherv and scatterv lies where it has to be; or all blocks of alltoallv do. */
static bool is_in_place(const struct vector_call *v)
{
    int rank = v->comm->rank;

    if (v->kind == MESSAGE_ALLTOALLV)
        return are_exchanged_in_place(v);
    return rank == v->root && side_at(v, &v->send, rank) == side_at(v, &v->recv, rank);
}

static thrum_status_t check_call(struct vector_call *v)
{
    thrum_status_t status = collective_check_comm(v->comm);
    bool at_root;

    if (!status)
        status = collective_check_queue(v->comm, v->queue);
    if (!status && !thrum_datatype_size(v->dtype))
        status = thrum_fail(THRUM_ERR_INVALID_TYPE, "dtype=%d is no data type", (int)v->dtype);
    if (!status && (v->root < 0 || v->root >= v->comm->nranks))
        status = thrum_fail(THRUM_ERR_INVALID_RANK, "root=%d is not between 0 and %d", v->root,
                            v->comm->nranks - 1);
    if (status)
        return status;
    at_root = v->comm->rank == v->root;
    status = open_side(v, &v->send,
                       v->kind == MESSAGE_ALLTOALLV || (v->kind == MESSAGE_SCATTERV && at_root));
    if (!status)
        status = open_side(v, &v->recv,
                           v->kind == MESSAGE_ALLTOALLV || (v->kind == MESSAGE_GATHERV && at_root));
    if (!status)
        status = check_own(v);
    if (status)
        return status;
    v->in_place = is_in_place(v);
    return v->in_place && v->kind == MESSAGE_ALLTOALLV ? THRUM_OK : check_apart(v);
}

static thrum_status_t call_messages(struct vector_call v, struct thrum_persistent **persistent_out)
{
    struct p2p_call *calls = NULL;
    thrum_status_t status = check_call(&v);
    size_t n = 0;

    if (!status) {
        calls = calloc(2 * (size_t)v.comm->nranks, sizeof *calls);
        if (!calls)
            status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %d messages",
                                2 * v.comm->nranks);
    }
    if (!status) {
        n = add_messages(&v, &v.send, calls);
        n += add_messages(&v, &v.recv, calls + n);
        status = p2p_check_buffers(v.comm, calls, n);
    }
    if (persistent_out)
        status = persistent_of_messages(v.comm, v.queue, calls, n, status, persistent_out);
    else if (group_is_open())
        status = group_add_messages(v.comm, calls, n, status);
    else if (!status && n)
        status = p2p_issue(v.comm, calls, n);
    free(v.send.starts);
    free(v.recv.starts);
    free(calls);
    return status;
}

static struct side side_of_blocks(bool is_send, const void *buffer, const size_t *counts,
                                  const char *counts_name, const size_t *displs,
                                  const char *displs_name)
{
    return (struct side){
        .is_send = is_send, .buffer = buffer, .blocks = {counts_name, displs_name, counts, displs}};
}

static struct side side_of_one(bool is_send, const void *buffer, size_t count)
{
    return (struct side){.is_send = is_send,
                         .name = is_send ? "sendcount" : "recvcount",
                         .buffer = buffer,
                         .count = count};
}

static struct vector_call alltoallv(const void *send, const size_t *sendcounts,
                                    const size_t *sdispls, void *recv, const size_t *recvcounts,
                                    const size_t *rdispls, thrum_datatype_t dtype,
                                    thrum_comm_t comm, thrum_queue_t queue)
{
    return (struct vector_call){
        .kind = MESSAGE_ALLTOALLV,
        .send = side_of_blocks(true, send, sendcounts, "sendcounts", sdispls, "sdispls"),
        .recv = side_of_blocks(false, recv, recvcounts, "recvcounts", rdispls, "rdispls"),
        .dtype = dtype,
        .comm = comm,
        .queue = queue};
}

static struct vector_call gatherv(const void *send, size_t sendcount, void *recv,
                                  const size_t *recvcounts, const size_t *displs,
                                  thrum_datatype_t dtype, int root, thrum_comm_t comm,
                                  thrum_queue_t queue)
{
    return (struct vector_call){
        .kind = MESSAGE_GATHERV,
        .send = side_of_one(true, send, sendcount),
        .recv = side_of_blocks(false, recv, recvcounts, "recvcounts", displs, "displs"),
        .dtype = dtype,
        .root = root,
        .comm = comm,
        .queue = queue};
}

static struct vector_call scatterv(const void *send, const size_t *sendcounts, const size_t *displs,
                                   void *recv, size_t recvcount, thrum_datatype_t dtype, int root,
                                   thrum_comm_t comm, thrum_queue_t queue)
{
    return (struct vector_call){
        .kind = MESSAGE_SCATTERV,
        .send = side_of_blocks(true, send, sendcounts, "sendcounts", displs, "displs"),
        .recv = side_of_one(false, recv, recvcount),
        .dtype = dtype,
        .root = root,
        .comm = comm,
        .queue = queue};
}

thrum_status_t thrum_alltoallv(const void *send, const size_t *sendcounts, const size_t *sdispls,
                               void *recv, const size_t *recvcounts, const size_t *rdispls,
                               thrum_datatype_t dtype, thrum_comm_t comm, thrum_queue_t queue)
{
    return call_messages(
        alltoallv(send, sendcounts, sdispls, recv, recvcounts, rdispls, dtype, comm, queue), NULL);
}

thrum_status_t thrum_gatherv(const void *send, size_t sendcount, void *recv,
                             const size_t *recvcounts, const size_t *displs, thrum_datatype_t dtype,
                             int root, thrum_comm_t comm, thrum_queue_t queue)
{
    return call_messages(
        gatherv(send, sendcount, recv, recvcounts, displs, dtype, root, comm, queue), NULL);
}

thrum_status_t thrum_scatterv(const void *send, const size_t *sendcounts, const size_t *displs,
                              void *recv, size_t recvcount, thrum_datatype_t dtype, int root,
                              thrum_comm_t comm, thrum_queue_t queue)
{
    return call_messages(
        scatterv(send, sendcounts, displs, recv, recvcount, dtype, root, comm, queue), NULL);
}

thrum_status_t thrum_alltoallv_init(const void *send, const size_t *sendcounts,
                                    const size_t *sdispls, void *recv, const size_t *recvcounts,
                                    const size_t *rdispls, thrum_datatype_t dtype,
                                    thrum_comm_t comm, thrum_queue_t queue,
                                    thrum_persistent_t *persistent_out)
{
    if (!persistent_out)
        return persistent_no_output();
    return call_messages(
        alltoallv(send, sendcounts, sdispls, recv, recvcounts, rdispls, dtype, comm, queue),
        persistent_out);
}

thrum_status_t thrum_gatherv_init(const void *send, size_t sendcount, void *recv,
                                  const size_t *recvcounts, const size_t *displs,
                                  thrum_datatype_t dtype, int root, thrum_comm_t comm,
                                  thrum_queue_t queue, thrum_persistent_t *persistent_out)
{
    if (!persistent_out)
        return persistent_no_output();
    return call_messages(
        gatherv(send, sendcount, recv, recvcounts, displs, dtype, root, comm, queue),
        persistent_out);
}

thrum_status_t thrum_scatterv_init(const void *send, const size_t *sendcounts, const size_t *displs,
                                   void *recv, size_t recvcount, thrum_datatype_t dtype, int root,
                                   thrum_comm_t comm, thrum_queue_t queue,
                                   thrum_persistent_t *persistent_out)
{
    if (!persistent_out)
        return persistent_no_output();
    return call_messages(
        scatterv(send, sendcounts, displs, recv, recvcount, dtype, root, comm, queue),
        persistent_out);
}
