/*
 * Appends to a program under construction: commands, their operands, and the patches that fill them at each call. Called
 * by lower.c and compile.c.
 */
#include "exec/builder.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/base.h"

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

uint32_t builder_operand(struct builder *b, uint64_t base)
{
    struct exec_program *p = b->program;

    p->operands = grow(b, p->operands, p->noperands, &b->operands_capacity, sizeof *p->operands);
    if (b->status)
        return 0;
    p->operands[p->noperands] = (struct thrum_operand){.base = base};
    return p->noperands++;
}

struct thrum_command *builder_command(struct builder *b, enum thrum_opcode opcode, uint32_t first,
                                      int ndst, int nsrc)
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

/* First slot of the lines or rooms that a patch is about: the peer's in the own area, or the own ones in the peer's. */
static uint64_t line_base(const struct builder *b, enum patch_kind kind, enum comm_channel channel,
                          int peer)
{
    const struct comm_peer *p = &b->comm->peers[peer];
    uint64_t there = p->loads ? p->window_base + p->area_offset : p->area_put_offset;

    switch (kind) {
    case PATCH_LINE_OUT:
    case PATCH_LINE_PUT:
    case PATCH_LINE_PUT_FAR:
    case PATCH_LINE_NEXT:
        return there + comm_line_offset(channel, b->comm->rank);
    case PATCH_LINE_ROOM:
        return there + comm_room_offset(b->comm, channel, b->comm->rank);
    default:
        return b->comm->area + comm_line_offset(channel, peer);
    }
}

enum comm_channel builder_line_channel(const struct builder *b, bool is_inline)
{
    return is_inline && b->program->channel == CHANNEL_P2P ? CHANNEL_EAGER : b->program->channel;
}

struct exec_delta *builder_delta(struct builder *b, int peer, enum comm_channel channel)
{
    struct exec_program *p = b->program;
    struct exec_delta **at = &b->delta_of[peer + (channel == CHANNEL_EAGER ? b->comm->nranks : 0)];

    if (!*at) {
        *at = &p->deltas[p->ndeltas++];
        (*at)->peer = peer;
        (*at)->channel = (uint8_t)channel;
        (*at)->pair = &b->comm->peers[peer].pairs[channel];
    }
    return *at;
}

void builder_patch(struct builder *b, struct exec_patch patch)
{
    struct exec_program *p = b->program;
    enum comm_channel channel;

    p->patches = grow(b, p->patches, p->npatches, &b->patches_capacity, sizeof *p->patches);
    if (b->status)
        return;
    channel = (enum comm_channel)patch.channel;
    patch.pair = &b->comm->peers[patch.peer].pairs[channel];
    patch.stride = patch.kind == PATCH_LINE_ROOM ? b->comm->unit_bytes : COMM_LINE_STRIDE;
    patch.base = line_base(b, (enum patch_kind)patch.kind, channel, patch.peer);
    if (patch.kind == PATCH_LINE_DATA && builder_delta(b, patch.peer, channel)->receives_room) {
        patch.stride = b->comm->unit_bytes;
        patch.base = b->comm->area + comm_room_offset(b->comm, channel, patch.peer);
    } else if (patch.kind == PATCH_LINE_DATA) {
        patch.addend = EXEC_LINE_PAYLOAD;
    }
    p->patches[p->npatches++] = patch;
}

uint64_t builder_semaphore_offset(const struct builder *b, int from, int lane)
{
    return comm_semaphore_offset(b->program->channel, from, lane);
}

uint64_t builder_peer_area(const struct builder *b, int peer)
{
    return b->comm->peers[peer].window_base + b->comm->peers[peer].area_offset;
}

uint64_t builder_own_word(const struct builder *b, size_t offset)
{
    return b->comm->area + b->comm->own_offset + offset;
}

void builder_engine_operand(struct builder *b, struct plan_operand o)
{
    struct thrum_comm *comm = b->comm;
    struct exec_patch patch = {.peer = o.rank,
                               .channel = (uint8_t)b->program->channel,
                               .command = b->program->ncommands,
                               .operand = b->program->noperands,
                               .addend = o.offset};
    bool own = o.rank == comm->rank;

    switch ((enum plan_space)o.space) {
    case PLAN_WIDE:
        o.offset *= plan_widening(&b->plan->params);
        /* fall through */
    case PLAN_SCRATCH:
        builder_operand(b, (own ? comm->area : builder_peer_area(b, o.rank)) +
                               comm->scratch_offset + o.offset);
        return;
    case PLAN_LINE:
        patch.kind = PATCH_LINE_DATA;
        patch.channel = (uint8_t)builder_line_channel(b, true);
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
    if (own && b->program->channel == CHANNEL_P2P && patch.kind != PATCH_LINE_DATA)
        patch.kind = PATCH_MESSAGE;
    builder_operand(
        b, own || patch.kind == PATCH_LINE_DATA ? 0 : comm->peers[o.rank].window_base + o.offset);
    builder_patch(b, patch);
}

void builder_patch_line(struct builder *b, enum patch_kind kind, enum comm_channel channel,
                        int peer, int lane, uint64_t addend)
{
    if (!b->status)
        builder_patch(b, (struct exec_patch){.kind = (uint8_t)kind,
                                             .lane = (uint8_t)lane,
                                             .channel = (uint8_t)channel,
                                             .peer = peer,
                                             .command = b->program->ncommands - 1,
                                             .operand = b->first_operand[b->program->ncommands - 1],
                                             .addend = addend});
}

void builder_patch_command(struct builder *b, enum patch_kind kind, int peer, int lane,
                           uint64_t addend)
{
    builder_patch_line(b, kind, b->program->channel, peer, lane, addend);
}
