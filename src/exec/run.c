/*
 * Binds a program to one call and hands it to the queues. The fast path is exec_run with no staging: patch, submit,
 * count; no allocation, no system call, and a lock once in some 250 calls. Called by api.
 */
#include "exec/run.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define STANDS_AFTER_NS 10000000 /* operations of which none has ended for so long */

uint64_t exec_signature(const struct call_record *call)
{
    uint64_t h = call->count * 0x9e3779b97f4a7c15u ^ call->detail;

    h ^= ((uint64_t)(uint32_t)call->root << 32 | (uint64_t)call->collective << 24 |
          (uint64_t)call->dtype << 16 | call->redop) *
         0xc2b2ae3d27d4eb4fu;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    return h >> (64 - EXEC_SIGNATURE_BITS);
}

static thrum_status_t patch_region(struct thrum_comm *comm, struct thrum_command *command,
                                   const struct thrum_operand *operand)
{
    struct comm_region *region;
    thrum_status_t status = exec_find_region(comm, operand[1].base, &region);

    if (!status)
        command->put.local_region = region->region;
    return status;
}

/* A patch that is not counted. */
static inline thrum_status_t apply(struct thrum_comm *comm, const struct exec_program *program,
                                   const struct exec_buffers *buffers,
                                   const struct exec_patch *patch)
{
    struct thrum_operand *operand = &program->operands[patch->operand];

    switch ((enum patch_kind)patch->kind) {
    case PATCH_SEND:
        operand->base = buffers->send + patch->addend;
        return THRUM_OK;
    case PATCH_RECV:
        operand->base = buffers->recv + patch->addend;
        return THRUM_OK;
    case PATCH_MESSAGE:
        operand->base = buffers->messages[patch->addend];
        return THRUM_OK;
    default:
        return patch_region(comm, &program->commands[patch->command], operand);
    }
}

static inline void bind_counted(const struct exec_program *p, uint32_t from, uint32_t to)
{
    for (; from < to; from++) {
        const struct exec_counted *c = &p->counted[from];

        *c->word = c->first + *c->counter * c->stride;
    }
}

/* All that does not go with a counter. */
static inline thrum_status_t bind_buffers(struct thrum_comm *comm, struct exec_program *p,
                                          const struct exec_buffers *buffers)
{
    uint32_t i = 0;

    if ((p->bound_send || p->bound_recv) && p->bound_send == buffers->send &&
        p->bound_recv == buffers->recv)
        i = p->nbuffer_patches;
    p->bound_send = buffers->send;
    p->bound_recv = buffers->recv;
    if (p->nbuffer_patches < p->npatches) /* regions are those of addresses */
        bind_counted(p, 0, p->ncounted);
    for (; i < p->npatches; i++) {
        thrum_status_t status = apply(comm, p, buffers, &p->patches[i]);
        if (status)
            return status;
    }
    return THRUM_OK;
}

/* The credit that has to be there before the operation's line is sent; 0: none. */
static inline uint64_t awaited_credit(const struct exec_delta *delta)
{
    const struct comm_lines *out = &delta->pair->out;
    uint64_t end = out->units + delta->sends_units;

    if (!delta->sends_units || end <= out->known_free + COMM_UNITS)
        return 0;
    return (end - COMM_UNITS + COMM_CREDIT_UNITS - 1) / COMM_CREDIT_UNITS * COMM_CREDIT_UNITS;
}

/* The credit that the operation's end is worth; 0: none. */
static inline uint64_t given_credit(const struct exec_delta *delta)
{
    const struct comm_lines *in = &delta->pair->in;
    uint64_t full = (in->units + delta->receives_units) / COMM_CREDIT_UNITS * COMM_CREDIT_UNITS;

    return delta->receives_units && full > in->told && !delta->answers ? full : 0;
}

static inline void advance_lines(struct comm_lines *lines, uint64_t units, bool answered)
{
    lines->count++;
    lines->units += units;
    if (answered)
        lines->units =
            (lines->units + COMM_CREDIT_UNITS - 1) / COMM_CREDIT_UNITS * COMM_CREDIT_UNITS;
    lines->slot = lines->units % COMM_UNITS;
    lines->slot_after = (lines->slot + (answered ? COMM_CREDIT_UNITS : units)) % COMM_UNITS;
}

