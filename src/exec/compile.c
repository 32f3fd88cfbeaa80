/*
 * Lowers a plan into a program of device commands for one communicator. What is fixed for the communicator's life
 * (areas, windows, connections) is resolved here; what changes from call to call becomes a patch. Called by api on a
 * plan-cache miss and for point to point.
 */
#include "exec/exec.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* A program under construction: growing arrays, first error kept. */
struct builder {
    struct thrum_comm *comm;
    const struct plan *plan;
    struct exec_program *program;
    uint32_t commands_capacity, operands_capacity, patches_capacity;
    struct exec_delta **delta_of; /* by peer; NULL: none yet */
    bool *put_to; /* by peer: a PUT went there */
    uint32_t *first_operand; /* by command: index of its operands, until pointers are final */
    struct thrum_command nowhere; /* what appending yields after an error */
    thrum_status_t status;
};

static void *grow(struct builder *b, void *array, uint32_t n, uint32_t *capacity, size_t item)
{
    void *bigger;

    if (n < *capacity)
        return array;
    bigger = realloc(array, (size_t)(*capacity ? *capacity * 2 : 32) * item);
    if (!bigger) {
        b->status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a plan of %zu operations",
                               b->plan->nops);
        return array;
    }
    *capacity = *capacity ? *capacity * 2 : 32;
    return bigger;
}

static uint32_t add_operand(struct builder *b, uint64_t base)
{
    struct exec_program *p = b->program;

    p->operands = grow(b, p->operands, p->noperands, &b->operands_capacity, sizeof *p->operands);
    if (b->status)
        return 0;
    p->operands[p->noperands] = (struct thrum_operand){.base = base};
    return p->noperands++;
}

/* Adds a command whose operands are those added since `first`. */
static struct thrum_command *add_command(struct builder *b, enum thrum_opcode opcode,
                                         uint32_t first, int ndst, int nsrc)
{
    struct exec_program *p = b->program;
    uint32_t capacity = b->commands_capacity;

    p->commands = grow(b, p->commands, p->ncommands, &b->commands_capacity, sizeof *p->commands);
    b->first_operand = grow(b, b->first_operand, p->ncommands, &capacity, sizeof(uint32_t));
    if (b->status)
        return &b->nowhere;
    b->first_operand[p->ncommands] = first;
    p->commands[p->ncommands] = (struct thrum_command){
        .opcode = (uint8_t)opcode, .ndst = (uint16_t)ndst, .nsrc = (uint16_t)nsrc};
    return &p->commands[p->ncommands++];
}

/* Where the lines from a rank lie in an area; `peer`: the other one. */
static uint64_t lines_offset(const struct builder *b, int from, int peer)
{
    return b->program->channel == CHANNEL_COLLECTIVE && !b->comm->peers[peer].loads
               ? exec_room_offset(from)
               : exec_line_offset(from, b->program->channel);
}

/* First slot of the lines that a patch is about: the peer's in the own area, or the own ones in the peer's. */
static uint64_t line_base(const struct builder *b, enum patch_kind kind, int peer)
{
    const struct comm_peer *p = &b->comm->peers[peer];
    uint64_t out = lines_offset(b, b->comm->rank, peer);

    switch (kind) {
    case PATCH_LINE_OUT:
        return p->window_base + p->area_offset + out;
    case PATCH_LINE_PUT:
        return p->area_put_offset + out;
    case PATCH_LINE_ROOM:
        return p->window_base + p->area_offset + exec_room_offset(b->comm->rank);
    default:
        return b->comm->area + lines_offset(b, peer, peer);
    }
}

/* From one unit's line to the next. */
static uint32_t line_stride(const struct builder *b, int peer)
{
    return b->program->channel == CHANNEL_COLLECTIVE && !b->comm->peers[peer].loads
               ? COMM_PUT_LINE_BYTES / COMM_LINE_UNITS_MAX
               : COMM_LINE_STRIDE;
}

/* A payload that is stored and does not fit a line has a room of its own. */
static bool needs_room(const struct builder *b, int peer, uint64_t bytes)
{
    return b->comm->peers[peer].loads && bytes > COMM_LINE_STRIDE - EXEC_LINE_PAYLOAD;
}

static struct exec_delta *delta(struct builder *b, int peer)
{
    struct exec_program *p = b->program;

    if (!b->delta_of[peer]) {
        b->delta_of[peer] = &p->deltas[p->ndeltas++];
        b->delta_of[peer]->peer = peer;
        b->delta_of[peer]->pair = &b->comm->peers[peer].pairs[p->channel];
    }
    return b->delta_of[peer];
}

