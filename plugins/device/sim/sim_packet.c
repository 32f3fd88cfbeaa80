/*
 * Packets: what a well-formed command is, and how it is written into a ring and read back. Called by submit (both ways
 * in) and by the executor.
 */
#include "sim_internal.h"

#include <stdio.h>
#include <string.h>

#include "sim_reduce.h"

static const char *const opcode_names[] = {
#define NAME(op) [THRUM_CMD_##op] = #op
    NAME(NOP),        NAME(COPY),      NAME(FILL), NAME(REDUCE),   NAME(SIGNAL), NAME(WAIT),
    NAME(WRITE_LINE), NAME(WAIT_LINE), NAME(PUT),  NAME(CALLBACK), NAME(SCALE),
#undef NAME
};
#define OPCODES (sizeof opcode_names / sizeof *opcode_names)

const char *sim_opcode_name(unsigned opcode)
{
    return opcode < OPCODES ? opcode_names[opcode] : "?";
}

enum thrum_engine sim_opcode_engine(unsigned opcode)
{
    switch (opcode) {
    case THRUM_CMD_COPY:
    case THRUM_CMD_FILL:
        return THRUM_ENGINE_DMA;
    case THRUM_CMD_REDUCE:
    case THRUM_CMD_SCALE:
        return THRUM_ENGINE_REDUCE;
    case THRUM_CMD_PUT:
        return THRUM_ENGINE_PORT;
    default:
        return opcode < OPCODES ? THRUM_ENGINE_SYNC : THRUM_ENGINE_NONE;
    }
}

/* ---- the rule ------------------------------------------------------------------------------------------------- */

#define FLAGS_WIDE (THRUM_CMD_FLAG_WIDE_DST | THRUM_CMD_FLAG_WIDE_SRC | THRUM_CMD_FLAG_WIDE_FIRST)

/* Per opcode: least and most operands, and which flags it may carry. */
static const struct {
    uint16_t dst_min, dst_max, src_min, src_max;
    uint8_t flags;
} shapes[OPCODES] = {
    [THRUM_CMD_NOP] = {0, 0, 0, 0, 0},
    [THRUM_CMD_COPY] = {1, SIM_MAX_OPERANDS, 1, 1,
                        THRUM_CMD_FLAG_STREAM | THRUM_CMD_FLAG_CONTAIN | THRUM_CMD_FLAG_HOST},
    [THRUM_CMD_FILL] = {1, SIM_MAX_OPERANDS, 0, 0, THRUM_CMD_FLAG_STREAM},
    [THRUM_CMD_REDUCE] = {1, SIM_MAX_OPERANDS, 1, SIM_MAX_OPERANDS,
                          THRUM_CMD_FLAG_STREAM | THRUM_CMD_FLAG_CONTAIN | FLAGS_WIDE |
                              THRUM_CMD_FLAG_HOST},
    [THRUM_CMD_SIGNAL] = {1, 1, 0, 0,
                          THRUM_CMD_FLAG_SET | THRUM_CMD_FLAG_CONTAIN | THRUM_CMD_FLAG_LENIENT},
    [THRUM_CMD_WAIT] = {0, 0, 1, 1, 0},
    [THRUM_CMD_WRITE_LINE] = {1, 2, 0, 1, THRUM_CMD_FLAG_CONTAIN | THRUM_CMD_FLAG_HOST},
    [THRUM_CMD_WAIT_LINE] = {0, 0, 1, 1, THRUM_CMD_FLAG_DEFER},
    [THRUM_CMD_PUT] = {0, 1, 0, 1, THRUM_CMD_FLAG_FLUSH | THRUM_CMD_FLAG_LENIENT_PUT},
    [THRUM_CMD_CALLBACK] = {0, 0, 0, 0, 0},
    [THRUM_CMD_SCALE] = {1, SIM_MAX_OPERANDS, 1, 2, THRUM_CMD_FLAG_STREAM | THRUM_CMD_FLAG_CONTAIN},
};

#define wrong(...) (snprintf(why, why_bytes, __VA_ARGS__), false)

/* Alignment of operand i, less one. */
static uint64_t operand_mask(const struct thrum_command *c, unsigned i)
{
    switch (c->opcode) {
    case THRUM_CMD_SIGNAL:
    case THRUM_CMD_WAIT:
        return 7;
    case THRUM_CMD_WAIT_LINE:
        return 63;
    case THRUM_CMD_WRITE_LINE:
        return i == 0 ? 63 : 0;
    default:
        return 0;
    }
}