static inline void advance_credited(const struct exec_delta *delta)
{
    struct comm_lines *out = &delta->pair->out, *in = &delta->pair->in;

    if (delta->answers) {
        out->known_free = out->units;
        advance_lines(out, delta->sends_units, true);
        advance_lines(in, delta->receives_units, true);
        return;
    }
    if (delta->sends_units) {
        out->known_free = max_u64(out->known_free, awaited_credit(delta));
        advance_lines(out, delta->sends_units, false);
    }
    if (delta->receives_units) {
        in->told = max_u64(in->told, given_credit(delta));
        advance_lines(in, delta->receives_units, false);
    }
}

/* Rendezvous have two lines in turn. */
static inline void advance_rendezvous(struct comm_lines *lines)
{
    lines->count++;
    lines->slot = lines->count % COMM_LINES_P2P;
    lines->slot_after = (lines->slot + 1) % COMM_LINES_P2P;
}

/* The operation is over for the host. */
static inline void advance(struct thrum_comm *comm, const struct exec_program *program)
{
    comm->sequence += program->channel == CHANNEL_COLLECTIVE;
    for (uint32_t i = 0; i < program->ndeltas; i++) {
        const struct exec_delta *delta = &program->deltas[i];
        struct comm_pair *pair = delta->pair;

        if (delta->channel != CHANNEL_P2P) {
            advance_credited(delta);
        } else {
            if (delta->sends_units)
                advance_rendezvous(&pair->out);
            if (delta->receives_units)
                advance_rendezvous(&pair->in);
        }
        pair->sent[0] += delta->sent[0];
        pair->received[0] += delta->received[0];
        for (uint32_t lane = 1; lane < program->nlanes; lane++) {
            pair->sent[lane] += delta->sent[lane];
            pair->received[lane] += delta->received[lane];
        }
    }
}

/* The arrival line of a collective: the call, and where the buffers are. */
static thrum_status_t fill_arrival(struct thrum_comm *comm, struct comm_arrival *arrival,
                                   const struct exec_buffers *buffers,
                                   const struct call_record *call)
{
    arrival->send_offset = buffers->peer_send - comm->device->own_base;
    arrival->recv_offset = buffers->peer_recv - comm->device->own_base;
    arrival->count = call->count;
    arrival->root = call->root;
    arrival->collective = call->collective;
    arrival->dtype = call->dtype;
    arrival->redop = call->redop;
    if (comm->peer_access || !buffers->peer_recv)
        return THRUM_OK;
    return exec_region(comm, buffers->peer_recv, &arrival->recv_key, &arrival->recv_put_offset);
}

/* ---- operations in flight ---- */

static inline bool has_room(const struct thrum_comm *comm, uint64_t number)
{
    return number - atomic_load_explicit(&comm->retired_number, memory_order_acquire) <=
           COMM_IN_FLIGHT;
}

/*
 * Makes room for operation records where the host is too far ahead: waits until half of them have ended, so that the
 * calls that follow need not. If none ends for a while the peers may be waiting for this very thread, which drives them
 * too and comes to them only after the next calls: there the host goes on, and further ahead.
 */
static thrum_status_t reserve(struct thrum_comm *comm)
{
    uint64_t issued = atomic_load_explicit(&comm->issued, memory_order_relaxed);
    uint64_t awaited = issued - COMM_IN_FLIGHT / 2, before = UINT64_MAX;

    for (;;) {
        const struct comm_operation *operation = comm_operation_at(comm, awaited);
        uint64_t retired;

        comm_retire(comm);
        retired = atomic_load_explicit(&comm->retired_number, memory_order_acquire);
        if (retired >= awaited)
            return THRUM_OK;
        if (atomic_load_explicit(&comm->status, memory_order_acquire))
            return comm_failure(comm);
        if (retired == before)
            comm->stands_at = retired;
        if (retired == comm->stands_at &&
            (issued - retired <= comm->operations_mask || comm_grow_operations(comm)))
            return THRUM_OK;
        before = retired;
        if (awaited > comm_done(comm)) {
            thrum_status_t status = operation->queue->ops->wait(operation->queue->impl,
                                                                operation->ticket, STANDS_AFTER_NS);
            (void)status; /* a failure is the control thread's to report */
        }
    }
}

