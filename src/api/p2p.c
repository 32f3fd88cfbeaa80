/*
 * Point to point: the sends and receives of one group on one communicator, as rounds. Round j holds the j-th send and
 * the j-th receive of every peer, so that each round is a plan with at most one message a pair and direction, and
 * rounds are the same on both ends. Called by api.
 */
#include "api/api.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "algo/algo.h"
#include "base/base.h"

static uint64_t p2p_bytes(const struct p2p_call *call)
{
    return call->count * thrum_datatype_size(call->dtype);
}

/* One message, placed. */
struct message {
    struct p2p_call call;
    uint64_t bytes, address;
    enum thrum_mem_kind kind;
    bool staged; /* `address` is that of a stage */
    int round;
};

struct round {
    struct plan_p2p *p2p; /* `offset`: the index of the message */
    uint64_t *addresses; /* of each of them, and then */
    uint64_t *what, *bytes; /* for the cache: what they are, but for the addresses */
    struct exec_copy *in, *out;
    int np2p;
    bool meets; /* one of them is the first of its pair and direction */
    size_t nin, nout;
};

/* Checks and classifies the buffers; nothing is enqueued before all are good. */
static thrum_status_t place_messages(struct thrum_comm *comm, struct message *messages, size_t n)
{
    uint64_t staged = 0, stage = 0;
    thrum_status_t status;

    for (size_t i = 0; i < n; i++) {
        struct message *m = &messages[i];

        m->bytes = p2p_bytes(&m->call);
        m->address = (uint64_t)(uintptr_t)m->call.buffer;
        m->kind = THRUM_MEM_DEVICE;
        if (!m->bytes) {
            m->address = comm->area; /* never touched, but an address */
            continue;
        }
        status = exec_classify(comm, m->call.is_send ? "send" : "recv", m->call.buffer, m->bytes,
                               &m->kind);
        if (status)
            return status;
        m->staged = m->kind != THRUM_MEM_DEVICE || m->call.copied_first;
        if (m->staged &&
            __builtin_add_overflow(staged, round_up_u64(m->bytes, CACHE_LINE_BYTES), &staged))
            return thrum_fail(THRUM_ERR_NO_DEVICE_MEMORY,
                              "%s: the host buffers of a group need more than 2^64 bytes of stage",
                              comm->name);
    }
    if (!staged)
        return THRUM_OK;
    status = exec_stage(comm, 0, staged, &stage);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        if (messages[i].staged) {
            messages[i].address = stage;
            stage += round_up_u64(messages[i].bytes, CACHE_LINE_BYTES);
        }
    return THRUM_OK;
}

/* Gives each message the round in which its turn with its peer comes. NO_MEMORY. */
static thrum_status_t assign_rounds(const struct thrum_comm *comm, struct message *messages,
                                    size_t n, int *rounds_out)
{
    int *next = calloc(2 * (size_t)comm->nranks, sizeof *next); /* of each peer and direction */

    if (!next)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %zu messages", n);
    *rounds_out = 0;
    for (size_t i = 0; i < n; i++) {
        messages[i].round = next[2 * messages[i].call.peer + messages[i].call.is_send]++;
        if (messages[i].round >= *rounds_out)
            *rounds_out = messages[i].round + 1;
    }
    free(next);
    return THRUM_OK;
}

/* The next message of this rank to itself, from *at on; NULL if there is none. */
static const struct p2p_call *next_self(const struct thrum_comm *comm, const struct p2p_call *calls,
                                        size_t n, bool is_send, size_t *at)
{
    while (*at < n) {
        const struct p2p_call *call = &calls[(*at)++];
        if (call->peer == comm->rank && call->is_send == is_send)
            return call;
    }
    return NULL;
}