/* A patch of the newest command (which is added next unless `command` says otherwise). */
static void add_patch(struct builder *b, struct exec_patch patch)
{
    struct exec_program *p = b->program;

    p->patches = grow(b, p->patches, p->npatches, &b->patches_capacity, sizeof *p->patches);
    if (b->status)
        return;
    patch.pair = &b->comm->peers[patch.peer].pairs[p->channel];
    patch.stride = patch.kind == PATCH_LINE_ROOM ? COMM_UNIT_BYTES : line_stride(b, patch.peer);
    patch.base = line_base(b, (enum patch_kind)patch.kind, patch.peer);
    if (patch.kind == PATCH_LINE_DATA && delta(b, patch.peer)->receives_room) {
        patch.stride = COMM_UNIT_BYTES;
        patch.base = b->comm->area + exec_room_offset(patch.peer);
    } else if (patch.kind == PATCH_LINE_DATA) {
        patch.addend = EXEC_LINE_PAYLOAD;
    }
    p->patches[p->npatches++] = patch;
}

/* ---- addresses ---- */

static uint64_t semaphore_offset(const struct builder *b, int from, int lane)
{
    return comm_semaphore_offset(b->program->channel, from, lane);
}

/* The peer's area as this device addresses it. */
static uint64_t peer_area(const struct builder *b, int peer)
{
    return b->comm->peers[peer].window_base + b->comm->peers[peer].area_offset;
}

static uint64_t own_word(const struct builder *b, size_t offset)
{
    return b->comm->area + b->comm->own_offset + offset;
}

#define DONE_OFFSET offsetof(struct comm_own_block, done)
#define STARTED_OFFSET offsetof(struct comm_own_block, lanes_started)
#define LANE_DONE_OFFSET(l) \
    (offsetof(struct comm_own_block, lane_done) + (size_t)(l)*COMM_SEMAPHORE_STRIDE)

/* An operand that this device's engines load or store. The command it belongs to is the next one. */
static void add_engine_operand(struct builder *b, struct plan_operand o)
{
    struct thrum_comm *comm = b->comm;
    struct exec_patch patch = {.peer = o.rank,
                               .command = b->program->ncommands,
                               .operand = b->program->noperands,
                               .addend = o.offset};
    bool own = o.rank == comm->rank;

    switch ((enum plan_space)o.space) {
    case PLAN_WIDE:
        o.offset *= plan_widening(&b->plan->params);
        /* fall through */
    case PLAN_SCRATCH:
        add_operand(b, (own ? comm->area : peer_area(b, o.rank)) + comm->scratch_offset + o.offset);
        return;
    case PLAN_LINE:
        patch.kind = PATCH_LINE_DATA;
        patch.peer = (int32_t)o.offset;
        patch.addend = 0;
        break;
    case PLAN_SEND:
        patch.kind = own ? PATCH_SEND : PATCH_PEER_SEND;
        break;
    case PLAN_RECV:
        patch.kind = own ? PATCH_RECV : PATCH_PEER_RECV;
        break;
    }
    add_operand(
        b, own || patch.kind == PATCH_LINE_DATA ? 0 : comm->peers[o.rank].window_base + o.offset);
    add_patch(b, patch);
}

static void patch_command(struct builder *b, enum patch_kind kind, int peer, int lane,
                          uint64_t addend)
{
    add_patch(b, (struct exec_patch){.kind = (uint8_t)kind,
                                     .lane = (uint8_t)lane,
                                     .peer = peer,
                                     .command = b->program->ncommands - 1,
                                     .operand = b->first_operand[b->program->ncommands - 1],
                                     .addend = addend});
}

/* ---- ops ---- */

static const struct plan_operand *op_operands(const struct builder *b, const struct plan_op *op)
{
    return &b->plan->operands[op->first_operand];
}

/* Which operands of a REDUCE are partial results of an 8- or 16-bit float. */
static uint8_t wide_flags(const struct builder *b, const struct plan_op *op)
{
    const struct plan_operand *operands = op_operands(b, op), *srcs = operands + op->ndst;
    uint8_t flags = operands[0].space == PLAN_WIDE ? THRUM_CMD_FLAG_WIDE_DST : 0;

    if (plan_widening(&b->plan->params) == 1)
        return 0;
    if (srcs[op->nsrc - 1].space == PLAN_WIDE)
        flags |= THRUM_CMD_FLAG_WIDE_SRC;
    else if (srcs[0].space == PLAN_WIDE)
        flags |= THRUM_CMD_FLAG_WIDE_FIRST;
    return flags;
}