static thrum_status_t submit_lanes(struct thrum_comm *comm, struct exec_program *program,
                                   struct comm_operation *operation)
{
    for (uint32_t lane = 1; lane < program->nlanes; lane++) {
        struct thrum_command *commands = &program->commands[program->lanes[lane].first_command];
        uint32_t n = program->lanes[lane].ncommands;
        struct thrum_queue *queue;
        thrum_status_t status = exec_lane_queue(comm, lane, &queue);

        if (status)
            return status;
        commands[0].value = operation->number;
        commands[n - 1].value = operation->number;
        status =
            queue->ops->submit_checked(queue->impl, commands, n, &operation->lane_ticket[lane]);
        if (status)
            return status;
        operation->has_more = true;
        operation->lane_queue[lane] = queue;
    }
    return THRUM_OK;
}

/* Of start and join: see struct exec_program. */
static void number_lanes(struct exec_program *program, uint64_t number)
{
    struct thrum_command *commands = &program->commands[program->lanes[0].first_command];
    uint32_t n = program->lanes[0].ncommands;

    commands[1].value = number;
    for (uint32_t lane = 1; lane < program->nlanes; lane++)
        commands[n - 1 - lane].value = number;
}

/* A plan that names its stages has one lane, whose commands come first: all but the first and the last. */
static void add_in_parts(struct exec_list *list, const struct exec_program *program,
                         const struct exec_staging *staging)
{
    uint32_t first = program->lanes[0].first_command, at = first + 1;
    uint32_t end = first + program->lanes[0].ncommands - 1;

    for (uint32_t i = 0; i < program->npoints; i++) {
        const struct exec_stage_point *point = &program->points[i];

        exec_list_add(list, &program->commands[at], point->command - at);
        at = point->command;
        if (point->is_send && staging->nin)
            exec_list_add_part(list, &staging->in[0], point->offset, point->bytes, true);
        else if (!point->is_send && staging->nout)
            exec_list_add_part(list, &staging->out[0], point->offset, point->bytes, false);
    }
    exec_list_add(list, &program->commands[at], end - at);
}

/* What goes first, for the operation of this number; and which credits there are. */
static inline void bind_first(struct exec_program *program, uint64_t number)
{
    bool is_awaited = false, is_given = false;

    bind_counted(program, 0, program->ncounted_first);
    *program->head_value = number - 1;
    for (uint32_t i = 0; i < program->ncredits; i++) {
        const struct exec_delta *delta = &program->deltas[i];
        uint64_t awaited = awaited_credit(delta);

        if (awaited) {
            program->commands[i].value = awaited;
            is_awaited = true;
        }
        is_given |= given_credit(delta) != 0;
    }
    program->credits = (struct exec_credits){is_awaited, is_given};
}

/* What has to wait for that, before the pairs advance. */
static inline void bind_rest(struct exec_program *program, uint64_t number)
{
    struct thrum_command *gifts =
        program->commands + program->ncredits + program->lanes[0].ncommands;

    bind_counted(program, program->ncounted_first, program->ncounted);
    if (program->nahead)
        *program->head_again = number - 1;
    *program->tail_value = number;
    for (uint32_t i = 0; program->credits.given && i < program->ncredits; i++) {
        const struct exec_delta *delta = &program->deltas[i];
        uint64_t given = given_credit(delta);

        gifts[i].value = given ? given : delta->pair->in.told; /* if given with others */
    }
}

static void add_time(struct exec_list *list, thrum_callback_t note,
                     struct comm_record_of_time *record)
{
    const struct thrum_command command = {
        .opcode = THRUM_CMD_CALLBACK, .callback = note, .argument = record};

    if (record)
        exec_list_add(list, &command, 1);
}

/* Lane 0, its credits, the copies around or in it, and the times of a record (NULL: none), in one submission. */
static thrum_status_t submit_list(struct thrum_comm *comm, struct exec_program *program,
                                  const struct exec_staging *staging, struct thrum_queue *queue,
                                  struct comm_operation *operation,
                                  struct comm_record_of_time *record)
{
    const struct thrum_command *commands = &program->commands[program->lanes[0].first_command];
    uint32_t n = program->lanes[0].ncommands;
    struct exec_list *list;
    thrum_status_t status;