/* What a rank sends to itself and receives; as for other peers, both are the same part of the same thing. */
static thrum_status_t check_own_pair(int rank, const struct p2p_call *send,
                                     const struct p2p_call *recv)
{
    static const char *const names[] = {"thrum_send and thrum_recv", "thrum_alltoallv",
                                        "thrum_gatherv", "thrum_scatterv"};

    if (send->kind != recv->kind)
        return thrum_fail(THRUM_ERR_INVALID_USAGE,
                          "rank %d sends to itself by %s and receives by %s: calls of a group that "
                          "meet each other come in the same order",
                          rank, names[send->kind], names[recv->kind]);
    if (p2p_bytes(send) != p2p_bytes(recv))
        return thrum_fail(THRUM_ERR_INVALID_COUNT,
                          "rank %d sends %llu bytes to itself and receives %llu", rank,
                          (unsigned long long)p2p_bytes(send), (unsigned long long)p2p_bytes(recv));
    if (send->dtype != recv->dtype)
        return thrum_fail(THRUM_ERR_INVALID_TYPE, "rank %d sends %s to itself and receives %s",
                          rank, thrum_datatype_name(send->dtype), thrum_datatype_name(recv->dtype));
    return THRUM_OK;
}

static thrum_status_t check_self(const struct thrum_comm *comm, const struct p2p_call *calls,
                                 size_t n)
{
    size_t s = 0, r = 0;
    thrum_status_t status;

    for (;;) {
        const struct p2p_call *send = next_self(comm, calls, n, true, &s);
        const struct p2p_call *recv = next_self(comm, calls, n, false, &r);

        if (!send && !recv)
            return THRUM_OK;
        if (!send || !recv)
            return thrum_fail(THRUM_ERR_INVALID_USAGE,
                              "rank %d %s itself without a matching %s in the group", comm->rank,
                              send ? "sends to" : "receives from", send ? "receive" : "send");
        status = check_own_pair(comm->rank, send, recv);
        if (status)
            return status;
    }
}

/*
 * The first message of a pair and direction is a rendezvous, whatever its length. After it both ends have connected: a
 * sender of lines may leave, and they are received all the same.
 */
static void add_message(const struct thrum_comm *comm, struct round *round, const struct message *m)
{
    const struct comm_peer *peer = &comm->peers[m->call.peer];
    bool is_first = !(m->call.is_send ? peer->messages_sent : peer->messages_received);
    int i = round->np2p++;

    round->meets |= is_first;

    round->p2p[i] = (struct plan_p2p){.peer = m->call.peer,
                                      .is_send = m->call.is_send,
                                      .dtype = (uint8_t)m->call.dtype,
                                      .kind = (uint8_t)m->call.kind,
                                      .meets = is_first,
                                      .bytes = m->bytes,
                                      .offset = (uint64_t)i};
    round->addresses[i] = m->address;
    round->what[i] = (uint64_t)(uint32_t)m->call.peer << 32 | (uint64_t)m->call.dtype << 16 |
                     (uint64_t)m->call.kind << 8 | (uint64_t)is_first << 1 | m->call.is_send;
    round->bytes[i] = m->bytes;
}

static void collect(const struct thrum_comm *comm, const struct message *messages, size_t n,
                    int index, struct round *round)
{
    round->np2p = 0;
    round->meets = false;
    round->nin = round->nout = 0;
    for (size_t i = 0; i < n; i++) {
        const struct message *m = &messages[i];
        struct exec_copy copy = {.host = (void *)(uintptr_t)m->call.buffer,
                                 .device = m->address,
                                 .bytes = m->bytes,
                                 .registered = m->kind != THRUM_MEM_HOST};

        if (m->round == index)
            add_message(comm, round, m);
        if (m->staged && index == (m->call.copied_first ? 0 : m->round)) {
            if (m->call.is_send)
                round->in[round->nin++] = copy;
            else
                round->out[round->nout++] = copy;
        }
    }
}

/* The arrival lines tell each sender where its data go. */
static thrum_status_t fill_arrivals(struct thrum_comm *comm, const struct round *round,
                                    struct exec_program *program)
{
    for (int i = 0; i < round->np2p; i++) {
        const struct plan_p2p *p = &round->p2p[i];
        struct comm_arrival *arrival = &program->arrivals[i];

        if (p->is_send || p->peer == comm->rank || plan_is_eager(p, comm->line_bytes))
            continue;
        arrival->recv_offset = round->addresses[i] - comm->device->own_base;
        arrival->count = p->bytes / thrum_datatype_size((thrum_datatype_t)p->dtype);
        arrival->dtype = p->dtype;
        arrival->collective = COLL_SENDRECV;
        arrival->redop = p->kind;
        if (!comm->peers[p->peer].loads) {
            thrum_status_t status = exec_region(comm, round->addresses[i], &arrival->recv_key,
                                                &arrival->recv_put_offset);
            if (status)
                return status;
        }
    }
    return THRUM_OK;
}

