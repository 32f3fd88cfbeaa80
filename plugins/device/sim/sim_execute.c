/*
 * The executor: one for both ways in, for all engines, for packets of the ring and for commands that are executed
 * while they are submitted. Called with the queue's ownership by whoever submits, polls or waits, and by the engine
 * thread. It takes no lock, allocates nothing and reads no clock.
 */
#include "sim_internal.h"

#include <string.h>

#include "sim_reduce.h"

#define PIECE_BYTES \
    (256u << 10) /* of all operands together, roughly: how long the rest may have to wait */

/* Result of one command that is no thrum_status_t of its own. */
#define SIM_RUN_BLOCKED ((thrum_status_t)THRUM_IN_PROGRESS)
#define SIM_RUN_PIECE ((thrum_status_t)2) /* a piece is done, more are left */
#define SIM_RUN_LARGE ((thrum_status_t)3) /* not begun: over budget */

struct run {
    struct sim_queue *queue;
    struct sim_device *device;
    const struct thrum_command *command; /* the submitter's, or queue->current */
    uint64_t ticket;
    uint64_t budget;
    bool pieces;
    bool polls; /* no reductions of the caller's, which may take long */
    bool unchecked; /* the command may be malformed */
};

/* ---- faults ---------------------------------------------------------------------------------------------------- */

static void stop(struct sim_queue *queue, thrum_status_t status)
{
    int none = THRUM_OK;

    atomic_compare_exchange_strong_explicit(&queue->stopped, &none, status, memory_order_acq_rel,
                                            memory_order_acquire);
    atomic_store_explicit(&queue->attention, 1, memory_order_release);
}

static bool is_of_peer(const struct run *run, uint64_t address)
{
    return sim_is_device_address(address) &&
           sim_address_slot(address) !=
               atomic_load_explicit(&run->device->slot, memory_order_relaxed);
}

/* A peer's memory that is gone, in a command that says that this is no reason to stop. */
static bool is_contained(const struct run *run, enum thrum_ras_kind kind, uint64_t address)
{
    return kind == THRUM_RAS_PAGE_FAULT && (run->command->flags & THRUM_CMD_FLAG_CONTAIN) &&
           is_of_peer(run, address);
}

static thrum_status_t report(const struct run *run, enum thrum_ras_kind kind, uint64_t address)
{
    thrum_status_t status = kind == THRUM_RAS_BAD_PACKET ? THRUM_ERR_BAD_PACKET : THRUM_ERR_FAULT;
    struct thrum_ras_event event = {.kind = kind,
                                    .engine = sim_opcode_engine(run->command->opcode),
                                    .queue_id = run->queue->id,
                                    .ticket = run->ticket,
                                    .address = address,
                                    .opcode = run->command->opcode};

    sim_ras_event(run->device, event);
    if (!is_contained(run, kind, address))
        stop(run->queue, status);
    return status;
}

/* ---- operands -------------------------------------------------------------------------------------------------- */

static inline bool operand_address(const struct run *run, unsigned i, uint64_t *address_out,
                                   uint64_t *bad_out)
{
    const struct thrum_operand *o = &run->command->operands[i];

    return sim_resolve(run->queue, o->base, o->indirect, address_out, bad_out);
}

/* Where the engines find an operand; NULL: page fault. They are threads of the process: host memory is where it is. */
static inline void *find_operand(const struct run *run, uint64_t address, uint64_t bytes)
{
    if (run->command->flags & THRUM_CMD_FLAG_HOST && !sim_is_device_address(address))
        return (void *)(uintptr_t)address;
    return sim_lookup(run->queue, address, bytes);
}

/* Host pointers of n operands from `first`, each for `bytes`, moved on by `offset`. */
static inline bool translate_all(const struct run *run, unsigned first, unsigned n, uint64_t bytes,
                                 uint64_t offset, void **cpu_out, uint64_t *bad_out)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t address;
        void *cpu;
        if (!operand_address(run, first + i, &address, bad_out))
            return false;
        cpu = find_operand(run, address, bytes);
        if (sim_unlikely(!cpu)) {
            *bad_out = address;
            return false;
        }
        cpu_out[i] = (char *)cpu + offset;
    }
    return true;
}

/* ---- DMA and REDUCE engines ------------------------------------------------------------------------------------ */