    status = exec_list_begin(comm, staging, n + 3 + 2 * program->ncredits, program->npoints, &list);
    if (status)
        return status;
    if (program->credits.awaited)
        exec_list_add(list, program->commands, program->ncredits);
    exec_list_add(list, &commands[0], 1);
    add_time(list, comm_trace_begun, record);
    if (staging->by_parts) {
        add_in_parts(list, program, staging);
    } else {
        exec_list_add_copies(list, staging->in, staging->nin, true);
        if (staging->prologue)
            exec_list_add(list, staging->prologue, 1);
        exec_list_add(list, &commands[1], n - 2);
        exec_list_add_copies(list, staging->out, staging->nout, false);
    }
    add_time(list, comm_trace_ended, record);
    exec_list_add(list, &commands[n - 1], 1);
    if (program->credits.given)
        exec_list_add(list, &commands[n], program->ncredits);
    /* the program was checked; there is nothing to check in a copy from here to there */
    status = queue->ops->submit_checked(queue->impl, list->commands, list->n, &operation->ticket);
    if (list->contexts) { /* exec_run frees them where the submission was refused */
        operation->has_more = true;
        operation->host_memory = list->contexts;
    }
    exec_list_end(list);
    return status;
}

/* Lane 0 with the credits around it that are needed: the first command of *n_out. */
static inline uint32_t whole_commands(const struct exec_program *program, uint32_t *n_out)
{
    uint32_t first = program->lanes[0].first_command, n = program->lanes[0].ncommands;

    if (program->credits.awaited) {
        first -= program->ncredits;
        n += program->ncredits;
    }
    if (program->credits.given)
        n += program->ncredits;
    *n_out = n;
    return first;
}

static thrum_status_t submit_whole(struct thrum_comm *comm, struct exec_program *program,
                                   const struct exec_buffers *buffers, struct thrum_queue *queue,
                                   struct comm_operation *operation)
{
    uint32_t n, first = whole_commands(program, &n);

    if (program->nahead && !program->credits.awaited &&
        exec_may_run_ahead(comm, program, buffers, queue))
        return exec_submit_ahead(comm, program, queue, first, n, operation);
    return queue->ops->submit_checked(queue->impl, &program->commands[first], n,
                                      &operation->ticket);
}

static thrum_status_t submit(struct thrum_comm *comm, struct exec_program *program,
                             const struct exec_buffers *buffers, const struct exec_staging *staging,
                             struct thrum_queue *queue, struct comm_operation *operation,
                             struct comm_record_of_time *record)
{
    static const struct exec_staging nothing = {0};
    thrum_status_t status;

    bind_first(program, operation->number);
    bind_rest(program, operation->number);
    if (program->nlanes > 1)
        number_lanes(program, operation->number);
    if (comm->runs_ahead) {
        exec_follow_row(comm, program, staging, queue);
        if (program->credits.awaited && program->nahead)
            program->credits.awaited = !exec_let_catch_up(comm, program, queue);
    }
    if (staging || record)
        status = submit_list(comm, program, staging ? staging : &nothing, queue, operation, record);
    else
        status = submit_whole(comm, program, buffers, queue, operation);
    if (comm->runs_ahead && !status)
        exec_extend_row(&comm->row, program, buffers, operation, program->credits.awaited);
    return status;
}