static struct exec_key key_of(const struct round *round)
{
    struct exec_key key = {.detail = 1,
                           .counts = round->what,
                           .displs = round->bytes,
                           .nranks = round->np2p,
                           .collective = COLL_SENDRECV};

    for (int i = 0; i < round->np2p; i++) {
        key.detail = (key.detail ^ round->what[i]) * 0x9e3779b97f4a7c15u;
        key.detail = (key.detail ^ key.detail >> 29 ^ round->bytes[i]) * 0xbf58476d1ce4e5b9u;
    }
    return key;
}

/* Only on a miss of the plan cache. */
static thrum_status_t make_program(struct thrum_comm *comm, const struct round *round,
                                   const struct exec_key *key, struct exec_program **program_out)
{
    const struct plan_params params = {.collective = COLL_SENDRECV,
                                       .rank = comm->rank,
                                       .nranks = comm->nranks,
                                       .dtype = THRUM_UINT8,
                                       .peer_access = comm->peer_access,
                                       .layout = comm->layout,
                                       .lanes = 1,
                                       .scratch_bytes = comm->scratch_bytes,
                                       .line_bytes = comm->line_bytes,
                                       .p2p = round->p2p,
                                       .np2p = round->np2p};
    struct plan plan;
    thrum_status_t status = algo_build(algo_find(COLL_SENDRECV, "eager"), &params, &plan);

    if (status)
        return status;
    status = exec_compile(comm, &plan, CHANNEL_P2P, 0, program_out);
    plan_fini(&plan);
    return status ? status : exec_cache_insert(comm->cache, key, *program_out);
}

static thrum_status_t find_program(struct thrum_comm *comm, const struct round *round,
                                   struct exec_program **program_out)
{
    const struct exec_key key = key_of(round);

    *program_out = exec_cache_find(comm->cache, &key);
    return *program_out ? THRUM_OK : make_program(comm, round, &key, program_out);
}

static thrum_status_t run_round(struct thrum_comm *comm, const struct round *round,
                                struct exec_program *program, struct thrum_queue *queue)
{
    const struct call_record call = {
        .collective = COLL_SENDRECV, .root = round->p2p[0].peer, .redop = round->p2p[0].kind};
    const struct exec_buffers buffers = {.messages = round->addresses};
    const struct exec_staging staging = {round->in,   round->out, round->nin,
                                         round->nout, NULL,       false};
    thrum_status_t status = program->arrives ? fill_arrivals(comm, round, program) : THRUM_OK;

    return status ? status
                  : exec_run(comm, program, &buffers, round->nin + round->nout ? &staging : NULL,
                             queue, &call);
}

/* ---- several queues in one group: the first carries the messages, the others wait for it and it for them ---- */

struct other_queues {
    struct thrum_queue *queue[PLAN_MAX_LANES - 1];
    int n;
};

/* What was submitted to bring the queues together: [0] the wait of the first, then the others' signals. */
struct join {
    struct thrum_queue *queue[PLAN_MAX_LANES]; /* NULL: nothing */
    uint64_t ticket[PLAN_MAX_LANES];
};

static thrum_status_t find_others(const struct p2p_call *calls, size_t n, struct other_queues *out)
{
    out->n = 0;
    for (size_t i = 1; i < n; i++) {
        bool known = calls[i].queue == calls[0].queue;

        for (int k = 0; k < out->n && !known; k++)
            known = out->queue[k] == calls[i].queue;
        if (known)
            continue;
        if (out->n == PLAN_MAX_LANES - 1)
            return thrum_fail(THRUM_ERR_UNSUPPORTED,
                              "sends and receives of one group on more than %d queues",
                              PLAN_MAX_LANES);
        out->queue[out->n++] = calls[i].queue;
    }
    return THRUM_OK;
}