static bool overlap(const void *a, uint64_t a_bytes, const void *b, uint64_t b_bytes)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return x < y ? y - x < a_bytes : x - y < b_bytes;
}

/* Bytes of each operand of a REDUCE or SCALE for each byte that the command counts: partial results are float32. */
struct widths {
    uint64_t dst, first, others;
};

static struct widths widths_of(const struct thrum_command *c)
{
    uint64_t wide = sim_type_widens((thrum_datatype_t)c->dtype)
                        ? sizeof(float) / thrum_datatype_size((thrum_datatype_t)c->dtype)
                        : 1;
    bool all = c->flags & THRUM_CMD_FLAG_WIDE_SRC;

    return (struct widths){.dst = c->flags & THRUM_CMD_FLAG_WIDE_DST ? wide : 1,
                           .first = all || (c->flags & THRUM_CMD_FLAG_WIDE_FIRST) ? wide : 1,
                           .others = all ? wide : 1};
}

/*
 * A destination may be exactly a source that is as wide; anything between gives results that depend on the vector
 * width.
 */
static bool reduce_overlaps(void *const *dst, unsigned ndst, void *const *src, unsigned nsrc,
                            uint64_t bytes, const struct widths *widths)
{
    for (unsigned d = 0; d < ndst; d++)
        for (unsigned s = 0; s < nsrc; s++) {
            uint64_t width = s ? widths->others : widths->first;
            if ((dst[d] != src[s] || widths->dst != width) &&
                overlap(dst[d], bytes * widths->dst, src[s], bytes * width))
                return true;
        }
    return false;
}

/* Host pointers of all operands of a REDUCE, or of a SCALE but for its scalar, from piece_offset on. */
static bool translate_elements(const struct run *run, const struct widths *widths, unsigned nsrc,
                               void **cpu_out, uint64_t *bad_out)
{
    const struct thrum_command *c = run->command;
    uint64_t offset = run->queue->piece_offset;

    return translate_all(run, 0, c->ndst, c->bytes * widths->dst, offset * widths->dst, cpu_out,
                         bad_out) &&
           translate_all(run, c->ndst, 1, c->bytes * widths->first, offset * widths->first,
                         cpu_out + c->ndst, bad_out) &&
           translate_all(run, c->ndst + 1u, nsrc - 1, c->bytes * widths->others,
                         offset * widths->others, cpu_out + c->ndst + 1, bad_out);
}

/* Bytes to do now, from piece_offset; 0: over budget. */
static inline uint64_t take_piece(struct run *run, unsigned operands, bool whole)
{
    uint64_t done = run->queue->piece_offset;
    uint64_t left = run->command->bytes - done;
    uint64_t most, cost;

    if (sim_likely(left * operands <= run->budget)) {
        run->budget -= left * operands;
        return whole || left <= PIECE_BYTES ? left : PIECE_BYTES;
    }
    if (!run->pieces && !done)
        return 0;
    /* whole pages, so that a piece ends between elements of any type */
    most = PIECE_BYTES / operands * 2 & ~(uint64_t)(SIM_PAGE_BYTES - 1);
    if (most < SIM_PAGE_BYTES * 2)
        most = SIM_PAGE_BYTES * 2;
    left = whole ? left : min_u64(left, most);
    cost = left * operands;
    run->budget = run->budget > cost ? run->budget - cost : 0;
    return left;
}

static thrum_status_t piece_done(struct run *run, uint64_t bytes)
{
    run->queue->piece_offset += bytes;
    if (run->queue->piece_offset < run->command->bytes)
        return SIM_RUN_PIECE;
    run->queue->piece_offset = 0;
    return THRUM_OK;
}

