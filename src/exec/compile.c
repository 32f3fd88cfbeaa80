/*
 * Compiles a plan into a program for one communicator: the lanes with their ops (lower.c), the commands that order them,
 * and the credits of lines around them. Called by api on a plan-cache miss and for point to point.
 */
#include "exec/builder.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "exec/run.h"

#define DONE_OFFSET offsetof(struct comm_own_block, done)
#define STARTED_OFFSET offsetof(struct comm_own_block, lanes_started)
#define ARRIVAL_FIELD(field) (EXEC_LINE_PAYLOAD + offsetof(struct comm_arrival, field))
#define LANE_DONE_OFFSET(l) \
    (offsetof(struct comm_own_block, lane_done) + (size_t)(l)*COMM_SEMAPHORE_STRIDE)

static bool waits_for_lines(const struct plan *plan)
{
    for (size_t i = 0; i < plan->nops; i++)
        if (plan->ops[i].opcode == PLAN_WAIT)
            return true;
    return false;
}

static bool sends_later(const struct plan *plan)
{
    bool waited = false;

    for (size_t i = 0; i < plan->nops; i++) {
        enum plan_opcode opcode = (enum plan_opcode)plan->ops[i].opcode;

        waited |= opcode == PLAN_WAIT;
        if (waited && (opcode == PLAN_PUT || opcode == PLAN_SIGNAL))
            return true;
    }
    return false;
}

/*
 * How many of the plan's first ops are lines that may run ahead. Where every rank has a core and loads the others' memory
 * nobody gains by it, nor does who waits for nobody.
 */
static uint32_t count_ahead(const struct builder *b)
{
    const struct plan *plan = b->plan;
    uint32_t n = 0;

    if (!plan->runs_ahead || !b->comm->runs_ahead || b->program->channel != CHANNEL_COLLECTIVE ||
        b->program->nlanes > 1 ||
        !(b->comm->device->properties.capabilities & THRUM_CAP_DIRECT_SUBMIT) ||
        !waits_for_lines(plan))
        return 0;
    while (n < plan->nops && plan->ops[n].opcode == PLAN_PUT && plan->ops[n].flags & PLAN_INLINE &&
           builder_op_operands(b, &plan->ops[n])[0].space == PLAN_SEND)
        n++;
    return n;
}

static void add_own_signal(struct builder *b, size_t offset)
{
    uint32_t first = b->program->noperands;

    builder_operand(b, builder_own_word(b, offset));
    builder_command(b, THRUM_CMD_SIGNAL, first, 1, 0)->flags = THRUM_CMD_FLAG_SET;
}

static void add_own_wait(struct builder *b, size_t offset)
{
    uint32_t first = b->program->noperands;

    builder_operand(b, builder_own_word(b, offset));
    builder_command(b, THRUM_CMD_WAIT, first, 0, 1);
}