/* What the other end does last for a message, and the line by which it may show that it means another. */
static void watch_message(const struct thrum_comm *comm, struct comm_message *m)
{
    const struct comm_pair *eager = &comm->peers[m->peer].pairs[CHANNEL_EAGER];
    const struct comm_pair *meeting = &comm->peers[m->peer].pairs[CHANNEL_P2P];
    enum comm_channel channel = m->is_send ? CHANNEL_P2P : CHANNEL_EAGER;
    const struct comm_lines *in = m->is_send ? &meeting->in : &eager->in;
    uint64_t bytes = m->count * thrum_datatype_size((thrum_datatype_t)m->dtype), end;

    if (m->is_send && m->is_eager) {
        end = eager->out.units + comm_line_units(comm, bytes);
        m->word = comm->area + comm_credit_offset(CHANNEL_EAGER, m->peer);
        m->value = end > COMM_UNITS ? end - COMM_UNITS : 0;
        return;
    }
    m->line = comm->area + comm_line_offset(channel, m->peer) + in->slot * COMM_LINE_STRIDE;
    m->flag |= (in->count + 1) << exec_signature_bits(channel);
    m->word = m->line;
    m->value = m->flag & exec_sequence_mask(channel);
    if (!m->is_send && !m->is_eager) {
        m->word = comm->area + comm_semaphore_offset(CHANNEL_P2P, m->peer, 0);
        m->value = meeting->received[0] + 1;
    }
}

/* The operation keeps its messages, in case that they are not met. */
static thrum_status_t hand_on_messages(struct thrum_comm *comm, const struct exec_program *program,
                                       struct comm_operation *operation)
{
    struct comm_message *messages = operation->few;

    if (program->nmessages > COMM_FEW_MESSAGES)
        messages = malloc(program->nmessages * sizeof *messages);
    if (!messages)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for an operation");
    memcpy(messages, program->messages, program->nmessages * sizeof *messages);
    for (uint32_t i = 0; i < program->nmessages; i++) {
        struct comm_message *m = &messages[i];
        const struct comm_peer *peer = &comm->peers[m->peer];

        m->number = (m->is_send ? peer->messages_sent : peer->messages_received) + 1;
        watch_message(comm, m);
    }
    operation->has_more = true;
    operation->messages = messages;
    operation->nmessages = program->nmessages;
    return THRUM_OK;
}

/* They were submitted. */
static void count_messages(struct thrum_comm *comm, const struct exec_program *program)
{
    for (uint32_t i = 0; i < program->nmessages; i++) {
        struct comm_peer *peer = &comm->peers[program->messages[i].peer];

        uint64_t *count =
            program->messages[i].is_send ? &peer->messages_sent : &peer->messages_received;

        __atomic_store_n(count, *count + 1, __ATOMIC_RELAXED); /* comm_owes_message looks */
    }
}

/* Written anew for each operation; only those that have lanes, messages or host memory touch more than a line of it. */
static void begin_operation(struct comm_operation *operation, uint64_t number,
                            struct thrum_queue *queue, const struct call_record *call)
{
    if (operation->has_more)
        memset(operation, 0, offsetof(struct comm_operation, few));
    operation->number = number;
    operation->queue = queue;
    operation->call.sequence =
        call->sequence; /* alone: it has just been written, the rest has not */
    operation->call.count = call->count;
    operation->call.detail = call->detail;
    operation->call.root = call->root;
    operation->call.redop = call->redop;
    operation->call.collective = call->collective;
    operation->call.dtype = call->dtype;
    operation->call.state = call->state;
    operation->told = 0;
}

/* An operation of one lane and without messages, while it is submitted. */
struct issue {
    struct thrum_comm *comm;
    struct exec_program *program;
    struct thrum_queue *queue;
    const struct call_record *call;
    uint64_t number, ticket;
};

/* What can wait until its first commands have gone; the device may be done with it before. */
static void follow_up(void *argument)
{
    const struct issue *issue = argument;
    struct thrum_comm *comm = issue->comm;
    struct exec_program *program = issue->program;
    struct comm_operation *operation = comm_operation_at(comm, issue->number);

    bind_rest(program, issue->number);
    begin_operation(operation, issue->number, issue->queue, issue->call);
    operation->ticket = issue->ticket;
    /* no other submission of the queue has a later ticket yet */
    atomic_store_explicit(&issue->queue->last_ticket, issue->ticket, memory_order_release);
    advance(comm, program);
    comm->last_queue = issue->queue;
    atomic_store_explicit(&comm->issued, issue->number, memory_order_release);
    if (program->ran_as == issue->number - 1 && !program->arrives &&
        program->npatches == program->nbuffer_patches) {
        bind_first(program, issue->number + 1);
        program->bound_for = issue->number + 1; /* nowhere else: a call may be refused */
    }
    program->ran_as = issue->number;
}