static inline thrum_status_t run_copy(struct run *run)
{
    const struct thrum_command *c = run->command;
    bool fill = c->opcode == THRUM_CMD_FILL;
    uint64_t offset = run->queue->piece_offset, bytes, bad;
    void *cpu[SIM_MAX_OPERANDS + 1];
    const void *src;
    bool whole;

    if (!c->bytes)
        return THRUM_OK;
    if (!translate_all(run, 0, (unsigned)c->ndst + c->nsrc, c->bytes, offset, cpu, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    src = cpu[c->ndst]; /* not set for FILL */
    whole = !fill && c->ndst == 1 && overlap(cpu[0], c->bytes, src, c->bytes);
    bytes = take_piece(run, (unsigned)c->ndst + 1, whole);
    if (!bytes)
        return SIM_RUN_LARGE;
    if (fill)
        for (unsigned i = 0; i < c->ndst; i++)
            memset(cpu[i], (int)c->value, bytes);
    else
        sim_copy(cpu, c->ndst, src, bytes, c->flags & THRUM_CMD_FLAG_STREAM);
    sim_count(&run->queue->bytes_copied, bytes * c->ndst);
    return piece_done(run, bytes);
}

static thrum_status_t reduce_piece(const struct thrum_command *c,
                                   const struct sim_reduce_args *args)
{
    thrum_datatype_t dtype = (thrum_datatype_t)c->dtype;
    thrum_status_t status;

    if (c->redop != THRUM_REDOP_CALLBACK) {
        sim_reduce(dtype, (thrum_redop_t)c->redop, args);
        return THRUM_OK;
    }
    status = sim_reduce_by_callback(dtype, c->reduce, c->reduce_context, args);
    return status > 0 ? THRUM_ERR_INVALID_USAGE : status; /* it cannot ask to be called again */
}

static thrum_status_t run_reduce(struct run *run)
{
    const struct thrum_command *c = run->command;
    const struct widths widths = widths_of(c);
    void *cpu[2 * SIM_MAX_OPERANDS];
    struct sim_reduce_args args;
    thrum_status_t status;
    uint64_t bytes, bad;

    if (!c->bytes)
        return THRUM_OK;
    if (c->redop == THRUM_REDOP_CALLBACK && run->polls)
        return SIM_RUN_LARGE;
    if (!translate_elements(run, &widths, c->nsrc, cpu, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    if (!run->queue->piece_offset &&
        reduce_overlaps(cpu, c->ndst, cpu + c->ndst, c->nsrc, c->bytes, &widths))
        return report(run, THRUM_RAS_BAD_PACKET, 0);
    bytes = take_piece(
        run, (unsigned)(c->ndst * widths.dst + widths.first + (c->nsrc - 1u) * widths.others),
        false);
    if (!bytes)
        return SIM_RUN_LARGE;
    args =
        (struct sim_reduce_args){.dsts = cpu,
                                 .srcs = (const void *const *)(cpu + c->ndst),
                                 .ndst = c->ndst,
                                 .nsrc = c->nsrc,
                                 .count = bytes / thrum_datatype_size((thrum_datatype_t)c->dtype),
                                 .divisor = c->redop == THRUM_AVG && c->divisor ? c->divisor : 1,
                                 .stream = c->flags & THRUM_CMD_FLAG_STREAM,
                                 .wide_dst = c->flags & THRUM_CMD_FLAG_WIDE_DST,
                                 .wide_src = c->flags & THRUM_CMD_FLAG_WIDE_SRC,
                                 .wide_first = c->flags & THRUM_CMD_FLAG_WIDE_FIRST};
    status = reduce_piece(c, &args);
    if (status)
        return status;
    sim_count(&run->queue->bytes_reduced, bytes * c->nsrc);
    return piece_done(run, bytes);
}

/* The scalar, in the packet or in memory that no destination may reach into. */
static const void *scalar_of(const struct run *run, uint64_t *bad_out)
{
    void *cpu;

    if (run->command->nsrc == 1)
        return run->command->payload;
    return translate_all(run, run->command->ndst + 1u, 1,
                         thrum_datatype_size((thrum_datatype_t)run->command->dtype), 0, &cpu,
                         bad_out)
               ? cpu
               : NULL;
}

static bool scale_overlaps(const struct thrum_command *c, void *const *cpu, const void *scalar)
{
    static const struct widths same = {1, 1, 1};
    size_t size = thrum_datatype_size((thrum_datatype_t)c->dtype);

    for (unsigned d = 0; d < c->ndst; d++)
        if (overlap(cpu[d], c->bytes, scalar, size))
            return true;
    return reduce_overlaps(cpu, c->ndst, cpu + c->ndst, 1, c->bytes, &same);
}

static thrum_status_t run_scale(struct run *run)
{
    static const struct widths same = {1, 1, 1};
    const struct thrum_command *c = run->command;
    void *cpu[SIM_MAX_OPERANDS + 1];
    struct sim_scale_args args;
    uint64_t bytes, bad;
    const void *scalar;

    if (!c->bytes)
        return THRUM_OK;
    if (!translate_elements(run, &same, 1, cpu, &bad) || !(scalar = scalar_of(run, &bad)))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    if (!run->queue->piece_offset && scale_overlaps(c, cpu, scalar))
        return report(run, THRUM_RAS_BAD_PACKET, 0);
    bytes = take_piece(run, c->ndst + 1u, false);
    if (!bytes)
        return SIM_RUN_LARGE;
    args = (struct sim_scale_args){.dsts = cpu,
                                   .ndst = c->ndst,
                                   .src = cpu[c->ndst],
                                   .scalar = scalar,
                                   .count = bytes / thrum_datatype_size((thrum_datatype_t)c->dtype),
                                   .stream = c->flags & THRUM_CMD_FLAG_STREAM};
    sim_scale((thrum_datatype_t)c->dtype, &args);
    sim_count(&run->queue->bytes_reduced, bytes);
    return piece_done(run, bytes);
}

/* ---- synchronisation ------------------------------------------------------------------------------------------- */

/* The aligned word or line of one operand, or the status of the fault. */
static inline thrum_status_t sync_target(const struct run *run, unsigned i, uint64_t bytes,
                                         void **cpu_out, uint64_t *address_out)
{
    uint64_t address, bad;
    void *cpu;

    if (!operand_address(run, i, &address, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    if (sim_unlikely(address % (bytes > 8
                                    ? THRUM_LINE_BYTES
                                    : 8))) /* only an indirect one can be: others were checked */
        return report(run, THRUM_RAS_BAD_PACKET, address);
    cpu = sim_lookup(run->queue, address, bytes);
    if (sim_unlikely(!cpu))
        return report(run, THRUM_RAS_PAGE_FAULT, address);
    *cpu_out = cpu;
    *address_out = address;
    return THRUM_OK;
}

static inline thrum_status_t run_signal(struct run *run)
{
    const struct thrum_command *c = run->command;
    _Atomic uint64_t *semaphore;
    uint64_t address, bad;
    void *cpu;
    thrum_status_t status;

    if (c->flags & THRUM_CMD_FLAG_LENIENT && operand_address(run, 0, &address, &bad) &&
        is_of_peer(run, address) && !sim_lookup(run->queue, address, 8))
        return THRUM_OK;
    status = sync_target(run, 0, 8, &cpu, &address);
    if (status)
        return status;
    semaphore = cpu;
    if (!(c->flags & THRUM_CMD_FLAG_SET))
        atomic_fetch_add_explicit(semaphore, c->value, memory_order_release);
    else if (atomic_load_explicit(semaphore, memory_order_relaxed) < c->value)
        atomic_store_explicit(semaphore, c->value, memory_order_release);
    sim_wake(sim_shared_of(run->device, address));
    return THRUM_OK;
}

static thrum_status_t blocked_at(struct run *run, uint64_t address)
{
    atomic_store_explicit(&run->queue->blocked_on, sim_shared_of(run->device, address),
                          memory_order_relaxed);
    return SIM_RUN_BLOCKED;
}

/* On something that is no word in a device's memory, so that nobody will wake a sleeper. */
static thrum_status_t blocked_elsewhere(struct run *run)
{
    atomic_store_explicit(&run->queue->blocked_on, NULL, memory_order_relaxed);
    return SIM_RUN_BLOCKED;
}

static inline thrum_status_t run_wait(struct run *run)
{
    uint64_t address;
    void *cpu;
    thrum_status_t status = sync_target(run, 0, 8, &cpu, &address);

    if (status)
        return status;
    return sim_load_word(cpu) >= run->command->value ? THRUM_OK : blocked_at(run, address);
}

static inline thrum_status_t run_write_line(struct run *run)
{
    const struct thrum_command *c = run->command;
    const uint64_t head = offsetof(struct thrum_line, payload);
    uint64_t address, source, bad;
    void *payload, *line, *cpu;
    thrum_status_t status =
        sync_target(run, 0, c->ndst == 2 ? THRUM_LINE_BYTES : head + c->bytes, &line, &address);

    if (status)
        return status;
    payload = (char *)line + head; /* long ones leave the struct */
    if (c->ndst == 2 && c->bytes && !translate_all(run, 1, 1, c->bytes, 0, &payload, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    if (!c->nsrc) {
        if (c->bytes)
            memcpy(payload, c->payload, c->bytes);
    } else if (c->bytes) {
        if (!operand_address(run, c->ndst, &source, &bad))
            return report(run, THRUM_RAS_PAGE_FAULT, bad);
        cpu = find_operand(run, source, c->bytes);
        if (!cpu)
            return report(run, THRUM_RAS_PAGE_FAULT, source);
        memmove(payload, cpu, c->bytes);
    }
    atomic_store_explicit((_Atomic uint64_t *)line, c->value, memory_order_release);
    sim_wake(sim_shared_of(run->device, address));
    return THRUM_OK;
}

static inline thrum_status_t run_wait_line(struct run *run)
{
    const struct thrum_command *c = run->command;
    uint64_t address, flag;
    void *cpu;
    thrum_status_t status = sync_target(run, 0, THRUM_LINE_BYTES, &cpu, &address);

    if (status)
        return status;
    flag = sim_load_word(cpu);
    if ((flag & c->mask) < (c->value & c->mask))
        return blocked_at(run, address);
    return sim_likely(flag == c->value) ? THRUM_OK : THRUM_ERR_MISMATCH;
}

static thrum_status_t run_callback(struct run *run)
{
    thrum_status_t status = run->command->callback(run->command->argument);

    return status > 0 ? blocked_elsewhere(run) : status;
}

/* ---- PORT engine ----------------------------------------------------------------------------------------------- */

/* Whether even good commands have to be looked at one by one, for a fault script or a reset. */
static inline bool is_watchful(struct sim_device *device)
{
    return atomic_load_explicit(&device->reset_wanted, memory_order_relaxed) |
           atomic_load_explicit(&device->ras.armed, memory_order_relaxed) |
           atomic_load_explicit(&device->ras.throttled, memory_order_relaxed);
}

static thrum_status_t run_put(struct run *run)
{
    const struct thrum_command *c = run->command;
    uint64_t bad = SIM_NO_ADDRESS;
    thrum_status_t status;

    if (!atomic_load_explicit(&run->device->nports, memory_order_acquire))
        return report(run, THRUM_RAS_BAD_PACKET, 0);
    if (c->flags & THRUM_CMD_FLAG_FLUSH)
        status =
            sim_put_flush(run->queue, c,
                          !run->unchecked && !is_watchful(run->device) &&
                              !atomic_load_explicit(&run->queue->attention, memory_order_relaxed));
    else
        status = sim_put_run(run->queue, c, &bad);
    if (status == THRUM_ERR_FAULT && bad != SIM_NO_ADDRESS)
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    return status > 0 ? blocked_elsewhere(run) : status;
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static thrum_status_t check_direct(struct run *run)
{
    char why[160];

    if (!sim_command_check(run->device, run->command, why, sizeof why))
        return report(run, THRUM_RAS_BAD_PACKET, 0);
    return THRUM_OK;
}

static thrum_status_t scripted_fault(struct run *run)
{
    struct sim_fault fault;
    uint64_t address = 0, bad;

    if (!sim_script_command(run->device, run->queue, &fault))
        return THRUM_OK;
    if (fault.action != SIM_ACTION_EVENT)
        return SIM_RUN_BLOCKED; /* the engine thread resets; this queue goes no further */
    if (fault.has_argument)
        address = fault.argument;
    else if (run->command->ndst + run->command->nsrc && !operand_address(run, 0, &address, &bad))
        address = bad;
    return report(run, fault.kind, address);
}

static inline thrum_status_t run_engine(struct run *run)
{
    switch (run->command->opcode) {
    case THRUM_CMD_NOP:
        return THRUM_OK;
    case THRUM_CMD_COPY:
    case THRUM_CMD_FILL:
        return run_copy(run);
    case THRUM_CMD_REDUCE:
        return run_reduce(run);
    case THRUM_CMD_SCALE:
        return run_scale(run);
    case THRUM_CMD_SIGNAL:
        return run_signal(run);
    case THRUM_CMD_WAIT:
        return run_wait(run);
    case THRUM_CMD_WRITE_LINE:
        return run_write_line(run);
    case THRUM_CMD_WAIT_LINE:
        return run_wait_line(run);
    case THRUM_CMD_PUT:
        return run_put(run);
    case THRUM_CMD_CALLBACK:
        return run_callback(run);
    default:
        return report(run, THRUM_RAS_BAD_PACKET, 0);
    }
}

/* Before a command's first execution only, where something is to be known when it is met. */
static thrum_status_t meet(struct run *run)
{
    thrum_status_t status = THRUM_OK;

    if (atomic_load_explicit(&run->device->reset_wanted, memory_order_relaxed))
        return SIM_RUN_BLOCKED;
    if (run->unchecked)
        status = check_direct(run);
    if (!status && atomic_load_explicit(&run->device->ras.armed, memory_order_relaxed))
        status = scripted_fault(run);
    if (!status)
        run->queue->counted = true;
    return status;
}

static thrum_status_t run_throttled(struct run *run)
{
    int64_t start_ns = now_ns();
    thrum_status_t status = run_engine(run);

    sim_throttle(run->device, start_ns);
    return status;
}

static thrum_status_t run_watchfully(struct run *run)
{
    thrum_status_t status = THRUM_OK;

    if (!run->queue->counted)
        status = meet(run);
    if (status)
        return status;
    return atomic_load_explicit(&run->device->ras.throttled, memory_order_relaxed)
               ? run_throttled(run)
               : run_engine(run);
}

/* Status that a control thread wants for this submission; OK: go on. Clears what has passed. */
static thrum_status_t attend(struct sim_queue *queue, uint64_t ticket)
{
    thrum_status_t status =
        (thrum_status_t)atomic_load_explicit(&queue->stopped, memory_order_acquire);

    if (status)
        return status;
    pthread_mutex_lock(&queue->cancel_lock);
    for (size_t i = 0; i < queue->ncancels;) {
        struct sim_cancel *cancel = &queue->cancels[i];
        if (ticket > cancel->last) {
            *cancel = queue->cancels[--queue->ncancels];
            continue;
        }
        if (ticket >= cancel->first && !status)
            status = cancel->status;
        i++;
    }
    if (!queue->ncancels && !atomic_load_explicit(&queue->stopped, memory_order_relaxed))
        atomic_store_explicit(&queue->attention, 0, memory_order_relaxed);
    pthread_mutex_unlock(&queue->cancel_lock);
    return status;
}

static void end_submission(struct sim_queue *queue, uint64_t ticket)
{
    atomic_store_explicit(&queue->status[ticket % SIM_STATUS_KEPT], queue->ending,
                          memory_order_relaxed);
    atomic_store_explicit(&queue->done_ticket, ticket, memory_order_release);
    queue->ending = THRUM_OK;
    sim_wake(queue->device->shared);
}

/* What a cancel or a stop asks for, where one has been announced. */
static void heed(struct run *run)
{
    struct sim_queue *queue = run->queue;
    thrum_status_t status = attend(queue, run->ticket);

    /* a command that has begun is let finish, unless the queue is stopped */
    if (!status ||
        (queue->piece_offset && !atomic_load_explicit(&queue->stopped, memory_order_relaxed)))
        return;
    queue->piece_offset = 0;
    if (!queue->ending)
        queue->ending = status;
}

/* One command, or a piece of it. OK: it is done with, also if it has failed (queue->ending); else SIM_RUN_*. */
static inline thrum_status_t step(struct run *run)
{
    struct sim_queue *queue = run->queue;
    thrum_status_t status = THRUM_OK;

    if (sim_unlikely(atomic_load_explicit(&queue->attention, memory_order_acquire)))
        heed(run);
    if (sim_likely(!queue->ending)) {
        status = sim_unlikely(run->unchecked || is_watchful(run->device)) ? run_watchfully(run)
                                                                          : run_engine(run);
        if (status > 0)
            return status;
        if (sim_unlikely(status))
            queue->ending = status;
    }
    queue->counted = false;
    queue->flush_mark = 0;
    queue->piece_offset = 0; /* one that failed may have done a part */
    return THRUM_OK;
}

static enum sim_state execute(struct sim_queue *queue, uint64_t budget_bytes, bool pieces,
                              bool polls)
{
    struct run run = {.queue = queue,
                      .device = queue->device,
                      .command = &queue->current,
                      .budget = budget_bytes,
                      .pieces = pieces,
                      .polls = polls,
                      .unchecked = queue->flags & THRUM_QUEUE_DIRECT};
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);

    while (head != atomic_load_explicit(&queue->tail, memory_order_acquire)) {
        const struct sim_packet *packet = &queue->ring[head & queue->mask].packet;
        thrum_status_t status;
        bool is_last;

        run.ticket = packet->ticket;
        if (!queue->decoded) {
            sim_packet_decode(queue, head, &queue->current, queue->operands);
            queue->flush_mark = packet->form & SIM_PACKET_MARKED ? packet->value : 0;
            queue->decoded = true;
        }
        status = step(&run);
        if (status == SIM_RUN_BLOCKED)
            return SIM_BLOCKED;
        if (status == SIM_RUN_LARGE)
            return SIM_LARGE;
        sim_count(&queue->progress, 1);
        if (status == SIM_RUN_PIECE) {
            if (!run.budget)
                return SIM_LARGE;
            continue;
        }
        queue->decoded = false;
        sim_count(&queue->commands, 1);
        head += packet->slots;
        is_last = packet->form & SIM_PACKET_LAST;
        atomic_store_explicit(&queue->head, head, memory_order_release); /* the packet is gone */
        if (is_last)
            end_submission(queue, run.ticket);
    }
    return SIM_EMPTY;
}

enum sim_state sim_execute(struct sim_queue *queue, uint64_t budget_bytes, bool pieces)
{
    return execute(queue, budget_bytes, pieces, false);
}

enum sim_state sim_execute_by_poll(struct sim_queue *queue)
{
    return execute(queue, SIM_BUDGET_SLICE, true, true);
}

/* The command waits for a peer, and is not one for the short way. */
static thrum_status_t step_again(struct run *run)
{
    struct sim_patience patience = sim_patience_begin(run->queue);
    thrum_status_t status = SIM_RUN_BLOCKED;

    while (status == SIM_RUN_BLOCKED && sim_patience_again(&patience))
        status = step(run);
    sim_patience_end(run->queue, status != SIM_RUN_BLOCKED);
    return status;
}

bool sim_execute_patiently(struct sim_queue *queue)
{
    struct sim_patience patience = sim_patience_begin(queue);
    enum sim_state state = sim_execute(queue, SIM_BUDGET_SUBMIT, false);

    if (state != SIM_BLOCKED || sim_is_deferred(&queue->current))
        return state == SIM_EMPTY;
    if (sim_awaits_port(queue, &queue->current))
        return sim_ports_progress(queue->device) &&
               sim_execute(queue, SIM_BUDGET_SUBMIT, false) == SIM_EMPTY;
    while (state == SIM_BLOCKED && sim_patience_again(&patience))
        state = sim_execute(queue, SIM_BUDGET_SUBMIT, false);
    sim_patience_end(queue, state == SIM_EMPTY);
    return state == SIM_EMPTY;
}

/* From command `done` on, which is no simple one. */
static __attribute__((noinline)) size_t
execute_rest(struct sim_queue *queue, struct sim_submission *s, size_t done, bool quick)
{
    struct run run = {.queue = queue,
                      .device = queue->device,
                      .ticket = s->ticket,
                      .budget = SIM_BUDGET_SUBMIT,
                      .unchecked = s->unchecked};

    while (done < s->n) {
        thrum_status_t status;

        if (done == s->nfirst)
            sim_do_meanwhile(s);
        run.command = &s->commands[done];
        status = step(&run);
        quick = quick && !queue->ending;
        if (status == SIM_RUN_BLOCKED && !quick) {
            status = step_again(&run);
            quick = quick && !queue->ending; /* what came may have been a failure */
        }
        if (status)
            break;
        done++;
        if (quick)
            done = sim_execute_near(queue, s, done);
    }
    return done;
}

size_t sim_execute_now(struct sim_queue *queue, struct sim_submission *s)
{
    bool quick = !s->unchecked && !is_watchful(queue->device) && !queue->ending;
    size_t done = 0;

    sim_publish_core(queue->device);
    if (sim_likely(quick))
        done = sim_execute_near(queue, s, 0);
    if (sim_unlikely(done < s->n))
        done = execute_rest(queue, s, done, quick);
    sim_count(&queue->commands, done);
    sim_count(&queue->progress, done);
    if (done == s->n)
        end_submission(queue, s->ticket);
    return done;
}