static thrum_status_t submit_one(struct thrum_queue *queue, enum thrum_opcode opcode,
                                 uint64_t address, uint64_t value, uint64_t *ticket_out)
{
    struct thrum_operand operand = {.base = address};
    struct thrum_command command = {.opcode = (uint8_t)opcode,
                                    .ndst = opcode == THRUM_CMD_SIGNAL,
                                    .nsrc = opcode == THRUM_CMD_WAIT,
                                    .value = value,
                                    .operands = &operand};

    return thrum_queue_submit(queue, &command, 1, ticket_out);
}

/* The first queue goes on when the others have reached this point. Also after an error *join says what was submitted. */
static thrum_status_t await_others(struct thrum_comm *comm, struct thrum_queue *queue,
                                   const struct other_queues *others, struct join *join)
{
    uint64_t joined = comm->area + comm->own_offset + offsetof(struct comm_own_block, joined);
    thrum_status_t status = THRUM_OK;

    for (int i = 0; i < others->n && !status; i++) {
        status = exec_hold_queue(comm, others->queue[i]);
        if (!status)
            status =
                submit_one(others->queue[i], THRUM_CMD_SIGNAL, joined, 1, &join->ticket[i + 1]);
        if (status)
            break;
        join->queue[i + 1] = others->queue[i];
        comm->joined++;
    }
    if (!others->n || status)
        return status;
    status = exec_hold_queue(comm, queue);
    if (!status)
        status = submit_one(queue, THRUM_CMD_WAIT, joined, comm->joined, &join->ticket[0]);
    if (!status)
        join->queue[0] = queue;
    return status;
}

/*
 * If a queue stops before it says that it has come, the first would wait for ever: the wait ends with the group's last
 * operation, or at once where the group has none. `before`: operations when the group began.
 */
static void guard_join(struct thrum_comm *comm, const struct join *join, uint64_t before,
                       thrum_status_t status)
{
    uint64_t number = atomic_load(&comm->issued);
    struct comm_operation *operation = comm_operation_at(comm, number);

    if (number == before) {
        if (join->queue[0])
            comm->ops->cancel(join->queue[0]->impl, join->ticket[0], join->ticket[0], status);
        return;
    }
    pthread_mutex_lock(&comm->retire_lock);
    operation->has_more = true;
    memcpy(operation->join_queue, join->queue, sizeof join->queue);
    memcpy(operation->join_ticket, join->ticket, sizeof join->ticket);
    pthread_mutex_unlock(&comm->retire_lock);
}

/* The others go on when the group is done; their waits end with the newest operation if it fails. */
static thrum_status_t release_others(struct thrum_comm *comm, const struct other_queues *others)
{
    uint64_t number = atomic_load(&comm->issued);
    uint64_t done = comm->area + comm->own_offset + offsetof(struct comm_own_block, done);
    struct comm_operation *operation = comm_operation_at(comm, number);

    for (int i = 0; i < others->n; i++) {
        uint64_t ticket;
        thrum_status_t status = exec_hold_queue(comm, others->queue[i]);

        if (!status)
            status = submit_one(others->queue[i], THRUM_CMD_WAIT, done, number, &ticket);
        if (status)
            return status;
        pthread_mutex_lock(&comm->retire_lock);
        operation->has_more = true;
        operation->lane_ticket[i + 1] = ticket;
        operation->lane_queue[i + 1] = others->queue[i];
        pthread_mutex_unlock(&comm->retire_lock);
    }
    return THRUM_OK;
}

/* ---- an operation of its own for each round ---- */

/* In one block, for free(). */
struct p2p_work {
    struct thrum_comm *comm;
    size_t n;
    int rounds, at;
    struct round round;
    struct thrum_queue *queue;
    struct other_queues others;
    struct join join;
    uint64_t before; /* operations when it began */
    thrum_status_t status;
    /*
     * What is known of the buffers holds while these are equal, as in struct exec_repeat; so does the program of the only
     * round (NULL: not known) while the cache has dropped nothing.
     */
    uint64_t epoch, stage_moves, drops;
    bool is_staged;
    struct exec_program *program;
    struct message messages[]; /* n, and behind them the arrays of `round` */
};