static void add_flushes(struct builder *b)
{
    for (int peer = 0; peer < b->comm->nranks; peer++) {
        if (!b->put_to[peer])
            continue;
        lower_put_command(b, peer, b->program->noperands, 0, 0)->flags = THRUM_CMD_FLAG_FLUSH;
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
    if (lane == 0 && p->channel == CHANNEL_P2P)
        lower_announcements(b);
    for (size_t i = 0; i < b->plan->nops && !b->status; i++) {
        add_points(b, i);
        if (b->plan->ops[i].lane == lane)
            lower_op(b, &b->plan->ops[i]);
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

/* Counts the deltas with credits, and puts them first. Nothing is noted in any after this. */
static void sort_deltas(struct builder *b)
{
    struct exec_program *p = b->program;

    for (uint32_t i = 0; i < p->ndeltas; i++) {
        struct exec_delta d = p->deltas[i];

        if (d.channel == CHANNEL_P2P)
            continue;
        d.answers = d.sends_units && d.receives_units && d.channel == CHANNEL_COLLECTIVE &&
                    !b->comm->runs_ahead;
        p->deltas[i] = p->deltas[p->ncredits];
        p->deltas[p->ncredits++] = d;
    }
}

/* See struct comm_lines. Behind all lanes, for each of these deltas: WAITs for a credit, then as many that give one. */
static void lower_credits(struct builder *b)
{
    struct exec_program *p = b->program;
    struct thrum_comm *comm = b->comm;

    sort_deltas(b);
    for (uint32_t i = 0; i < p->ncredits; i++) {
        const struct exec_delta *d = &p->deltas[i];
        uint32_t first = p->noperands;

        builder_operand(b, comm->area + comm_credit_offset((enum comm_channel)d->channel, d->peer));
        builder_command(b, THRUM_CMD_WAIT, first, 0, 1);
    }
    for (uint32_t i = 0; i < p->ncredits; i++) {
        int peer = p->deltas[i].peer;
        uint64_t own = comm_credit_offset((enum comm_channel)p->deltas[i].channel, comm->rank);
        uint32_t first = p->noperands;
        struct thrum_command *command;

        if (comm->peers[peer].loads) {
            builder_operand(b, builder_peer_area(b, peer) + own);
            command = builder_command(b, THRUM_CMD_SIGNAL, first, 1, 0);
            /* who has left does not miss it */
            command->flags = THRUM_CMD_FLAG_SET | THRUM_CMD_FLAG_CONTAIN | THRUM_CMD_FLAG_LENIENT;
        } else {
            command = lower_put_command(b, peer, first, 0, 0);
            command->flags = THRUM_CMD_FLAG_LENIENT_PUT;
            command->put.signal_key = comm->peers[peer].area_key;
            command->put.signal_offset = comm->peers[peer].area_put_offset + own;
        }
    }
}

/* Where command i of n lanes' and credits' goes when the credits are put around lane 0. */
static uint32_t place_of(const struct exec_program *p, uint32_t i)
{
    uint32_t credits = p->ncredits, lane0 = p->lanes[0].ncommands;
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
        p->points[i].command += p->ncredits; /* all in lane 0, or at its end */
    for (uint32_t lane = 1; lane < p->nlanes; lane++)
        p->lanes[lane].first_command += 2 * p->ncredits;
    p->lanes[0].first_command = p->ncredits;
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

/* Counted words of one patch, at most. */
#define COUNTED_WORDS 3

static void count_line(const struct exec_patch *patch, const struct comm_lines *lines,
                       uint64_t *word, uint64_t offset, struct exec_counted *out)
{
    *out = (struct exec_counted){word, &lines->slot, patch->base + offset, patch->stride};
}

/* The flag of a line: see exec_signature_bits. */
static void count_flag(const struct builder *b, const struct exec_patch *patch,
                       const struct comm_lines *lines, uint64_t *word, struct exec_counted *out)
{
    uint64_t stride = (uint64_t)1 << exec_signature_bits((enum comm_channel)patch->channel);
    const uint64_t *counter =
        b->program->channel == CHANNEL_COLLECTIVE ? &b->comm->sequence : &lines->count;

    *out = (struct exec_counted){word, counter, stride | patch->addend, stride};
}

/* Writes what the patch comes down to; returns how many words these are. 0: it is none of these kinds. */
static uint32_t count_words(const struct builder *b, const struct exec_patch *patch,
                            struct exec_counted *out)
{
    struct thrum_command *command = &b->program->commands[patch->command];
    struct thrum_operand *operand = &b->program->operands[patch->operand];
    const struct comm_lines *lines_in = &patch->pair->in, *lines_out = &patch->pair->out;

    switch ((enum patch_kind)patch->kind) {
    case PATCH_SEND:
    case PATCH_RECV:
    case PATCH_MESSAGE:
    case PATCH_REGION:
        return 0;
    case PATCH_PEER_SEND:
        count_line(patch, lines_in, &operand->indirect, ARRIVAL_FIELD(send_offset), out);
        return 1;
    case PATCH_PEER_RECV:
        count_line(patch, lines_in, &operand->indirect, ARRIVAL_FIELD(recv_offset), out);
        return 1;
    case PATCH_PEER_PUT:
        count_line(patch, lines_in, &operand->indirect, ARRIVAL_FIELD(recv_put_offset), &out[0]);
        count_line(patch, lines_in, &command->put.remote_key_indirect, ARRIVAL_FIELD(recv_key),
                   &out[1]);
        return 2;
    case PATCH_LINE_OUT:
        count_line(patch, lines_out, &operand->base, 0, &out[0]);
        count_flag(b, patch, lines_out, &command->value, &out[1]);
        return 2;
    case PATCH_LINE_PUT:
    case PATCH_LINE_PUT_FAR:
        count_line(patch, lines_out, &command->put.signal_offset, 0, &out[0]);
        count_flag(b, patch, lines_out, &command->value, &out[1]);
        count_line(patch, lines_out, &operand->base, EXEC_LINE_PAYLOAD, &out[2]);
        return patch->kind == PATCH_LINE_PUT ? 3 : 2;
    case PATCH_LINE_IN:
        count_line(patch, lines_in, &operand->base, 0, &out[0]);
        count_flag(b, patch, lines_in, &command->value, &out[1]);
        return 2;
    case PATCH_LINE_NEXT:
        *out = (struct exec_counted){&command->next, &lines_out->slot_after, patch->base,
                                     patch->stride};
        return 1;
    case PATCH_LINE_DATA:
        count_line(patch, lines_in, &operand->base, patch->addend, out);
        return 1;
    case PATCH_LINE_ROOM:
        count_line(patch, lines_out, &operand->base, 0, out);
        return 1;
    case PATCH_RAISE:
        *out = (struct exec_counted){&command->value, &patch->pair->sent[patch->lane],
                                     patch->addend, 1};
        return 1;
    case PATCH_AWAIT:
        *out = (struct exec_counted){&command->value, &patch->pair->received[patch->lane],
                                     patch->addend, 1};
        return 1;
    }
    return 0;
}

/* Words that go with a counter, of commands that go first, or of the others. */
static void add_counted(struct builder *b, bool first)
{
    struct exec_program *p = b->program;
    uint32_t end = p->lanes[0].first_command + p->nfirst;

    for (uint32_t i = 0; i < p->npatches; i++)
        if ((p->patches[i].command < end) == first)
            p->ncounted += count_words(b, &p->patches[i], &p->counted[p->ncounted]);
    if (first)
        p->ncounted_first = p->ncounted;
}

/* Programs are run again and again: what goes with a counter is patched in a few instructions each. */
static void split_counted(struct builder *b)
{
    struct exec_program *p = b->program;
    struct exec_counted none[COUNTED_WORDS];
    uint32_t left = 0;

    p->counted = malloc((COUNTED_WORDS * p->npatches + 1u) * sizeof *p->counted);
    if (!p->counted) {
        b->status = thrum_fail(THRUM_ERR_NO_MEMORY, "no host memory for a plan");
        return;
    }
    add_counted(b, true);
    add_counted(b, false);
    for (uint32_t i = 0; i < p->npatches; i++)
        if (!count_words(b, &p->patches[i], none))
            p->patches[left++] = p->patches[i];
    p->npatches = left;
}

static uint32_t count_first(const struct exec_program *p)
{
    const struct thrum_command *commands = &p->commands[p->lanes[0].first_command];
    uint32_t n = 1; /* behind the head */

    while (n + 1 < p->lanes[0].ncommands && commands[n].opcode != THRUM_CMD_WAIT &&
           commands[n].opcode != THRUM_CMD_WAIT_LINE)
        n++;
    return n;
}

static void resolve_operands(struct builder *b)
{
    struct exec_program *p = b->program;
    struct exec_delta *deltas = realloc(p->deltas, (p->ndeltas + 1) * sizeof *deltas);

    if (deltas)
        p->deltas = deltas;
    sort_patches(p);
    p->nfirst = count_first(p);
    split_counted(b);
    p->head_value = &p->commands[p->lanes[0].first_command].value;
    p->head_again = p->head_value;
    if (p->nahead)
        p->head_again = &p->commands[p->lanes[0].first_command + 1 + p->nahead].value;
    p->tail_value = &p->commands[p->lanes[0].first_command + p->lanes[0].ncommands - 1].value;
    for (uint32_t i = 0; i < p->ncommands; i++)
        p->commands[i].operands = &p->operands[b->first_operand[i]];
    p->host_bytes = sizeof *p + b->commands_capacity * sizeof *p->commands +
                    b->operands_capacity * sizeof *p->operands +
                    b->patches_capacity * sizeof *p->patches + p->ncounted * sizeof *p->counted +
                    p->ndeltas * sizeof *p->deltas + p->npoints * sizeof *p->points;
}

thrum_status_t exec_compile(struct thrum_comm *comm, const struct plan *plan,
                            enum comm_channel channel, uint64_t signature,
                            struct exec_program **program_out)
{
    struct builder b = {.comm = comm, .plan = plan, .signature = signature};
    size_t narrivals = channel == CHANNEL_P2P ? (size_t)plan->params.np2p + 1 : 1;
    size_t ndeltas = (channel == CHANNEL_P2P ? 2 : 1) * (size_t)comm->nranks;
    struct thrum_queue *ahead;

    b.status = reach_peers(comm, plan);
    if (b.status)
        return b.status;
    b.program = calloc(1, sizeof *b.program);
    b.delta_of = calloc(ndeltas, sizeof *b.delta_of);
    b.put_to = calloc((size_t)comm->nranks, sizeof *b.put_to);
    if (b.program) {
        b.program->deltas = calloc(ndeltas, sizeof *b.program->deltas);
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
        b.program->sends_later = sends_later(plan);
        if (b.program->nahead) /* now, not in a call that allocates nothing */
            b.status = exec_lane_queue(comm, AHEAD_LANE, &ahead);
        b.program->is_plain = channel == CHANNEL_COLLECTIVE && !plan->params.counts;
        if (channel == CHANNEL_COLLECTIVE) {
            b.program->send_bytes = plan_send_bytes(&plan->params, comm->rank);
            b.program->recv_bytes = plan_recv_bytes(&plan->params, comm->rank);
        }
        lower_note_lines(&b);
        for (uint32_t lane = 0; lane < b.program->nlanes && !b.status; lane++)
            lower_lane(&b, lane);
    }
    if (!b.status)
        lower_credits(&b);
    if (!b.status && b.program->ncredits)
        place_credits(&b);
    if (!b.status && channel == CHANNEL_P2P)
        lower_note_messages(&b);
    if (!b.status)
        resolve_operands(&b);
    if (!b.status)
        b.program->host_bytes += narrivals * sizeof *b.program->arrivals +
                                 b.program->nmessages * sizeof *b.program->messages;
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
    free(program->counted);
    free(program->deltas);
    free(program->arrivals);
    free(program->messages);
    free(program);
}