/* Bytes that a COPY or PUT moves. */
static uint64_t moved_bytes(const struct builder *b, const struct plan_op *op)
{
    bool wide = op_operands(b, op)[0].space == PLAN_WIDE;

    return wide ? op->bytes * plan_widening(&b->plan->params) : op->bytes;
}

/*
 * From so many bytes of result on, what is stored first has left the cache before it is read: stores may bypass it. By
 * sweeps with one rank a core; what one rank writes into several RECVs counts as it does for their owners.
 */
#define STREAM_MIN_BYTES (8u << 20)

static bool is_streamed(const struct builder *b, const struct plan_op *op)
{
    const struct plan_params *params = &b->plan->params;

    return op_operands(b, op)[0].space == PLAN_RECV &&
           max_u64(plan_recv_bytes(params, params->rank), plan_recv_bytes(params, params->root)) >=
               STREAM_MIN_BYTES;
}

static void lower_engine(struct builder *b, const struct plan_op *op)
{
    const struct plan_params *params = &b->plan->params;
    uint32_t first = b->program->noperands;
    struct thrum_command *command;

    for (int i = 0; i < op->ndst + op->nsrc; i++)
        add_engine_operand(b, op_operands(b, op)[i]);
    command = add_command(b, op->opcode == PLAN_REDUCE ? THRUM_CMD_REDUCE : THRUM_CMD_COPY, first,
                          op->ndst, op->nsrc);
    command->bytes = op->opcode == PLAN_REDUCE ? op->bytes : moved_bytes(b, op);
    command->flags = THRUM_CMD_FLAG_CONTAIN;
    if (op->flags & PLAN_STREAM || is_streamed(b, op))
        command->flags |= THRUM_CMD_FLAG_STREAM;
    if (op->opcode != PLAN_REDUCE)
        return;
    command->flags |= wide_flags(b, op);
    if (wide_flags(b, op) && !(b->comm->device->properties.capabilities & THRUM_CAP_WIDE) &&
        !b->status)
        b->status = thrum_fail(
            THRUM_ERR_UNSUPPORTED, "device %s lacks THRUM_CAP_WIDE, which %s of %s by %s needs",
            b->comm->device->properties.name, collective_name(params->collective),
            thrum_datatype_name(params->dtype), b->plan->algorithm);
    command->dtype = (uint8_t)params->dtype;
    command->redop = (uint8_t)params->redop;
    if (params->redop >= THRUM_REDOP_COUNT) {
        const struct comm_redop *redop = comm_redop_find(b->comm, params->redop);

        command->redop = THRUM_REDOP_CALLBACK;
        command->reduce = redop->fold;
        command->reduce_context = redop->context;
    }
    if (params->redop == THRUM_AVG) {
        command->redop = (op->flags & PLAN_FINAL) ? THRUM_AVG : THRUM_SUM;
        command->divisor = op->value ? op->value : (uint64_t)params->nranks;
    }
}

/* A PUT command for the port; the caller adds the operands. */
static struct thrum_command *add_put(struct builder *b, int peer, uint32_t first, int ndst,
                                     int nsrc)
{
    struct thrum_command *command = add_command(b, THRUM_CMD_PUT, first, ndst, nsrc);

    command->put.peer = b->comm->peers[peer].fabric_peer;
    command->put.remote_key = b->comm->peers[peer].area_key;
    b->program->puts = true;
    b->put_to[peer] = true;
    return command;
}

static void lower_raise(struct builder *b, int peer, int lane, uint64_t value)
{
    struct thrum_comm *comm = b->comm;
    uint32_t first = b->program->noperands;
    struct thrum_command *command;

    if (comm->peers[peer].loads) {
        add_operand(b, peer_area(b, peer) + semaphore_offset(b, comm->rank, lane));
        command = add_command(b, THRUM_CMD_SIGNAL, first, 1, 0);
        command->flags = THRUM_CMD_FLAG_SET | THRUM_CMD_FLAG_CONTAIN;
    } else {
        command = add_put(b, peer, first, 0, 0);
        command->put.signal_key = comm->peers[peer].area_key;
        command->put.signal_offset =
            comm->peers[peer].area_put_offset + semaphore_offset(b, comm->rank, lane);
    }
    patch_command(b, PATCH_RAISE, peer, lane, value);
    delta(b, peer)->sent[lane] = max_u64(delta(b, peer)->sent[lane], value);
}