static bool check_operands(const struct thrum_command *c, char *why, size_t why_bytes)
{
    uint64_t bad = 0;

    for (unsigned i = 0; i < (unsigned)c->ndst + c->nsrc; i++) {
        const struct thrum_operand *o = &c->operands[i];
        bad |= o->indirect ? o->indirect & 7 : o->base & operand_mask(c, i);
    }
    if (sim_likely(!bad))
        return true;
    for (unsigned i = 0; i < (unsigned)c->ndst + c->nsrc; i++) {
        const struct thrum_operand *o = &c->operands[i];
        bool is_dst = i < c->ndst;
        unsigned align = (unsigned)operand_mask(c, i) + 1;
        unsigned at = is_dst ? i : i - c->ndst;

        if (o->indirect % 8)
            return wrong("%s[%u].indirect=0x%llx is not aligned to 8", is_dst ? "dst" : "src", at,
                         (unsigned long long)o->indirect);
        if (!o->indirect && o->base % align)
            return wrong("%s[%u].base=0x%llx is not aligned to %u", is_dst ? "dst" : "src", at,
                         (unsigned long long)o->base, align);
    }
    return true;
}

static bool check_elements(const struct thrum_command *c, char *why, size_t why_bytes)
{
    size_t size = thrum_datatype_size((thrum_datatype_t)c->dtype);

    if (!size)
        return wrong("dtype=%u is no data type", c->dtype);
    if (c->bytes % size)
        return wrong("bytes=%llu is no multiple of dtype=%s", (unsigned long long)c->bytes,
                     thrum_datatype_name((thrum_datatype_t)c->dtype));
    return true;
}

static bool check_reduce(const struct thrum_command *c, char *why, size_t why_bytes)
{
    if (!check_elements(c, why, why_bytes))
        return false;
    if (c->redop == THRUM_REDOP_CALLBACK) {
        if (!c->reduce)
            return wrong("redop=callback and reduce=NULL");
        if (c->flags & FLAGS_WIDE)
            return wrong("flags=0x%x are not for redop=callback", c->flags & FLAGS_WIDE);
        return true;
    }
    if (c->redop >= THRUM_REDOP_COUNT)
        return wrong("redop=%u is no reduction", c->redop);
    if (!sim_reduce_defined((thrum_datatype_t)c->dtype, (thrum_redop_t)c->redop))
        return wrong("redop=%s is not defined for dtype=%s",
                     thrum_redop_name((thrum_redop_t)c->redop),
                     thrum_datatype_name((thrum_datatype_t)c->dtype));
    return true;
}

static bool check_scale(const struct thrum_command *c, char *why, size_t why_bytes)
{
    if (!check_elements(c, why, why_bytes))
        return false;
    if (c->bytes && c->nsrc == 1 && !c->payload)
        return wrong("nsrc=1 and payload=NULL with bytes=%llu", (unsigned long long)c->bytes);
    return true;
}

static bool check_put(const struct sim_device *device, const struct thrum_command *c, char *why,
                      size_t why_bytes)
{
    if (!atomic_load_explicit(&((struct sim_device *)(uintptr_t)device)->nports,
                              memory_order_relaxed))
        return wrong("opcode=PUT and no fabric is attached to the port");
    if (!c->put.peer)
        return wrong("put.peer=NULL");
    if (c->flags & THRUM_CMD_FLAG_FLUSH)
        return true;
    if (c->bytes && !c->ndst)
        return wrong("ndst=0 with bytes=%llu", (unsigned long long)c->bytes);
    if (c->bytes && !c->nsrc && (!c->payload || c->bytes > THRUM_LINE_PAYLOAD_BYTES))
        return wrong("nsrc=0 and payload=%p with bytes=%llu", c->payload,
                     (unsigned long long)c->bytes);
    if (c->put.remote_key_indirect % 8)
        return wrong("put.remote_key_indirect=0x%llx is not aligned to 8",
                     (unsigned long long)c->put.remote_key_indirect);
    if (c->put.signal_key && c->put.signal_offset % 8)
        return wrong("put.signal_offset=%llu is not aligned to 8",
                     (unsigned long long)c->put.signal_offset);
    return true;
}