static inline bool is_quick(const struct thrum_comm *comm, const struct exec_program *program,
                            const struct exec_staging *staging, bool is_traced)
{
    return !staging && program->nlanes == 1 && !program->nmessages && !comm->runs_ahead &&
           comm->ops->submit_meanwhile && !is_traced;
}

/* Submits it: its line is soon on its way, and all that can be done later is, while that of the peer is. */
static thrum_status_t run_quickly(struct issue *issue)
{
    struct exec_program *program = issue->program;
    struct thrum_queue *queue = issue->queue;
    uint32_t n, first;

    if (program->bound_for != issue->number)
        bind_first(program, issue->number);
    first = whole_commands(program, &n);
    return queue->ops->submit_meanwhile(queue->impl, &program->commands[first], n,
                                        program->nfirst +
                                            (program->credits.awaited ? program->ncredits : 0),
                                        &issue->ticket, follow_up, issue);
}

/* The newest operation was the same, and has left nothing to do before this one is submitted. */
static inline bool is_ready(const struct thrum_comm *comm, const struct exec_program *program,
                            const struct exec_buffers *buffers, const struct thrum_queue *queue,
                            uint64_t number)
{
    return program->bound_for == number && program->bound_send == buffers->send &&
           program->bound_recv == buffers->recv && queue == comm->last_queue &&
           has_room(comm, number);
}

/* Whatever may be refused or take time, before anything is submitted. */
static thrum_status_t make_ready(struct thrum_comm *comm, struct exec_program *program,
                                 const struct exec_buffers *buffers, struct thrum_queue *queue,
                                 const struct call_record *call, uint64_t number)
{
    thrum_status_t status = THRUM_OK;

    if (!has_room(comm, number))
        status = reserve(comm);
    if (!status && queue != comm->last_queue)
        status = exec_hold_queue(comm, queue);
    if (!status && program->channel == CHANNEL_COLLECTIVE && program->arrives)
        status = fill_arrival(comm, &program->arrivals[0], buffers, call);
    return status ? status : bind_buffers(comm, program, buffers);
}

thrum_status_t exec_run(struct thrum_comm *comm, struct exec_program *program,
                        const struct exec_buffers *buffers, const struct exec_staging *staging,
                        struct thrum_queue *queue, const struct call_record *call)
{
    uint64_t number = atomic_load_explicit(&comm->issued, memory_order_relaxed) + 1;
    bool is_traced = comm_is_traced(comm);
    int64_t called_ns = is_traced ? now_ns() : 0; /* before it waits for room */
    struct comm_record_of_time *record = NULL;
    struct comm_operation *operation;
    thrum_status_t status = THRUM_OK;

    if (queue_is_capturing(queue))
        return capture_refuse(queue, "a call that no graph records");
    if (!is_ready(comm, program, buffers, queue, number))
        status = make_ready(comm, program, buffers, queue, call, number);
    if (status)
        return status;

    if (is_quick(comm, program, staging, is_traced)) {
        struct issue issue = {comm, program, queue, call, number, 0};

        status = run_quickly(&issue);
        if (!status && atomic_load_explicit(&comm->status, memory_order_acquire))
            comm_cancel_all(comm);
        return status;
    }
    operation = comm_operation_at(comm, number); /* now: making room may move it */
    begin_operation(operation, number, queue, call);
    if (program->nmessages)
        status = hand_on_messages(comm, program, operation);
    if (status)
        return status;
    if (is_traced)
        record = exec_record(comm, program, queue, call, called_ns);
    status = submit(comm, program, buffers, staging, queue, operation, record);
    if (status) {
        comm_free_operation(operation);
        return status;
    }
    if (record)
        comm_trace_add(comm);
    queue_raise(&queue->last_ticket, operation->ticket);
    count_messages(comm, program);
    if (program->nlanes > 1)
        status = submit_lanes(comm, program, operation);
    advance(comm, program);
    comm->last_queue = queue;
    atomic_store_explicit(&comm->issued, number, memory_order_release);
    if (status)
        comm_fail(comm, status, comm->rank, true, thrum_last_error());
    if (atomic_load_explicit(&comm->status, memory_order_acquire))
        comm_cancel_all(comm);
    return status;
}