static void lower_wait(struct builder *b, const struct plan_op *op)
{
    uint32_t first = b->program->noperands;
    struct exec_delta *d = delta(b, op->peer);

    add_operand(b, b->comm->area + semaphore_offset(b, op->peer, op->lane));
    add_command(b, THRUM_CMD_WAIT, first, 0, 1)->writer = b->comm->peers[op->peer].window_base;
    patch_command(b, PATCH_AWAIT, op->peer, op->lane, op->value);
    d->received[op->lane] = max_u64(d->received[op->lane], op->value);
}

/* The p2p message whose line goes to or comes from the peer; its signature goes into the patch. */
static uint64_t p2p_signature(const struct builder *b, int peer, bool receive)
{
    const struct plan_params *params = &b->plan->params;

    for (int i = 0; i < params->np2p; i++)
        if (params->p2p[i].peer == peer && params->p2p[i].is_send != receive) {
            const struct plan_p2p *p = &params->p2p[i];
            struct call_record call = {.count = p->bytes,
                                       .collective = COLL_SENDRECV,
                                       .dtype = p->dtype,
                                       .redop = p->kind};
            return exec_signature(&call);
        }
    return 0;
}

static struct comm_arrival *arrival_for(struct builder *b, int peer)
{
    const struct plan_params *params = &b->plan->params;

    if (b->program->channel == CHANNEL_COLLECTIVE)
        return &b->program->arrivals[0];
    for (int i = 0; i < params->np2p; i++)
        if (params->p2p[i].peer == peer && !params->p2p[i].is_send)
            return &b->program->arrivals[i];
    return &b->program->arrivals[0];
}

/* A line to the peer: the arrival, or inline data. */
static void lower_line(struct builder *b, const struct plan_op *op)
{
    uint32_t first = b->program->noperands;
    bool inline_data = op->flags & PLAN_INLINE;
    bool loads = b->comm->peers[op->peer].loads;
    bool room = inline_data && needs_room(b, op->peer, op->bytes);
    int nsrc = inline_data && op->bytes ? 1 : 0, ndst = room ? 2 : 1;
    struct thrum_command *command;

    for (int i = 0; i < ndst; i++)
        add_operand(b, 0);
    if (nsrc)
        add_engine_operand(b, op_operands(b, op)[0]);
    command = loads ? add_command(b, THRUM_CMD_WRITE_LINE, first, ndst, nsrc)
                    : add_put(b, op->peer, first, 1, nsrc);
    command->bytes = inline_data ? op->bytes : sizeof(struct comm_arrival);
    if (loads)
        command->flags = THRUM_CMD_FLAG_CONTAIN;
    if (!nsrc)
        command->payload = arrival_for(b, op->peer);
    if (!loads)
        command->put.signal_key = b->comm->peers[op->peer].area_key;
    patch_command(b, loads ? PATCH_LINE_OUT : PATCH_LINE_PUT, op->peer, op->lane,
                  p2p_signature(b, op->peer, true));
    if (ndst == 2)
        add_patch(b, (struct exec_patch){.kind = PATCH_LINE_ROOM,
                                         .peer = op->peer,
                                         .command = b->program->ncommands - 1,
                                         .operand = first + 1});
    b->program->arrives |= !inline_data;
}

static void lower_wait_line(struct builder *b, const struct plan_op *op)
{
    uint32_t first = b->program->noperands;
    struct thrum_command *command;

    add_operand(b, 0);
    command = add_command(b, THRUM_CMD_WAIT_LINE, first, 0, 1);
    command->mask = EXEC_SEQUENCE_MASK;
    command->writer = b->comm->peers[op->peer].window_base;
    if (b->program->nahead)
        command->flags = THRUM_CMD_FLAG_DEFER; /* the calls that follow may be sent meanwhile */
    patch_command(b, PATCH_LINE_IN, op->peer, op->lane, p2p_signature(b, op->peer, false));
}

/* What lines the plan sends and receives, before any command names one. */
static void note_lines(struct builder *b)
{
    for (size_t i = 0; i < b->plan->nops; i++) {
        const struct plan_op *op = &b->plan->ops[i];
        uint64_t bytes = op->flags & PLAN_INLINE ? op->bytes : 0;
        uint8_t units = 1;
        bool room;

        if (!(op->flags & (PLAN_ARRIVE | PLAN_INLINE)) || op->opcode < PLAN_PUT)
            continue;
        room = needs_room(b, op->peer, bytes);
        if (!b->comm->peers[op->peer].loads)
            units = COMM_LINE_UNITS_MAX;
        else if (room)
            units = (uint8_t)((bytes + COMM_UNIT_BYTES - 1) / COMM_UNIT_BYTES);
        if (op->opcode == PLAN_WAIT) {
            delta(b, op->peer)->receives_units = units;
            delta(b, op->peer)->receives_room = room;
        } else {
            delta(b, op->peer)->sends_units = units;
        }
    }
}

