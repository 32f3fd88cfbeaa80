/* A program under construction: what builder.c appends to, lower.c fills with a plan's ops and compile.c completes. */
#ifndef EXEC_BUILDER_H
#define EXEC_BUILDER_H

#include "exec/exec.h"

/* Growing arrays; the first error is kept, and appending then does nothing. */
struct builder {
    struct thrum_comm *comm;
    const struct plan *plan;
    uint64_t signature; /* of a collective's call */
    struct exec_program *program;
    uint32_t commands_capacity, operands_capacity, patches_capacity;
    struct exec_delta *
        *delta_of; /* by peer, then those of eager messages by peer; NULL: none yet */
    bool *put_to; /* by peer: a PUT went there */
    uint32_t *first_operand; /* by command: index of its operands, until pointers are final */
    struct thrum_command nowhere; /* what appending yields after an error */
    thrum_status_t status;
};

static inline const struct plan_operand *builder_op_operands(const struct builder *b,
                                                             const struct plan_op *op)
{
    return &b->plan->operands[op->first_operand];
}

/* ---- builder.c ---- */

/* Appends an operand and returns its index. */
uint32_t builder_operand(struct builder *b, uint64_t base);
/* Adds a command whose operands are those added since `first`. */
struct thrum_command *builder_command(struct builder *b, enum thrum_opcode opcode, uint32_t first,
                                      int ndst, int nsrc);
/* An operand that this device's engines load or store. The command it belongs to is the next one. */
void builder_engine_operand(struct builder *b, struct plan_operand o);
/* A patch of the newest command (which is added next unless `command` says otherwise). */
void builder_patch(struct builder *b, struct exec_patch patch);
/* The same of the newest command itself, and its first operand. */
void builder_patch_command(struct builder *b, enum patch_kind kind, int peer, int lane,
                           uint64_t addend);
/* The same about a line of that channel. */
void builder_patch_line(struct builder *b, enum patch_kind kind, enum comm_channel channel,
                        int peer, int lane, uint64_t addend);
/* What the program adds to the pair with a peer on a channel; made when first asked for. */
struct exec_delta *builder_delta(struct builder *b, int peer, enum comm_channel channel);
/* Lines with data have a channel of their own among messages. */
enum comm_channel builder_line_channel(const struct builder *b, bool is_inline);
/* The peer's area as this device addresses it. */
uint64_t builder_peer_area(const struct builder *b, int peer);
/* A word of the own block of this rank's area. */
uint64_t builder_own_word(const struct builder *b, size_t offset);
/* In an area: the semaphore that a rank raises for a lane. */
uint64_t builder_semaphore_offset(const struct builder *b, int from, int lane);

/* ---- lower.c ---- */

void lower_op(struct builder *b, const struct plan_op *op);
/* Before the ops: which lines go and come, and how long they are. */
void lower_note_lines(struct builder *b);
/* Before them, too: receivers see by thrum_probe who waits to send to them by rendezvous. */
void lower_announcements(struct builder *b);
/* After them: the messages of a point-to-point plan, for exec_run to hand on to the operation. */
void lower_note_messages(struct builder *b);
/* A PUT command for the port; the caller adds the operands. */
struct thrum_command *lower_put_command(struct builder *b, int peer, uint32_t first, int ndst,
                                        int nsrc);

#endif
