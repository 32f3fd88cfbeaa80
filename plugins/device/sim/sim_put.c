/*
 * The PORT engine: puts are handed to the fabric, a flush waits for them. While it does, the puts that follow it in the
 * ring go as well, so that the wire is not idle between one put's end and the next one's begin. Called by the executor,
 * with the queue's ownership.
 */
#include "sim_internal.h"

#include <string.h>

static bool operand_address(struct sim_queue *queue, const struct thrum_operand *operand,
                            uint64_t *address_out, uint64_t *bad_out)
{
    return sim_resolve(queue, operand->base, operand->indirect, address_out, bad_out);
}

/* False: a page fault at *bad_out. */
static bool fill_put(struct sim_queue *queue, const struct thrum_command *c,
                     struct thrum_fabric_put *out, uint64_t *bad_out)
{
    const struct thrum_port_put *put = &c->put;
    uint64_t source;

    *out = (struct thrum_fabric_put){
        .local_region = put->local_region,
        .bytes = c->bytes,
        .signal_key = put->signal_key,
        .signal_offset = put->signal_offset,
        .signal_value = c->value,
        .flags = c->flags & THRUM_CMD_FLAG_LENIENT_PUT ? THRUM_PUT_LENIENT : 0};
    if (!sim_resolve(queue, put->remote_key, put->remote_key_indirect, &out->remote_key, bad_out))
        return false;
    if (c->ndst && !operand_address(queue, &c->operands[0], &out->remote_offset, bad_out))
        return false;
    if (!c->bytes)
        return true;
    if (!c->nsrc) {
        out->local = c->payload;
        out->local_region = NULL;
        out->flags |= THRUM_PUT_INLINE;
        return true;
    }
    if (!operand_address(queue, &c->operands[c->ndst], &source, bad_out))
        return false;
    out->local = sim_lookup(queue, source, c->bytes);
    if (!out->local) {
        *bad_out = source;
        return false;
    }
    if (!put->local_region)
        out->flags |= THRUM_PUT_INLINE;
    return true;
}

static thrum_status_t hand_over(struct sim_queue *queue, const struct thrum_fabric_ops *fabric,
                                const struct thrum_command *c, uint64_t *bad_out)
{
    struct thrum_fabric_put request;
    thrum_status_t status;

    if (!fill_put(queue, c, &request, bad_out))
        return THRUM_ERR_FAULT;
    status = fabric->put_signal(c->put.peer, &request);
    if (!status)
        sim_count(&queue->bytes_put, c->bytes);
    return status;
}

/* ---- what follows a flush --------------------------------------------------------------------------------------- */

/* Whether one of the words that were passed lies in what the put reads: it has not been written yet. */
static bool reads_passed(const struct sim_ahead *ahead, const struct thrum_command *c)
{
    uint64_t source = c->nsrc ? c->operands[c->ndst].base : 0;

    if ((c->ndst + c->nsrc && c->operands[0].indirect) ||
        (c->nsrc && c->operands[c->ndst].indirect) || c->put.remote_key_indirect)
        return ahead->nsignals > 0; /* what is read is not looked for */
    for (unsigned i = 0; c->nsrc && i < ahead->nsignals; i++)
        if (ahead->signals[i].address + 8 > source && ahead->signals[i].address < source + c->bytes)
            return true;
    return false;
}

/* A word that the queue will set by itself before it gets there. False: no room to keep it, or not such a one. */
static bool pass_signal(struct sim_ahead *ahead, const struct thrum_command *c)
{
    uint64_t address = c->operands[0].base;
    unsigned i = 0;

    if (!(c->flags & THRUM_CMD_FLAG_SET) || c->operands[0].indirect)
        return false;
    while (i < ahead->nsignals && ahead->signals[i].address != address)
        i++;
    if (i == SIM_AHEAD_SIGNALS)
        return false;
    if (i == ahead->nsignals)
        ahead->signals[ahead->nsignals++] = (struct sim_passed_signal){address, 0};
    ahead->signals[i].value = max_u64(ahead->signals[i].value, c->value);
    return true;
}

/* Whether the wait would be over when the queue gets there: semaphores only grow. */
static bool pass_wait(struct sim_queue *queue, const struct thrum_command *c)
{
    const struct sim_ahead *ahead = &queue->ahead;
    uint64_t address = c->operands[0].base;
    void *cpu;

    if (c->operands[0].indirect || address % 8)
        return false;
    for (unsigned i = 0; i < ahead->nsignals; i++)
        if (ahead->signals[i].address == address && ahead->signals[i].value >= c->value)
            return true;
    cpu = sim_lookup(queue, address, 8);
    return cpu && sim_load_word(cpu) >= c->value;
}