/* PUT with peer access: the DMA engine copies, then signals. */
static void lower_put_as_copy(struct builder *b, const struct plan_op *op)
{
    if (op->bytes)
        lower_engine(b, op);
    if (op->value)
        lower_raise(b, op->peer, op->lane, op->value);
}

static void lower_put(struct builder *b, const struct plan_op *op)
{
    struct thrum_comm *comm = b->comm;
    const struct plan_operand *dst = op_operands(b, op), *src = dst + 1;
    uint32_t first = b->program->noperands;
    struct thrum_command *command;

    if (!op->bytes) {
        if (op->value)
            lower_raise(b, op->peer, op->lane, op->value);
        return;
    }
    if (dst->space == PLAN_RECV)
        add_operand(b, dst->offset);
    else
        add_operand(b, comm->peers[op->peer].area_put_offset + comm->scratch_offset +
                           dst->offset *
                               (dst->space == PLAN_WIDE ? plan_widening(&b->plan->params) : 1));
    add_engine_operand(b, *src);
    command = add_put(b, op->peer, first, 1, 1);
    command->bytes = moved_bytes(b, op);
    if (dst->space == PLAN_RECV) {
        command->put.remote_key = 0;
        patch_command(b, PATCH_PEER_PUT, op->peer, op->lane, 0);
    }
    patch_command(b, PATCH_REGION, op->peer, op->lane, 0);
    if (op->value) {
        command->put.signal_key = comm->peers[op->peer].area_key;
        command->put.signal_offset =
            comm->peers[op->peer].area_put_offset + semaphore_offset(b, comm->rank, op->lane);
        patch_command(b, PATCH_RAISE, op->peer, op->lane, op->value);
        delta(b, op->peer)->sent[op->lane] = max_u64(delta(b, op->peer)->sent[op->lane], op->value);
    }
}

static void lower(struct builder *b, const struct plan_op *op)
{
    switch ((enum plan_opcode)op->opcode) {
    case PLAN_COPY:
    case PLAN_REDUCE:
        if (op->bytes)
            lower_engine(b, op);
        return;
    case PLAN_PUT:
        if (op->flags & PLAN_INLINE)
            lower_line(b, op);
        else if (b->comm->peers[op->peer].loads)
            lower_put_as_copy(b, op);
        else
            lower_put(b, op);
        return;
    case PLAN_SIGNAL:
        if (op->flags & PLAN_ARRIVE)
            lower_line(b, op);
        else
            lower_raise(b, op->peer, op->lane, op->value);
        return;
    case PLAN_WAIT:
        if (op->flags & (PLAN_ARRIVE | PLAN_INLINE))
            lower_wait_line(b, op);
        else
            lower_wait(b, op);
        return;
    }
}

/* The sends of a point-to-point plan, for exec_run to hand on to the operation. */
static void note_messages(struct builder *b)
{
    const struct plan_params *params = &b->plan->params;
    struct exec_program *p = b->program;

    p->messages = calloc((size_t)params->np2p + 1, sizeof *p->messages);
    if (!p->messages) {
        b->status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a plan");
        return;
    }
    for (int i = 0; i < params->np2p; i++)
        if (params->p2p[i].is_send && params->p2p[i].peer != b->comm->rank)
            p->messages[p->nmessages++] = (struct comm_message){
                .peer = params->p2p[i].peer,
                .dtype = params->p2p[i].dtype,
                .kind = params->p2p[i].kind,
                .count = params->p2p[i].bytes /
                         thrum_datatype_size((thrum_datatype_t)params->p2p[i].dtype),
                .flag = p2p_signature(b, params->p2p[i].peer, false)};
}

/* ---- lanes ---- */

static bool waits_for_lines(const struct plan *plan)
{
    for (size_t i = 0; i < plan->nops; i++)
        if (plan->ops[i].opcode == PLAN_WAIT)
            return true;
    return false;
}

/*
 * How many of the plan's first ops are lines that may run ahead. Where every rank has a core nobody gains by it, nor
 * does who waits for nobody.
 */
static uint32_t count_ahead(const struct builder *b)
{
    const struct plan *plan = b->plan;
    uint32_t n = 0;

    if (!plan->runs_ahead || b->comm->ranks_per_core <= 1 || plan->params.in_place ||
        b->program->channel != CHANNEL_COLLECTIVE || b->program->nlanes > 1 ||
        !(b->comm->device->properties.capabilities & THRUM_CAP_DIRECT_SUBMIT) ||
        !waits_for_lines(plan))
        return 0;
    while (n < plan->nops && plan->ops[n].opcode == PLAN_PUT && plan->ops[n].flags & PLAN_INLINE &&
           b->comm->peers[plan->ops[n].peer].loads &&
           op_operands(b, &plan->ops[n])[0].space == PLAN_SEND)
        n++;
    return n;
}

