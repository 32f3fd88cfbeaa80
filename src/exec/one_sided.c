/*
 * Put, signal, wait for signals: programs of one command between those that order operations, on a channel of their own.
 * Called by api. They run as every other operation does (run.c), so that deadlines, deaths and faults meet them alike.
 */
#include "exec/exec.h"

#include <string.h>

#include "base/base.h"

/* A program on the caller's stack: what submit needs it copies. */
struct short_program {
    struct exec_program program;
    struct thrum_command commands[4]; /* head, the command, flush of a put, tail */
    struct thrum_operand operands[5];
    struct exec_patch patch;
    struct exec_counted counted;
    struct exec_delta delta;
};

static struct thrum_command *add(struct short_program *s, enum thrum_opcode opcode, int ndst,
                                 int nsrc)
{
    struct exec_program *p = &s->program;
    struct thrum_command *command = &s->commands[p->ncommands++];

    *command = (struct thrum_command){.opcode = (uint8_t)opcode,
                                      .ndst = (uint16_t)ndst,
                                      .nsrc = (uint16_t)nsrc,
                                      .operands = &s->operands[p->noperands]};
    p->noperands += (uint32_t)(ndst + nsrc);
    return command;
}

static uint64_t done_word(const struct thrum_comm *comm)
{
    return comm->area + comm->own_offset + offsetof(struct comm_own_block, done);
}

static void begin(struct short_program *s, struct thrum_comm *comm, int peer)
{
    memset(s, 0, sizeof *s);
    s->program = (struct exec_program){.algorithm = "one-sided",
                                       .channel = CHANNEL_ONE_SIDED,
                                       .commands = s->commands,
                                       .operands = s->operands,
                                       .patches = &s->patch,
                                       .counted = &s->counted,
                                       .deltas = &s->delta,
                                       .nlanes = 1};
    s->delta.pair = &comm->peers[peer].pairs[CHANNEL_ONE_SIDED];
    s->operands[0].base = done_word(comm);
    add(s, THRUM_CMD_WAIT, 0, 1);
}

static thrum_status_t end(struct short_program *s, struct thrum_comm *comm,
                          const struct exec_staging *staging, struct thrum_queue *queue,
                          const struct call_record *call)
{
    static const struct exec_buffers none = {0};
    thrum_status_t status;

    s->operands[s->program.noperands].base = done_word(comm);
    add(s, THRUM_CMD_SIGNAL, 1, 0)->flags = THRUM_CMD_FLAG_SET;
    s->program.lanes[0] = (struct exec_lane){0, s->program.ncommands};
    s->program.head_value = s->program.head_again = &s->commands[0].value;
    s->program.tail_value = &s->commands[s->program.ncommands - 1].value;
    status = comm->ops->check(comm->device->impl, s->commands, s->program.ncommands);
    if (status)
        return status;
    return exec_run(comm, &s->program, &none, staging, queue, call);
}

/* The newest command's value is so much more than the counter. */
static void count_value(struct short_program *s, const uint64_t *counter, uint64_t more)
{
    s->counted =
        (struct exec_counted){&s->commands[s->program.ncommands - 1].value, counter, more, 1};
    s->program.ncounted = 1;
}

/* The newest command, a put, needs the region of its source. */
static void patch_region(struct short_program *s)
{
    uint32_t command = s->program.ncommands - 1;

    s->patch =
        (struct exec_patch){.kind = PATCH_REGION,
                            .command = command,
                            .operand = (uint32_t)(s->commands[command].operands - s->operands)};
    s->program.npatches = 1;
}

/* This device's engines reach the peer's memory. */
static bool by_engine(const struct thrum_comm *comm, int peer)
{
    return comm->peers[peer].loads || peer == comm->rank;
}

static struct thrum_command *add_put(struct short_program *s, const struct thrum_comm *comm,
                                     int peer, int ndst, int nsrc)
{
    struct thrum_command *command = add(s, THRUM_CMD_PUT, ndst, nsrc);

    command->put.peer = comm->peers[peer].fabric_peer;
    return command;
}

thrum_status_t exec_put(struct thrum_comm *comm, int peer, uint64_t source,
                        const struct comm_window_part *part, uint64_t offset, uint64_t bytes,
                        const struct exec_staging *staging, struct thrum_queue *queue,
                        const struct call_record *call)
{
    struct short_program s;
    struct thrum_command *command;
    thrum_status_t status = comm_reach(comm, peer);

    if (status)
        return status;
    begin(&s, comm, peer);
    s.operands[2].base = source;
    if (by_engine(comm, peer)) {
        s.operands[1].base = comm->peers[peer].window_base + part->offset + offset;
        command = add(&s, THRUM_CMD_COPY, 1, 1);
        command->flags = THRUM_CMD_FLAG_CONTAIN;
        command->bytes = bytes;
    } else {
        s.operands[1].base = part->put_offset + offset;
        command = add_put(&s, comm, peer, 1, 1);
        command->bytes = bytes;
        command->put.remote_key = part->key;
        patch_region(&s);
        add_put(&s, comm, peer, 0, 0)->flags = THRUM_CMD_FLAG_FLUSH;
    }
    return end(&s, comm, staging, queue, call);
}

thrum_status_t exec_signal(struct thrum_comm *comm, int peer, struct thrum_queue *queue,
                           const struct call_record *call)
{
    uint64_t offset = comm_semaphore_offset(CHANNEL_ONE_SIDED, comm->rank, 0);
    struct comm_peer *other = &comm->peers[peer];
    struct short_program s;
    struct thrum_command *command;
    thrum_status_t status = comm_reach(comm, peer);

    if (status)
        return status;
    begin(&s, comm, peer);
    if (by_engine(comm, peer)) {
        s.operands[1].base = other->window_base + other->area_offset + offset;
        add(&s, THRUM_CMD_SIGNAL, 1, 0)->flags = THRUM_CMD_FLAG_SET | THRUM_CMD_FLAG_CONTAIN;
    } else {
        command = add_put(&s, comm, peer, 0, 0);
        command->put.remote_key = other->area_key;
        command->put.signal_key = other->area_key;
        command->put.signal_offset = other->area_put_offset + offset;
    }
    count_value(&s, &s.delta.pair->sent[0], 1);
    s.delta.sent[0] = 1;
    s.program.ndeltas = 1;
    return end(&s, comm, NULL, queue, call);
}

thrum_status_t exec_wait_signal(struct thrum_comm *comm, int peer, uint64_t n,
                                struct thrum_queue *queue, const struct call_record *call)
{
    struct short_program s;

    begin(&s, comm, peer);
    s.operands[1].base = comm->area + comm_semaphore_offset(CHANNEL_ONE_SIDED, peer, 0);
    add(&s, THRUM_CMD_WAIT, 0, 1);
    count_value(&s, &s.delta.pair->received[0], n);
    s.delta.received[0] = n;
    s.program.ndeltas = 1;
    return end(&s, comm, NULL, queue, call);
}