bool sim_command_check(const struct sim_device *device, const struct thrum_command *c, char *why,
                       size_t why_bytes)
{
    if (c->opcode >= OPCODES)
        return wrong("opcode=%u is no command", c->opcode);
    if (c->flags & ~shapes[c->opcode].flags)
        return wrong("flags=0x%x are not for %s", c->flags, opcode_names[c->opcode]);
    if (c->ndst < shapes[c->opcode].dst_min || c->ndst > shapes[c->opcode].dst_max)
        return wrong("ndst=%u is not %u..%u", c->ndst, shapes[c->opcode].dst_min,
                     shapes[c->opcode].dst_max);
    if (c->nsrc < shapes[c->opcode].src_min || c->nsrc > shapes[c->opcode].src_max)
        return wrong("nsrc=%u is not %u..%u", c->nsrc, shapes[c->opcode].src_min,
                     shapes[c->opcode].src_max);
    if (c->ndst + c->nsrc && !c->operands)
        return wrong("operands=NULL");
    if (c->bytes > SIM_OFFSET_MASK)
        return wrong("bytes=%llu is more than any memory", (unsigned long long)c->bytes);
    switch (c->opcode) {
    case THRUM_CMD_REDUCE:
        if (!check_reduce(c, why, why_bytes))
            return false;
        break;
    case THRUM_CMD_SCALE:
        if (!check_scale(c, why, why_bytes))
            return false;
        break;
    case THRUM_CMD_FILL:
        if (c->value > 255)
            return wrong("value=%llu is no byte", (unsigned long long)c->value);
        break;
    case THRUM_CMD_WRITE_LINE:
        if (c->bytes > (c->nsrc ? THRUM_LINE_LONG_BYTES : THRUM_LINE_PAYLOAD_BYTES))
            return wrong("bytes=%llu are more than a line from %s takes",
                         (unsigned long long)c->bytes, c->nsrc ? "src[0]" : "payload");
        if (c->bytes && !c->nsrc && !c->payload)
            return wrong("nsrc=0 and payload=NULL with bytes=%llu", (unsigned long long)c->bytes);
        break;
    case THRUM_CMD_PUT:
        if (!check_put(device, c, why, why_bytes))
            return false;
        break;
    case THRUM_CMD_CALLBACK:
        if (!c->callback)
            return wrong("callback=NULL");
        break;
    default:
        break;
    }
    return check_operands(c, why, why_bytes);
}

/* ---- encoding -------------------------------------------------------------------------------------------------- */

static unsigned short_operands(const struct thrum_command *c)
{
    unsigned n = (unsigned)c->ndst + c->nsrc;

    if (n > 2 || c->opcode == THRUM_CMD_REDUCE || c->opcode == THRUM_CMD_CALLBACK)
        return 0;
    for (unsigned i = 0; i < n; i++)
        if (c->operands[i].indirect)
            return 0;
    return 1;
}

/* Bytes of the caller's memory that travel with the packet; of SCALE, the scalar. */
static uint64_t payload_bytes(const struct thrum_command *c)
{
    switch (c->opcode) {
    case THRUM_CMD_WRITE_LINE:
    case THRUM_CMD_PUT:
        return c->nsrc || (c->flags & THRUM_CMD_FLAG_FLUSH) ? 0 : c->bytes;
    case THRUM_CMD_SCALE:
        return c->nsrc == 1 && c->bytes ? thrum_datatype_size((thrum_datatype_t)c->dtype) : 0;
    default:
        return 0;
    }
}

/* What can be read from the caller's memory without trusting any field further than this. */
static bool can_encode(const struct thrum_command *c)
{
    if (c->ndst > SIM_MAX_OPERANDS || c->nsrc > SIM_MAX_OPERANDS)
        return false;
    if (c->ndst + c->nsrc && !c->operands)
        return false;
    return !payload_bytes(c) || (c->payload && payload_bytes(c) <= THRUM_LINE_PAYLOAD_BYTES);
}

static bool is_reduce_by_callback(unsigned opcode, unsigned redop)
{
    return opcode == THRUM_CMD_REDUCE && redop == THRUM_REDOP_CALLBACK;
}

unsigned sim_packet_slots(const struct thrum_command *c)
{
    unsigned slots = 1;

    if (sim_unlikely(!can_encode(c)))
        return 0;
    if (!short_operands(c))
        slots += ((unsigned)c->ndst + c->nsrc + 3) / 4;
    return slots + (payload_bytes(c) > 0) + (c->opcode == THRUM_CMD_PUT);
}