static void add_own_signal(struct builder *b, size_t offset)
{
    uint32_t first = b->program->noperands;

    add_operand(b, own_word(b, offset));
    add_command(b, THRUM_CMD_SIGNAL, first, 1, 0)->flags = THRUM_CMD_FLAG_SET;
}

static void add_own_wait(struct builder *b, size_t offset)
{
    uint32_t first = b->program->noperands;

    add_operand(b, own_word(b, offset));
    add_command(b, THRUM_CMD_WAIT, first, 0, 1);
}

static void add_flushes(struct builder *b)
{
    for (int peer = 0; peer < b->comm->nranks; peer++) {
        if (!b->put_to[peer])
            continue;
        add_put(b, peer, b->program->noperands, 0, 0)->flags = THRUM_CMD_FLAG_FLUSH;
        b->put_to[peer] = false;
    }
}

/* The plan's stages before op `op`: before the next command. */
static void add_points(struct builder *b, size_t op)
{
    struct exec_program *p = b->program;
    const struct plan *plan = b->plan;

    while (p->npoints < plan->nstages && plan->stages[p->npoints].op == op) {
        const struct plan_stage *stage = &plan->stages[p->npoints];
        p->stages_send |= stage->space == PLAN_SEND;
        p->stages_recv |= stage->space == PLAN_RECV;
        p->points[p->npoints++] = (struct exec_stage_point){.command = p->ncommands,
                                                            .is_send = stage->space == PLAN_SEND,
                                                            .offset = stage->offset,
                                                            .bytes = stage->bytes};
    }
}

static void lower_lane(struct builder *b, uint32_t lane)
{
    struct exec_program *p = b->program;

    p->lanes[lane].first_command = p->ncommands;
    if (lane == 0)
        add_own_wait(b, DONE_OFFSET);
    if (lane == 0 && p->nlanes > 1)
        add_own_signal(b, STARTED_OFFSET);
    if (lane > 0)
        add_own_wait(b, STARTED_OFFSET);
    for (size_t i = 0; i < b->plan->nops && !b->status; i++) {
        add_points(b, i);
        if (b->plan->ops[i].lane == lane)
            lower(b, &b->plan->ops[i]);
        if (i + 1 == p->nahead)
            add_own_wait(b, DONE_OFFSET);
    }
    add_points(b, b->plan->nops);
    add_flushes(b);
    for (uint32_t l = 1; lane == 0 && l < p->nlanes; l++)
        add_own_wait(b, LANE_DONE_OFFSET(l));
    add_own_signal(b, lane == 0 ? DONE_OFFSET : LANE_DONE_OFFSET(lane));
    p->lanes[lane].ncommands = p->ncommands - p->lanes[lane].first_command;
}

/* See struct comm_lines. Behind all lanes, for each delta: WAITs for a credit, then as many that give one. */
static void lower_credits(struct builder *b)
{
    struct exec_program *p = b->program;
    struct thrum_comm *comm = b->comm;
    uint64_t own = comm_credit_offset(comm->rank);

    for (uint32_t i = 0; i < p->ndeltas; i++) {
        uint32_t first = p->noperands;

        add_operand(b, comm->area + comm_credit_offset(p->deltas[i].peer));
        add_command(b, THRUM_CMD_WAIT, first, 0, 1);
    }
    for (uint32_t i = 0; i < p->ndeltas; i++) {
        int peer = p->deltas[i].peer;
        uint32_t first = p->noperands;
        struct thrum_command *command;

        if (comm->peers[peer].loads) {
            add_operand(b, peer_area(b, peer) + own);
            command = add_command(b, THRUM_CMD_SIGNAL, first, 1, 0);
            /* who has left does not miss it */
            command->flags = THRUM_CMD_FLAG_SET | THRUM_CMD_FLAG_CONTAIN | THRUM_CMD_FLAG_LENIENT;
        } else {
            command = add_put(b, peer, first, 0, 0);
            command->put.signal_key = comm->peers[peer].area_key;
            command->put.signal_offset = comm->peers[peer].area_put_offset + own;
        }
    }
}

