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

bool builder_needs_room(const struct builder *b, int peer, uint64_t bytes)
{
    return b->comm->peers[peer].loads && bytes > COMM_LINE_STRIDE - EXEC_LINE_PAYLOAD;
}

struct exec_delta *builder_delta(struct builder *b, int peer)
{
    struct exec_program *p = b->program;

    if (!b->delta_of[peer]) {
        b->delta_of[peer] = &p->deltas[p->ndeltas++];
        b->delta_of[peer]->peer = peer;
        b->delta_of[peer]->pair = &b->comm->peers[peer].pairs[p->channel];
    }
    return b->delta_of[peer];
}

void builder_patch(struct builder *b, struct exec_patch patch)
{
    struct exec_program *p = b->program;

    p->patches = grow(b, p->patches, p->npatches, &b->patches_capacity, sizeof *p->patches);
    if (b->status)
        return;
    patch.pair = &b->comm->peers[patch.peer].pairs[p->channel];
    patch.stride = patch.kind == PATCH_LINE_ROOM ? COMM_UNIT_BYTES : line_stride(b, patch.peer);
    patch.base = line_base(b, (enum patch_kind)patch.kind, patch.peer);
    if (patch.kind == PATCH_LINE_DATA && builder_delta(b, patch.peer)->receives_room) {
        patch.stride = COMM_UNIT_BYTES;
        patch.base = b->comm->area + exec_room_offset(patch.peer);
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
    builder_operand(
        b, own || patch.kind == PATCH_LINE_DATA ? 0 : comm->peers[o.rank].window_base + o.offset);
    builder_patch(b, patch);
}

void builder_patch_command(struct builder *b, enum patch_kind kind, int peer, int lane,
                           uint64_t addend)
{
    builder_patch(b, (struct exec_patch){.kind = (uint8_t)kind,
                                         .lane = (uint8_t)lane,
                                         .peer = peer,
                                         .command = b->program->ncommands - 1,
                                         .operand = b->first_operand[b->program->ncommands - 1],
                                         .addend = addend});
}