static size_t work_bytes(size_t n)
{
    return sizeof(struct p2p_work) + n * (sizeof(struct message) + sizeof(struct plan_p2p) +
                                          2 * sizeof(struct exec_copy) + 3 * sizeof(uint64_t));
}

static struct p2p_work *work_alloc(struct thrum_comm *comm, const struct p2p_call *calls, size_t n)
{
    struct p2p_work *work = calloc(1, work_bytes(n));

    if (!work)
        return NULL;
    work->comm = comm;
    work->n = n;
    work->queue = calls[0].queue;
    work->round.p2p = (struct plan_p2p *)(void *)(work->messages + n);
    work->round.in = (struct exec_copy *)(void *)(work->round.p2p + n);
    work->round.out = work->round.in + n;
    work->round.addresses = (uint64_t *)(void *)(work->round.out + n);
    work->round.what = work->round.addresses + n;
    work->round.bytes = work->round.what + n;
    for (size_t i = 0; i < n; i++)
        work->messages[i].call = calls[i];
    return work;
}

/* ---- work that is done is kept for the next group of the same messages ---- */

/* Where the work of these calls is kept; larger work is not. */
static struct p2p_work **kept_at(struct thrum_comm *comm, const struct p2p_call *calls, size_t n)
{
    uint64_t h = ((uint64_t)(uintptr_t)calls[0].buffer ^ (uint64_t)calls[0].peer << 7 ^
                  calls[0].count << 1 ^ calls[0].is_send) *
                 0x9e3779b97f4a7c15u;

    return work_bytes(n) <= COMM_KEPT_WORK_BYTES
               ? &comm->kept_works[h >> 32 & (COMM_KEPT_WORKS - 1)]
               : NULL;
}

static bool same_call(const struct p2p_call *a, const struct p2p_call *b)
{
    return a->buffer == b->buffer && a->count == b->count && a->peer == b->peer &&
           a->is_send == b->is_send && a->dtype == b->dtype && a->kind == b->kind &&
           a->copied_first == b->copied_first && a->queue == b->queue;
}

static bool still_holds(const struct thrum_comm *comm, const struct p2p_work *work)
{
    return work->epoch == device_memory_epoch(comm->device) &&
           (!work->is_staged || (work->stage_moves == comm->stage_moves && !comm->old_stages));
}

/* The kept work of these calls, if it still holds, which is where it is kept. */
static struct p2p_work *find_kept(struct thrum_comm *comm, const struct p2p_call *calls, size_t n)
{
    struct p2p_work **at = kept_at(comm, calls, n), *work = at ? *at : NULL;

    if (!work || work->n != n || !still_holds(comm, work))
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (!same_call(&work->messages[i].call, &calls[i]))
            return NULL;
    return work;
}

static void keep(struct p2p_work *work)
{
    struct p2p_work **at = kept_at(work->comm, &work->messages[0].call, work->n);

    work->comm->last_work = at ? work : NULL;
    if (at) {
        struct p2p_work *other = *at;
        *at = work;
        work = other;
    }
    free(work);
}

thrum_status_t p2p_check(struct thrum_comm *comm, const struct p2p_call *calls, size_t n)
{
    struct other_queues others;
    thrum_status_t status;

    if (find_kept(comm, calls, n))
        return THRUM_OK; /* it was looked at */
    status = check_self(comm, calls, n);
    return status ? status : find_others(calls, n, &others);
}

thrum_status_t p2p_check_buffers(struct thrum_comm *comm, const struct p2p_call *calls, size_t n)
{
    thrum_status_t status = THRUM_OK;
    enum thrum_mem_kind kind;

    for (size_t i = 0; i < n && !status; i++)
        if (p2p_bytes(&calls[i]))
            status = exec_classify(comm, calls[i].is_send ? "send" : "recv", calls[i].buffer,
                                   p2p_bytes(&calls[i]), &kind);
    return status;
}