/* Where command i of n lanes' and credits' goes when the credits are put around lane 0. */
static uint32_t place_of(const struct exec_program *p, uint32_t i)
{
    uint32_t credits = p->ndeltas, lane0 = p->lanes[0].ncommands;
    uint32_t lanes = p->ncommands - 2 * credits;

    if (i < lane0)
        return credits + i;
    if (i < lanes)
        return 2 * credits + i;
    return i < lanes + credits ? i - lanes : lane0 + i - lanes;
}

/* So an operation with credits is one submission of neighbours: [WAITs] lane 0 [those that give]. */
static void place_credits(struct builder *b)
{
    struct exec_program *p = b->program;
    struct thrum_command *commands = malloc(b->commands_capacity * sizeof *commands);
    uint32_t *first_operand = malloc(b->commands_capacity * sizeof *first_operand);

    if (!commands || !first_operand) {
        free(commands);
        free(first_operand);
        b->status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a plan");
        return;
    }
    for (uint32_t i = 0; i < p->ncommands; i++) {
        commands[place_of(p, i)] = p->commands[i];
        first_operand[place_of(p, i)] = b->first_operand[i];
    }
    for (uint32_t i = 0; i < p->npatches; i++)
        p->patches[i].command = place_of(p, p->patches[i].command);
    for (uint32_t i = 0; i < p->npoints; i++)
        p->points[i].command += p->ndeltas; /* all in lane 0, or at its end */
    for (uint32_t lane = 1; lane < p->nlanes; lane++)
        p->lanes[lane].first_command += 2 * p->ndeltas;
    p->lanes[0].first_command = p->ncredits = p->ndeltas;
    free(p->commands);
    free(b->first_operand);
    p->commands = commands;
    b->first_operand = first_operand;
}

static uint32_t count_lanes(const struct plan *plan)
{
    uint32_t n = 1;

    for (size_t i = 0; i < plan->nops; i++)
        if (plan->ops[i].lane >= n)
            n = plan->ops[i].lane + 1u;
    return n;
}

static thrum_status_t reach_peers(struct thrum_comm *comm, const struct plan *plan)
{
    for (size_t i = 0; i < plan->nops; i++) {
        const struct plan_op *op = &plan->ops[i];
        thrum_status_t status = op->peer >= 0 ? comm_reach(comm, op->peer) : THRUM_OK;

        for (int k = 0; !status && k < op->ndst + op->nsrc; k++) {
            int rank = plan->operands[op->first_operand + (uint32_t)k].rank;
            if (rank != comm->rank)
                status = comm_reach(comm, rank);
        }
        if (status)
            return status;
    }
    return THRUM_OK;
}

/* A call with the buffers of the last one need not patch them in again. */
static void sort_patches(struct exec_program *p)
{
    for (uint32_t i = 0; i < p->npatches; i++) {
        struct exec_patch patch = p->patches[i];

        if (patch.kind != PATCH_SEND && patch.kind != PATCH_RECV)
            continue;
        memmove(&p->patches[p->nbuffer_patches + 1], &p->patches[p->nbuffer_patches],
                (i - p->nbuffer_patches) * sizeof patch);
        p->patches[p->nbuffer_patches++] = patch;
    }
}

/* Fills `out` and returns true if the patch is about a line and nothing else. */
static bool as_line_patch(struct exec_program *p, const struct exec_patch *patch,
                          struct exec_line_patch *out)
{
    struct thrum_command *command = &p->commands[patch->command];
    struct thrum_operand *operand = &p->operands[patch->operand];

    *out = (struct exec_line_patch){.address = &operand->indirect,
                                    .slot = &patch->pair->in.slot,
                                    .first = patch->base + EXEC_LINE_PAYLOAD,
                                    .stride = patch->stride};
    switch ((enum patch_kind)patch->kind) {
    case PATCH_PEER_SEND:
        out->first += offsetof(struct comm_arrival, send_offset);
        return true;
    case PATCH_PEER_RECV:
        out->first += offsetof(struct comm_arrival, recv_offset);
        return true;
    case PATCH_LINE_DATA:
        out->address = &operand->base;
        out->first = patch->base + patch->addend;
        return true;
    case PATCH_LINE_ROOM:
        out->address = &operand->base;
        out->slot = &patch->pair->out.slot;
        out->first = patch->base;
        return true;
    case PATCH_LINE_OUT:
        out->slot = &patch->pair->out.slot; /* fall through */
    case PATCH_LINE_IN:
        out->address = &operand->base;
        out->value = &command->value;
        out->first = patch->base;
        return true;
    default:
        return false;
    }
}

