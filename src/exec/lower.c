/*
 * Each op of a plan as device commands. What is fixed for the communicator's life (areas, windows, connections) is
 * resolved here; what changes from call to call becomes a patch. Called by compile.c.
 */
#include "exec/builder.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/base.h"

/* Which operands of a REDUCE are partial results of an 8- or 16-bit float. */
static uint8_t wide_flags(const struct builder *b, const struct plan_op *op)
{
    const struct plan_operand *operands = builder_op_operands(b, op), *srcs = operands + op->ndst;
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
    bool wide = builder_op_operands(b, op)[0].space == PLAN_WIDE;

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

    return builder_op_operands(b, op)[0].space == PLAN_RECV &&
           max_u64(plan_recv_bytes(params, params->rank), plan_recv_bytes(params, params->root)) >=
               STREAM_MIN_BYTES;
}

static void lower_engine(struct builder *b, const struct plan_op *op)
{
    const struct plan_params *params = &b->plan->params;
    uint32_t first = b->program->noperands;
    struct thrum_command *command;

    for (int i = 0; i < op->ndst + op->nsrc; i++)
        builder_engine_operand(b, builder_op_operands(b, op)[i]);
    command = builder_command(b, op->opcode == PLAN_REDUCE ? THRUM_CMD_REDUCE : THRUM_CMD_COPY,
                              first, op->ndst, op->nsrc);
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

struct thrum_command *lower_put_command(struct builder *b, int peer, uint32_t first, int ndst,
                                        int nsrc)
{
    struct thrum_command *command = builder_command(b, THRUM_CMD_PUT, first, ndst, nsrc);

    command->put.peer = b->comm->peers[peer].fabric_peer;
    command->put.remote_key = b->comm->peers[peer].area_key;
    b->program->puts = true;
    b->put_to[peer] = true;
    return command;
}

static void note_raise(struct builder *b, int peer, int lane, uint64_t value)
{
    struct exec_delta *d = builder_delta(b, peer, b->program->channel);

    d->sent[lane] = max_u64(d->sent[lane], value);
}

/* A semaphore in the peer's area gets so much more than the pair's counter of what was sent on the lane. */
static void raise_at(struct builder *b, int peer, uint64_t offset, int lane, uint64_t value)
{
    struct thrum_comm *comm = b->comm;
    uint32_t first = b->program->noperands;
    struct thrum_command *command;

    if (comm->peers[peer].loads) {
        builder_operand(b, builder_peer_area(b, peer) + offset);
        command = builder_command(b, THRUM_CMD_SIGNAL, first, 1, 0);
        command->flags = THRUM_CMD_FLAG_SET | THRUM_CMD_FLAG_CONTAIN;
    } else {
        command = lower_put_command(b, peer, first, 0, 0);
        command->put.signal_key = comm->peers[peer].area_key;
        command->put.signal_offset = comm->peers[peer].area_put_offset + offset;
    }
    builder_patch_command(b, PATCH_RAISE, peer, lane, value);
}

static void lower_raise(struct builder *b, int peer, int lane, uint64_t value)
{
    raise_at(b, peer, builder_semaphore_offset(b, b->comm->rank, lane), lane, value);
    note_raise(b, peer, lane, value);
}

void lower_announcements(struct builder *b)
{
    const struct plan_params *params = &b->plan->params;

    for (int i = 0; i < params->np2p; i++) {
        const struct plan_p2p *m = &params->p2p[i];

        if (m->is_send && b->comm->peers[m->peer].probes && m->peer != b->comm->rank &&
            m->kind == MESSAGE_PLAIN && !plan_is_eager(m, plan_line_bytes(params)))
            raise_at(b, m->peer, comm_announced_offset(b->comm->rank), 0, 1);
    }
}

static void lower_wait(struct builder *b, const struct plan_op *op)
{
    uint32_t first = b->program->noperands;
    struct exec_delta *d = builder_delta(b, op->peer, b->program->channel);

    builder_operand(b, b->comm->area + builder_semaphore_offset(b, op->peer, op->lane));
    builder_command(b, THRUM_CMD_WAIT, first, 0, 1)->writer = b->comm->peers[op->peer].window_base;
    builder_patch_command(b, PATCH_AWAIT, op->peer, op->lane, op->value);
    d->received[op->lane] = max_u64(d->received[op->lane], op->value);
}

static uint64_t message_signature(const struct plan_p2p *p, enum comm_channel channel)
{
    const struct call_record call = {
        .count = p->bytes, .collective = COLL_SENDRECV, .dtype = p->dtype, .redop = p->kind};

    return channel == CHANNEL_EAGER ? exec_message_signature(p->bytes, p->dtype, p->kind)
                                    : exec_signature(&call);
}

/* Of the call, or of the p2p message whose line goes to or comes from the peer. It goes into the patch. */
static uint64_t line_signature(const struct builder *b, const struct plan_op *op)
{
    const struct plan_params *params = &b->plan->params;
    bool is_inline = op->flags & PLAN_INLINE;
    /* data go with the message, arrivals against it */
    bool is_send = (op->opcode != PLAN_WAIT) == is_inline;

    if (b->program->channel == CHANNEL_COLLECTIVE)
        return b->signature;
    for (int i = 0; i < params->np2p; i++)
        if (params->p2p[i].peer == op->peer && params->p2p[i].is_send == is_send)
            return message_signature(&params->p2p[i], builder_line_channel(b, is_inline));
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

/* The operand is where the payload of the peer's next line goes, apart from its flag. */
static void patch_room(struct builder *b, const struct plan_op *op, uint32_t operand)
{
    builder_patch(b, (struct exec_patch){.kind = PATCH_LINE_ROOM,
                                         .channel = (uint8_t)builder_line_channel(b, true),
                                         .peer = op->peer,
                                         .command = b->program->ncommands - 1,
                                         .operand = operand});
}

/*
 * The hint of the newest command that another such operation may follow. The peer looks at that line as soon as it waits for
 * it, so where lines go both ways this is said when its own has come, which says that it is just as far.
 */
static void lower_next_line(struct builder *b, const struct plan_op *op, enum comm_channel channel)
{
    struct thrum_command *command = &b->program->commands[b->program->ncommands - 1];

    if (command->opcode == THRUM_CMD_WAIT_LINE && op->flags & PLAN_INLINE &&
        !comm_needs_room(op->bytes))
        command->bytes = op->bytes;
    builder_patch_line(b, PATCH_LINE_NEXT, channel, op->peer, op->lane, 0);
}

/* A line to the peer, stored: the arrival, or inline data. */
static void lower_stored_line(struct builder *b, const struct plan_op *op)
{
    uint32_t first = b->program->noperands;
    bool is_inline = op->flags & PLAN_INLINE;
    bool room = is_inline && comm_needs_room(op->bytes);
    int nsrc = is_inline && op->bytes ? 1 : 0, ndst = room ? 2 : 1;
    enum comm_channel channel = builder_line_channel(b, is_inline);
    struct thrum_command *command;

    for (int i = 0; i < ndst; i++)
        builder_operand(b, 0);
    if (nsrc)
        builder_engine_operand(b, builder_op_operands(b, op)[0]);
    command = builder_command(b, THRUM_CMD_WRITE_LINE, first, ndst, nsrc);
    command->bytes = is_inline ? op->bytes : sizeof(struct comm_arrival);
    command->flags = THRUM_CMD_FLAG_CONTAIN;
    if (!nsrc)
        command->payload = arrival_for(b, op->peer);
    builder_patch_line(b, PATCH_LINE_OUT, channel, op->peer, op->lane, line_signature(b, op));
    if (!builder_delta(b, op->peer, channel)->receives_units)
        lower_next_line(b, op, channel);
    if (room)
        patch_room(b, op, first + 1);
}

/* The same, put: the flag is its signal. */
static void lower_put_line(struct builder *b, const struct plan_op *op)
{
    uint32_t first = b->program->noperands;
    bool is_inline = op->flags & PLAN_INLINE;
    bool room = is_inline && comm_needs_room(op->bytes);
    int nsrc = is_inline && op->bytes ? 1 : 0;
    struct thrum_command *command;

    builder_operand(b, 0);
    if (nsrc)
        builder_engine_operand(b, builder_op_operands(b, op)[0]);
    command = lower_put_command(b, op->peer, first, 1, nsrc);
    command->bytes = is_inline ? op->bytes : sizeof(struct comm_arrival);
    if (!nsrc)
        command->payload = arrival_for(b, op->peer);
    command->put.signal_key = b->comm->peers[op->peer].area_key;
    builder_patch_line(b, room ? PATCH_LINE_PUT_FAR : PATCH_LINE_PUT,
                       builder_line_channel(b, is_inline), op->peer, op->lane,
                       line_signature(b, op));
    if (room)
        patch_room(b, op, first);
}

static void lower_line(struct builder *b, const struct plan_op *op)
{
    bool is_inline = op->flags & PLAN_INLINE;

    if (!b->comm->peers[op->peer].loads)
        lower_put_line(b, op);
    else
        lower_stored_line(b, op);
    b->program->arrives |= !is_inline;
}

static void lower_wait_line(struct builder *b, const struct plan_op *op)
{
    enum comm_channel channel = builder_line_channel(b, op->flags & PLAN_INLINE);
    uint32_t first = b->program->noperands;
    struct thrum_command *command;

    builder_operand(b, 0);
    command = builder_command(b, THRUM_CMD_WAIT_LINE, first, 0, 1);
    command->mask = exec_sequence_mask(channel);
    command->writer = b->comm->peers[op->peer].window_base;
    if (b->program->nahead)
        command->flags = THRUM_CMD_FLAG_DEFER; /* the calls that follow may be sent meanwhile */
    builder_patch_line(b, PATCH_LINE_IN, channel, op->peer, op->lane, line_signature(b, op));
    if (b->comm->peers[op->peer].loads && builder_delta(b, op->peer, channel)->sends_units)
        lower_next_line(b, op, channel);
}

void lower_note_lines(struct builder *b)
{
    for (size_t i = 0; i < b->plan->nops; i++) {
        const struct plan_op *op = &b->plan->ops[i];
        uint64_t bytes = op->flags & PLAN_INLINE ? op->bytes : 0;
        uint8_t units = comm_line_units(b->comm, bytes);
        struct exec_delta *d;

        if (!(op->flags & (PLAN_ARRIVE | PLAN_INLINE)) || op->opcode < PLAN_PUT)
            continue;
        d = builder_delta(b, op->peer, builder_line_channel(b, op->flags & PLAN_INLINE));
        if (op->opcode == PLAN_WAIT) {
            d->receives_units = units;
            d->receives_room = comm_needs_room(bytes);
        } else {
            d->sends_units = units;
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
    const struct plan_operand *dst = builder_op_operands(b, op), *src = dst + 1;
    uint32_t first = b->program->noperands;
    struct thrum_command *command;

    if (!op->bytes) {
        if (op->value)
            lower_raise(b, op->peer, op->lane, op->value);
        return;
    }
    if (dst->space == PLAN_RECV)
        builder_operand(b, dst->offset);
    else
        builder_operand(b, comm->peers[op->peer].area_put_offset + comm->scratch_offset +
                               dst->offset *
                                   (dst->space == PLAN_WIDE ? plan_widening(&b->plan->params) : 1));
    builder_engine_operand(b, *src);
    command = lower_put_command(b, op->peer, first, 1, 1);
    command->bytes = moved_bytes(b, op);
    if (dst->space == PLAN_RECV) {
        command->put.remote_key = 0;
        builder_patch_command(b, PATCH_PEER_PUT, op->peer, op->lane, 0);
    }
    builder_patch_command(b, PATCH_REGION, op->peer, op->lane, 0);
    if (op->value) {
        command->put.signal_key = comm->peers[op->peer].area_key;
        command->put.signal_offset = comm->peers[op->peer].area_put_offset +
                                     builder_semaphore_offset(b, comm->rank, op->lane);
        builder_patch_command(b, PATCH_RAISE, op->peer, op->lane, op->value);
        note_raise(b, op->peer, op->lane, op->value);
    }
}

void lower_op(struct builder *b, const struct plan_op *op)
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

void lower_note_messages(struct builder *b)
{
    const struct plan_params *params = &b->plan->params;
    struct exec_program *p = b->program;

    p->messages = calloc((size_t)params->np2p + 1, sizeof *p->messages);
    if (!p->messages) {
        b->status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a plan");
        return;
    }
    for (int i = 0; i < params->np2p; i++) {
        const struct plan_p2p *m = &params->p2p[i];
        bool is_eager = plan_is_eager(m, plan_line_bytes(params));

        if (m->peer != b->comm->rank)
            p->messages[p->nmessages++] = (struct comm_message){
                .peer = m->peer,
                .dtype = m->dtype,
                .kind = m->kind,
                .is_send = m->is_send,
                .is_eager = is_eager,
                .count = m->bytes / thrum_datatype_size((thrum_datatype_t)m->dtype),
                .flag = message_signature(m, is_eager ? CHANNEL_EAGER : CHANNEL_P2P)};
    }
}