/* The flush of what has been handed over by then: it waits for no more than that. All that are not over are of one peer. */
static bool pass_flush(const struct sim_ahead *ahead, const struct thrum_fabric_ops *fabric,
                       const struct thrum_command *c, struct sim_packet *packet)
{
    uint64_t mark = 0;
    thrum_status_t status = fabric->flush_mark(c->put.peer, &mark);

    if (status < 0 || (status && c->put.peer != ahead->peer))
        return false;
    packet->form |= SIM_PACKET_MARKED;
    packet->value = mark;
    return true;
}

/*
 * What has been handed over does nothing any more when the queue gets there. A put to another peer does not go: it may
 * tell that one to write where the adapter still reads for the first; one peer's are done in order.
 */
static bool pass_put(struct sim_queue *queue, const struct thrum_fabric_ops *fabric,
                     const struct thrum_command *c, struct sim_packet *packet)
{
    uint64_t bad;

    if (c->put.peer != queue->ahead.peer || reads_passed(&queue->ahead, c) ||
        hand_over(queue, fabric, c, &bad))
        return false; /* room, or a failure, is found again in its turn */
    packet->opcode = THRUM_CMD_NOP;
    packet->ndst = packet->nsrc = 0;
    packet->flags = 0;
    packet->bytes = 0;
    packet->form &= SIM_PACKET_LAST;
    return true;
}

static bool pass(struct sim_queue *queue, const struct thrum_fabric_ops *fabric,
                 struct sim_packet *packet)
{
    struct thrum_operand operands[2];
    struct thrum_command c;

    if (packet->form & SIM_PACKET_MALFORMED || packet->ndst + packet->nsrc > 2)
        return false;
    sim_packet_decode(queue, queue->ahead.position, &c, operands);
    switch (c.opcode) {
    case THRUM_CMD_NOP:
        return true;
    case THRUM_CMD_SIGNAL:
        return pass_signal(&queue->ahead, &c);
    case THRUM_CMD_WAIT:
        return pass_wait(queue, &c);
    case THRUM_CMD_PUT:
        return c.flags & THRUM_CMD_FLAG_FLUSH ? pass_flush(&queue->ahead, fabric, &c, packet)
                                              : pass_put(queue, fabric, &c, packet);
    default:
        return false;
    }
}

/*
 * From the flush at the head on: each put may go if the queue would come to it without waiting for anybody else, and
 * finds there what it reads as it is now. The fabric keeps their order.
 */
static void look_ahead(struct sim_queue *queue, const struct thrum_fabric_ops *fabric,
                       const void *peer)
{
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&queue->tail, memory_order_acquire);
    struct sim_ahead *ahead = &queue->ahead;

    if (head == tail)
        return;
    if (ahead->position <= head) {
        ahead->position = head + queue->ring[head & queue->mask].packet.slots;
        ahead->nsignals = 0;
        ahead->peer = peer;
    }
    while (ahead->position < tail) {
        struct sim_packet *packet = &queue->ring[ahead->position & queue->mask].packet;
        uint16_t slots = packet->slots;

        if (!pass(queue, fabric, packet))
            return;
        ahead->position += slots;
    }
}

/* ---- for the executor ------------------------------------------------------------------------------------------- */

thrum_status_t sim_put_run(struct sim_queue *queue, const struct thrum_command *c,
                           uint64_t *bad_out)
{
    const struct thrum_fabric_ops *fabric = queue->device->ports[0].fabric;
    thrum_status_t status = hand_over(queue, fabric, c, bad_out);

    if (status < 0 && *bad_out == SIM_NO_ADDRESS && c->flags & THRUM_CMD_FLAG_LENIENT_PUT)
        return THRUM_OK;
    return status;
}

thrum_status_t sim_put_flush(struct sim_queue *queue, const struct thrum_command *c,
                             bool may_look_ahead)
{
    const struct thrum_fabric_ops *fabric = queue->device->ports[0].fabric;
    thrum_status_t status;

    if (!fabric->flush_mark)
        return fabric->flush(c->put.peer);
    status = fabric->flush_mark(c->put.peer, &queue->flush_mark);
    if (status > 0 && may_look_ahead)
        look_ahead(queue, fabric, c->put.peer);
    return status;
}