static thrum_status_t make_work(struct thrum_comm *comm, const struct p2p_call *calls, size_t n,
                                struct p2p_work **work_out)
{
    struct p2p_work *work = work_alloc(comm, calls, n);
    thrum_status_t status;

    if (!work)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for %zu messages", n);
    work->epoch = device_memory_epoch(comm->device); /* before the buffers are looked at */
    status = place_messages(comm, work->messages, n);
    if (!status)
        status = find_others(calls, n, &work->others);
    if (!status)
        status = assign_rounds(comm, work->messages, n, &work->rounds);
    if (status) {
        free(work);
        return status;
    }
    for (size_t i = 0; i < n; i++)
        work->is_staged |= work->messages[i].staged;
    work->stage_moves = comm->stage_moves;
    *work_out = work;
    return THRUM_OK;
}

thrum_status_t p2p_open(struct thrum_comm *comm, const struct p2p_call *calls, size_t n,
                        struct p2p_work **work_out)
{
    struct p2p_work *work = find_kept(comm, calls, n);
    thrum_status_t status = THRUM_OK;

    if (work)
        *kept_at(comm, calls, n) = comm->last_work = NULL;
    else
        status = make_work(comm, calls, n, &work);
    if (status)
        return status;
    work->at = 0;
    work->join = (struct join){{NULL}, {0}};
    work->before = atomic_load_explicit(&comm->issued, memory_order_relaxed);
    *work_out = work;
    return THRUM_OK;
}

/* The program of the round whose turn it is, which is collected if need be. */
static thrum_status_t next_program(struct p2p_work *work, struct exec_program **program_out)
{
    struct exec_cache *cache = work->comm->cache;
    thrum_status_t status;

    *program_out = work->program;
    if (work->program && work->drops == exec_cache_drops(cache))
        return THRUM_OK;
    collect(work->comm, work->messages, work->n, work->at, &work->round);
    status = find_program(work->comm, &work->round, program_out);
    work->program = work->rounds == 1 && !work->round.meets && !status ? *program_out : NULL;
    work->drops = exec_cache_drops(cache);
    return status;
}

thrum_status_t p2p_step(struct p2p_work *work)
{
    struct exec_program *program;

    if (work->status || work->at == work->rounds)
        return work->status;
    if (!work->at)
        work->status = await_others(work->comm, work->queue, &work->others, &work->join);
    if (!work->status)
        work->status = next_program(work, &program);
    if (!work->status)
        work->status = run_round(work->comm, &work->round, program, work->queue);
    work->at++;
    return work->status ? work->status : THRUM_IN_PROGRESS;
}

thrum_status_t p2p_close(struct p2p_work *work)
{
    thrum_status_t status = work->status;

    if (work->others.n && (work->at || status))
        guard_join(work->comm, &work->join, work->before, status);
    if (work->at && !status)
        status = release_others(work->comm, &work->others);
    if (status)
        free(work);
    else
        keep(work);
    return status;
}

thrum_status_t p2p_run(struct thrum_comm *comm, const struct p2p_call *calls, size_t n)
{
    struct p2p_work *work;
    thrum_status_t status = p2p_check(comm, calls, n);

    if (!status)
        status = p2p_open(comm, calls, n, &work);
    if (status)
        return status;
    while (p2p_step(work) == THRUM_IN_PROGRESS)
        ;
    return p2p_close(work);
}

/* ---- the same group again ---- */

bool p2p_is_known(const struct thrum_comm *comm, size_t i, const struct p2p_call *call)
{
    const struct p2p_work *work = comm->last_work;

    return work && i < work->n && same_call(&work->messages[i].call, call) &&
           work->epoch == device_memory_epoch(comm->device) && queue_is_still_valid(call->queue) &&
           call->queue->device == comm->device;
}

bool p2p_repeat(struct thrum_comm *comm, size_t n, thrum_status_t *status_out)
{
    struct p2p_work *work = comm->last_work;

    if (work->n != n || !still_holds(comm, work) || !work->program ||
        work->drops != exec_cache_drops(comm->cache) || work->others.n ||
        queue_is_capturing(work->queue))
        return false;
    *status_out = run_round(comm, &work->round, work->program, work->queue);
    return true;
}