void sim_packet_encode(struct sim_queue *queue, uint64_t position, const struct thrum_command *c,
                       unsigned slots, uint64_t ticket, bool last)
{
    struct sim_packet *p = &queue->ring[position & queue->mask].packet;
    uint64_t at = position + 1;
    unsigned form = last ? SIM_PACKET_LAST : 0;
    unsigned n = (unsigned)c->ndst + c->nsrc;

    p->opcode = c->opcode;
    p->flags = c->flags;
    p->dtype = c->dtype;
    p->redop = c->redop;
    p->ndst = c->ndst;
    p->nsrc = c->nsrc;
    p->slots = (uint16_t)(slots ? slots : 1);
    p->ticket = ticket;
    p->bytes = c->bytes;
    p->value = c->value;
    p->mask = c->mask;
    if (sim_unlikely(!slots)) {
        p->form = (uint8_t)(form | SIM_PACKET_MALFORMED);
        return;
    }
    if (short_operands(c)) {
        form |= SIM_PACKET_SHORT;
        for (unsigned i = 0; i < n; i++)
            p->base[i] = c->operands[i].base;
    } else {
        for (unsigned i = 0; i < n; i += 4, at++)
            memcpy(queue->ring[at & queue->mask].operands, &c->operands[i],
                   (n - i < 4 ? n - i : 4) * sizeof *c->operands);
    }
    if (is_reduce_by_callback(c->opcode, c->redop)) {
        p->reduce = c->reduce;
        p->reduce_context = c->reduce_context;
    } else if (c->opcode == THRUM_CMD_REDUCE) {
        p->divisor = c->divisor;
    } else if (c->opcode == THRUM_CMD_CALLBACK) {
        p->callback = c->callback;
        p->argument = c->argument;
    }
    if (payload_bytes(c)) {
        form |= SIM_PACKET_PAYLOAD;
        memcpy(queue->ring[at & queue->mask].payload, c->payload, payload_bytes(c));
        at++;
    }
    if (c->opcode == THRUM_CMD_PUT) {
        form |= SIM_PACKET_PUT;
        queue->ring[at & queue->mask].put = c->put;
    }
    p->form = (uint8_t)form;
}

void sim_packet_decode(const struct sim_queue *queue, uint64_t position, struct thrum_command *c,
                       struct thrum_operand *operands)
{
    const struct sim_packet *p = &queue->ring[position & queue->mask].packet;
    unsigned n = (unsigned)p->ndst + p->nsrc;
    uint64_t at = position + 1;

    c->opcode = p->form & SIM_PACKET_MALFORMED ? SIM_OPCODE_MALFORMED : p->opcode;
    c->flags = p->flags;
    c->dtype = p->dtype;
    c->redop = p->redop;
    c->ndst = p->ndst;
    c->nsrc = p->nsrc;
    c->bytes = p->bytes;
    c->value = p->value;
    c->mask = p->mask;
    c->operands = operands;
    c->payload = NULL;
    if (p->form & SIM_PACKET_MALFORMED)
        return;
    if (p->form & SIM_PACKET_SHORT) {
        operands[0] = (struct thrum_operand){.base = p->base[0]};
        operands[1] = (struct thrum_operand){.base = p->base[1]};
    } else if ((at & queue->mask) + (n + 3) / 4 <= queue->depth) { /* in one piece in the ring */
        c->operands = queue->ring[at & queue->mask].operands;
        at += (n + 3) / 4;
    } else {
        for (unsigned i = 0; i < n; i += 4, at++)
            memcpy(&operands[i], queue->ring[at & queue->mask].operands,
                   (n - i < 4 ? n - i : 4) * sizeof *operands);
    }
    if (is_reduce_by_callback(p->opcode, p->redop)) {
        c->reduce = p->reduce;
        c->reduce_context = p->reduce_context;
    } else if (p->opcode == THRUM_CMD_REDUCE) {
        c->divisor = p->divisor;
    } else if (p->opcode == THRUM_CMD_CALLBACK) {
        c->callback = p->callback;
        c->argument = p->argument;
    }
    if (p->form & SIM_PACKET_PAYLOAD) {
        c->payload = queue->ring[at & queue->mask].payload;
        at++;
    }
    if (p->form & SIM_PACKET_PUT)
        c->put = queue->ring[at & queue->mask].put;
}