/* Programs of collectives are run again and again: their lines are patched in a few instructions each. */
static void make_line_patches(struct builder *b)
{
    struct exec_program *p = b->program;
    uint32_t left = 0;

    if (p->channel != CHANNEL_COLLECTIVE)
        return;
    p->line_patches = malloc((p->npatches + 1u) * sizeof *p->line_patches);
    if (!p->line_patches) {
        b->status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a plan");
        return;
    }
    for (uint32_t i = 0; i < p->npatches; i++) {
        if (as_line_patch(p, &p->patches[i], &p->line_patches[p->nline_patches]))
            p->nline_patches++;
        else
            p->patches[left++] = p->patches[i];
    }
    p->npatches = left;
}

static void resolve_operands(struct builder *b)
{
    struct exec_program *p = b->program;
    struct exec_delta *deltas = realloc(p->deltas, (p->ndeltas + 1) * sizeof *deltas);

    if (deltas)
        p->deltas = deltas;
    sort_patches(p);
    make_line_patches(b);
    p->head_value = &p->commands[p->lanes[0].first_command].value;
    p->head_again = p->head_value;
    if (p->nahead)
        p->head_again = &p->commands[p->lanes[0].first_command + 1 + p->nahead].value;
    p->tail_value = &p->commands[p->lanes[0].first_command + p->lanes[0].ncommands - 1].value;
    for (uint32_t i = 0; i < p->ncommands; i++)
        p->commands[i].operands = &p->operands[b->first_operand[i]];
    p->host_bytes = sizeof *p + b->commands_capacity * sizeof *p->commands +
                    b->operands_capacity * sizeof *p->operands +
                    b->patches_capacity * sizeof *p->patches +
                    p->nline_patches * sizeof *p->line_patches + p->ndeltas * sizeof *p->deltas +
                    p->npoints * sizeof *p->points;
}

thrum_status_t exec_compile(struct thrum_comm *comm, const struct plan *plan,
                            enum comm_channel channel, struct exec_program **program_out)
{
    struct builder b = {.comm = comm, .plan = plan};
    size_t narrivals = channel == CHANNEL_P2P ? (size_t)plan->params.np2p + 1 : 1;

    b.status = reach_peers(comm, plan);
    if (b.status)
        return b.status;
    b.program = calloc(1, sizeof *b.program);
    b.delta_of = calloc((size_t)comm->nranks, sizeof *b.delta_of);
    b.put_to = calloc((size_t)comm->nranks, sizeof *b.put_to);
    if (b.program) {
        b.program->deltas = calloc((size_t)comm->nranks, sizeof *b.program->deltas);
        b.program->arrivals = calloc(narrivals, sizeof *b.program->arrivals);
        b.program->points = calloc(plan->nstages + 1, sizeof *b.program->points);
    }
    if (!b.program || !b.program->points || !b.delta_of || !b.put_to || !b.program->deltas ||
        !b.program->arrivals)
        b.status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a plan");
    if (!b.status) {
        b.program->algorithm = plan->algorithm;
        b.program->channel = channel;
        b.program->names_stages = plan->names_stages;
        b.program->shares_stages = plan->shares_stages;
        b.program->nlanes = count_lanes(plan);
        b.program->nahead = count_ahead(&b);
        b.program->is_plain = channel == CHANNEL_COLLECTIVE && !plan->params.counts;
        if (b.program->is_plain) {
            b.program->send_bytes = plan_send_bytes(&plan->params, comm->rank);
            b.program->recv_bytes = plan_recv_bytes(&plan->params, comm->rank);
        }
        note_lines(&b);
        for (uint32_t lane = 0; lane < b.program->nlanes; lane++)
            lower_lane(&b, lane);
    }
    if (!b.status && channel == CHANNEL_COLLECTIVE)
        lower_credits(&b);
    if (!b.status && channel == CHANNEL_COLLECTIVE)
        place_credits(&b);
    if (!b.status && channel == CHANNEL_P2P)
        note_messages(&b);
    if (!b.status)
        resolve_operands(&b);
    if (!b.status) /* once, for submit_checked */
        b.status = comm->ops->check(comm->device->impl, b.program->commands, b.program->ncommands);
    free(b.delta_of);
    free(b.put_to);
    free(b.first_operand);
    if (b.status) {
        exec_program_free(b.program);
        return b.status;
    }
    *program_out = b.program;
    return THRUM_OK;
}

void exec_program_free(struct exec_program *program)
{
    if (!program)
        return;
    free(program->commands);
    free(program->operands);
    free(program->patches);
    free(program->points);
    free(program->line_patches);
    free(program->deltas);
    free(program->arrivals);
    free(program->messages);
    free(program);
}
