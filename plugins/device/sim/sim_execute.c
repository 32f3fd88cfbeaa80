/*
 * The packet executor: one for both ways in, for all engines. Called with the queue's ownership by whoever submits,
 * polls or waits, and by the engine thread. It takes no lock, allocates nothing and reads no clock.
 */
#include "sim_internal.h"

#include <string.h>

#include "sim_reduce.h"

#define PIECE_BYTES \
    (256u << 10) /* of all operands together, roughly: how long the rest may have to wait */

/* Result of one packet that is no thrum_status_t of its own. */
#define SIM_RUN_BLOCKED ((thrum_status_t)THRUM_IN_PROGRESS)
#define SIM_RUN_PIECE ((thrum_status_t)2) /* a piece is done, more are left */
#define SIM_RUN_LARGE ((thrum_status_t)3) /* not begun: over budget */

struct run {
    struct sim_queue *queue;
    struct sim_device *device;
    const struct sim_packet *packet;
    uint64_t position;
    uint64_t budget;
    bool pieces;
};

static const struct thrum_operand *long_operand(const struct run *run, unsigned i)
{
    return &run->queue->ring[(run->position + 1 + i / 4) & run->queue->mask].operands[i % 4];
}

static unsigned operand_slots(const struct sim_packet *p)
{
    return p->form & SIM_PACKET_SHORT ? 0 : ((unsigned)p->ndst + p->nsrc + 3) / 4;
}

/* ---- faults ---------------------------------------------------------------------------------------------------- */

static void stop(struct sim_queue *queue, thrum_status_t status)
{
    int none = THRUM_OK;

    atomic_compare_exchange_strong_explicit(&queue->stopped, &none, status, memory_order_acq_rel,
                                            memory_order_acquire);
    atomic_store_explicit(&queue->attention, 1, memory_order_release);
}

/* A peer's memory that is gone, in a command that says that this is no reason to stop. */
static bool is_contained(const struct run *run, enum thrum_ras_kind kind, uint64_t address)
{
    return kind == THRUM_RAS_PAGE_FAULT && (run->packet->flags & THRUM_CMD_FLAG_CONTAIN) &&
           sim_is_device_address(address) &&
           sim_address_slot(address) !=
               atomic_load_explicit(&run->device->slot, memory_order_relaxed);
}

static thrum_status_t report(const struct run *run, enum thrum_ras_kind kind, uint64_t address)
{
    thrum_status_t status = kind == THRUM_RAS_BAD_PACKET ? THRUM_ERR_BAD_PACKET : THRUM_ERR_FAULT;
    struct thrum_ras_event event = {.kind = kind,
                                    .engine = sim_opcode_engine(run->packet->opcode),
                                    .queue_id = run->queue->id,
                                    .ticket = run->packet->ticket,
                                    .address = address,
                                    .opcode = run->packet->opcode};

    sim_ras_event(run->device, event);
    if (!is_contained(run, kind, address))
        stop(run->queue, status);
    return status;
}

/* ---- operands -------------------------------------------------------------------------------------------------- */

static uint64_t load_word(void *cpu)
{
    return atomic_load_explicit((_Atomic uint64_t *)cpu, memory_order_acquire);
}

/* Adds the word at `indirect`. On a fault *bad_out is the address that has none. */
static bool resolve(struct sim_device *device, uint64_t base, uint64_t indirect,
                    uint64_t *address_out, uint64_t *bad_out)
{
    if (indirect) {
        void *cpu = indirect % 8 ? NULL : sim_translate(device, indirect, 8);
        if (!cpu) {
            *bad_out = indirect;
            return false;
        }
        base += load_word(cpu);
    }
    *address_out = base;
    return true;
}

static bool operand_address(const struct run *run, unsigned i, uint64_t *address_out,
                            uint64_t *bad_out)
{
    const struct thrum_operand *o;

    if (sim_likely(run->packet->form & SIM_PACKET_SHORT)) {
        *address_out = run->packet->base[i];
        return true;
    }
    o = long_operand(run, i);
    return resolve(run->device, o->base, o->indirect, address_out, bad_out);
}

/* Host pointers of n operands from `first`, each for `bytes`, moved on by `offset`. */
static bool translate_all(const struct run *run, unsigned first, unsigned n, uint64_t bytes,
                          uint64_t offset, void **cpu_out, uint64_t *bad_out)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t address;
        void *cpu;
        if (!operand_address(run, first + i, &address, bad_out))
            return false;
        cpu = sim_translate(run->device, address, bytes);
        if (sim_unlikely(!cpu)) {
            *bad_out = address;
            return false;
        }
        cpu_out[i] = (char *)cpu + offset;
    }
    return true;
}

static const void *payload_of(const struct run *run)
{
    uint64_t at = run->position + 1 + operand_slots(run->packet);
    return run->queue->ring[at & run->queue->mask].payload;
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

static struct widths widths_of(const struct sim_packet *p)
{
    uint64_t wide = sim_type_widens((thrum_datatype_t)p->dtype)
                        ? sizeof(float) / thrum_datatype_size((thrum_datatype_t)p->dtype)
                        : 1;
    bool all = p->flags & THRUM_CMD_FLAG_WIDE_SRC;

    return (struct widths){.dst = p->flags & THRUM_CMD_FLAG_WIDE_DST ? wide : 1,
                           .first = all || (p->flags & THRUM_CMD_FLAG_WIDE_FIRST) ? wide : 1,
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
    const struct sim_packet *p = run->packet;
    uint64_t offset = run->queue->piece_offset;

    return translate_all(run, 0, p->ndst, p->bytes * widths->dst, offset * widths->dst, cpu_out,
                         bad_out) &&
           translate_all(run, p->ndst, 1, p->bytes * widths->first, offset * widths->first,
                         cpu_out + p->ndst, bad_out) &&
           translate_all(run, p->ndst + 1u, nsrc - 1, p->bytes * widths->others,
                         offset * widths->others, cpu_out + p->ndst + 1, bad_out);
}

/* Bytes to do now, from piece_offset; 0: over budget. */
static uint64_t take_piece(struct run *run, unsigned operands, bool whole)
{
    uint64_t done = run->queue->piece_offset;
    uint64_t left = run->packet->bytes - done;
    /* whole pages, so that a piece ends between elements of any type */
    uint64_t most = PIECE_BYTES / operands * 2 & ~(uint64_t)(SIM_PAGE_BYTES - 1);
    uint64_t cost;

    if (left * operands <= run->budget) {
        run->budget -= left * operands;
        return whole || left <= PIECE_BYTES ? left : PIECE_BYTES;
    }
    if (!run->pieces && !done)
        return 0;
    if (most < SIM_PAGE_BYTES * 2)
        most = SIM_PAGE_BYTES * 2;
    left = whole ? left : min_u64(left, most);
    cost = left * operands;
    run->budget = run->budget > cost ? run->budget - cost : 0;
    return left;
}

static void add_relaxed(_Atomic uint64_t *counter, uint64_t n)
{
    /* one writer at a time: the owner */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static thrum_status_t piece_done(struct run *run, uint64_t bytes)
{
    run->queue->piece_offset += bytes;
    if (run->queue->piece_offset < run->packet->bytes)
        return SIM_RUN_PIECE;
    run->queue->piece_offset = 0;
    return THRUM_OK;
}

static thrum_status_t run_copy(struct run *run)
{
    const struct sim_packet *p = run->packet;
    bool fill = p->opcode == THRUM_CMD_FILL;
    uint64_t offset = run->queue->piece_offset, bytes, bad;
    void *cpu[SIM_MAX_OPERANDS + 1];
    const void *src;
    bool whole;

    if (!p->bytes)
        return THRUM_OK;
    if (!translate_all(run, 0, (unsigned)p->ndst + p->nsrc, p->bytes, offset, cpu, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    src = cpu[p->ndst]; /* not set for FILL */
    whole = !fill && p->ndst == 1 && overlap(cpu[0], p->bytes, src, p->bytes);
    bytes = take_piece(run, (unsigned)p->ndst + 1, whole);
    if (!bytes)
        return SIM_RUN_LARGE;
    if (fill)
        for (unsigned i = 0; i < p->ndst; i++)
            memset(cpu[i], (int)p->value, bytes);
    else
        sim_copy(cpu, p->ndst, src, bytes, p->flags & THRUM_CMD_FLAG_STREAM);
    add_relaxed(&run->queue->bytes_copied, bytes * p->ndst);
    return piece_done(run, bytes);
}

static thrum_status_t reduce_piece(const struct sim_packet *p, const struct sim_reduce_args *args)
{
    thrum_datatype_t dtype = (thrum_datatype_t)p->dtype;
    thrum_status_t status;

    if (p->redop != THRUM_REDOP_CALLBACK) {
        sim_reduce(dtype, (thrum_redop_t)p->redop, args);
        return THRUM_OK;
    }
    status = sim_reduce_by_callback(dtype, p->reduce, p->reduce_context, args);
    return status > 0 ? THRUM_ERR_INVALID_USAGE : status; /* it cannot ask to be called again */
}

static thrum_status_t run_reduce(struct run *run)
{
    const struct sim_packet *p = run->packet;
    const struct widths widths = widths_of(p);
    void *cpu[2 * SIM_MAX_OPERANDS];
    struct sim_reduce_args args;
    thrum_status_t status;
    uint64_t bytes, bad;

    if (!p->bytes)
        return THRUM_OK;
    if (!translate_elements(run, &widths, p->nsrc, cpu, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    if (!run->queue->piece_offset &&
        reduce_overlaps(cpu, p->ndst, cpu + p->ndst, p->nsrc, p->bytes, &widths))
        return report(run, THRUM_RAS_BAD_PACKET, 0);
    bytes = take_piece(
        run, (unsigned)(p->ndst * widths.dst + widths.first + (p->nsrc - 1u) * widths.others),
        false);
    if (!bytes)
        return SIM_RUN_LARGE;
    args =
        (struct sim_reduce_args){.dsts = cpu,
                                 .srcs = (const void *const *)(cpu + p->ndst),
                                 .ndst = p->ndst,
                                 .nsrc = p->nsrc,
                                 .count = bytes / thrum_datatype_size((thrum_datatype_t)p->dtype),
                                 .divisor = p->redop == THRUM_AVG && p->divisor ? p->divisor : 1,
                                 .stream = p->flags & THRUM_CMD_FLAG_STREAM,
                                 .wide_dst = p->flags & THRUM_CMD_FLAG_WIDE_DST,
                                 .wide_src = p->flags & THRUM_CMD_FLAG_WIDE_SRC,
                                 .wide_first = p->flags & THRUM_CMD_FLAG_WIDE_FIRST};
    status = reduce_piece(p, &args);
    if (status)
        return status;
    add_relaxed(&run->queue->bytes_reduced, bytes * p->nsrc);
    return piece_done(run, bytes);
}

/* The scalar, in the packet or in memory that no destination may reach into. */
static const void *scalar_of(const struct run *run, uint64_t *bad_out)
{
    void *cpu;

    if (run->packet->form & SIM_PACKET_PAYLOAD)
        return payload_of(run);
    return translate_all(run, run->packet->ndst + 1u, 1,
                         thrum_datatype_size((thrum_datatype_t)run->packet->dtype), 0, &cpu,
                         bad_out)
               ? cpu
               : NULL;
}

static bool scale_overlaps(const struct sim_packet *p, void *const *cpu, const void *scalar)
{
    static const struct widths same = {1, 1, 1};
    size_t size = thrum_datatype_size((thrum_datatype_t)p->dtype);

    for (unsigned d = 0; d < p->ndst; d++)
        if (overlap(cpu[d], p->bytes, scalar, size))
            return true;
    return reduce_overlaps(cpu, p->ndst, cpu + p->ndst, 1, p->bytes, &same);
}

static thrum_status_t run_scale(struct run *run)
{
    static const struct widths same = {1, 1, 1};
    const struct sim_packet *p = run->packet;
    void *cpu[SIM_MAX_OPERANDS + 1];
    struct sim_scale_args args;
    uint64_t bytes, bad;
    const void *scalar;

    if (!p->bytes)
        return THRUM_OK;
    if (!translate_elements(run, &same, 1, cpu, &bad) || !(scalar = scalar_of(run, &bad)))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    if (!run->queue->piece_offset && scale_overlaps(p, cpu, scalar))
        return report(run, THRUM_RAS_BAD_PACKET, 0);
    bytes = take_piece(run, p->ndst + 1u, false);
    if (!bytes)
        return SIM_RUN_LARGE;
    args = (struct sim_scale_args){.dsts = cpu,
                                   .ndst = p->ndst,
                                   .src = cpu[p->ndst],
                                   .scalar = scalar,
                                   .count = bytes / thrum_datatype_size((thrum_datatype_t)p->dtype),
                                   .stream = p->flags & THRUM_CMD_FLAG_STREAM};
    sim_scale((thrum_datatype_t)p->dtype, &args);
    add_relaxed(&run->queue->bytes_reduced, bytes);
    return piece_done(run, bytes);
}

/* ---- synchronisation ------------------------------------------------------------------------------------------- */

/* The aligned word or line of one operand, or the status of the fault. */
static thrum_status_t sync_target(const struct run *run, unsigned i, unsigned bytes, void **cpu_out,
                                  uint64_t *address_out)
{
    uint64_t address, bad;
    void *cpu;

    if (!operand_address(run, i, &address, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    if (sim_unlikely(address % bytes)) /* only an indirect one can be: others were checked */
        return report(run, THRUM_RAS_BAD_PACKET, address);
    cpu = sim_translate(run->device, address, bytes);
    if (sim_unlikely(!cpu))
        return report(run, THRUM_RAS_PAGE_FAULT, address);
    *cpu_out = cpu;
    *address_out = address;
    return THRUM_OK;
}

static thrum_status_t run_signal(struct run *run)
{
    const struct sim_packet *p = run->packet;
    _Atomic uint64_t *semaphore;
    uint64_t address;
    void *cpu;
    thrum_status_t status = sync_target(run, 0, 8, &cpu, &address);

    if (status)
        return status;
    semaphore = cpu;
    if (!(p->flags & THRUM_CMD_FLAG_SET))
        atomic_fetch_add_explicit(semaphore, p->value, memory_order_release);
    else if (atomic_load_explicit(semaphore, memory_order_relaxed) < p->value)
        atomic_store_explicit(semaphore, p->value, memory_order_release);
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

static thrum_status_t run_wait(struct run *run)
{
    uint64_t address;
    void *cpu;
    thrum_status_t status = sync_target(run, 0, 8, &cpu, &address);

    if (status)
        return status;
    return load_word(cpu) >= run->packet->value ? THRUM_OK : blocked_at(run, address);
}

static thrum_status_t run_write_line(struct run *run)
{
    const struct sim_packet *p = run->packet;
    struct thrum_line *line;
    uint64_t address, source, bad;
    void *cpu;
    thrum_status_t status = sync_target(run, 0, THRUM_LINE_BYTES, &cpu, &address);

    if (status)
        return status;
    line = cpu;
    if (p->form & SIM_PACKET_PAYLOAD) {
        memcpy(line->payload, payload_of(run), p->bytes);
    } else if (p->bytes) {
        if (!operand_address(run, 1, &source, &bad))
            return report(run, THRUM_RAS_PAGE_FAULT, bad);
        cpu = sim_translate(run->device, source, p->bytes);
        if (!cpu)
            return report(run, THRUM_RAS_PAGE_FAULT, source);
        memmove(line->payload, cpu, p->bytes);
    }
    atomic_store_explicit((_Atomic uint64_t *)&line->flag, p->value, memory_order_release);
    sim_wake(sim_shared_of(run->device, address));
    return THRUM_OK;
}

static thrum_status_t run_wait_line(struct run *run)
{
    const struct sim_packet *p = run->packet;
    uint64_t address, flag;
    void *cpu;
    thrum_status_t status = sync_target(run, 0, THRUM_LINE_BYTES, &cpu, &address);

    if (status)
        return status;
    flag = load_word(cpu);
    if ((flag & p->mask) < (p->value & p->mask))
        return blocked_at(run, address);
    return sim_likely(flag == p->value) ? THRUM_OK : THRUM_ERR_MISMATCH;
}

static thrum_status_t run_callback(struct run *run)
{
    thrum_status_t status = run->packet->callback(run->packet->argument);

    return status > 0 ? blocked_elsewhere(run) : status;
}

/* ---- PORT engine ----------------------------------------------------------------------------------------------- */

static thrum_status_t fill_put(struct run *run, const struct thrum_put *put,
                               struct thrum_fabric_put *out)
{
    const struct sim_packet *p = run->packet;
    uint64_t bad, source;

    *out = (struct thrum_fabric_put){.local_region = put->local_region,
                                     .bytes = p->bytes,
                                     .signal_key = put->signal_key,
                                     .signal_offset = put->signal_offset,
                                     .signal_value = p->value};
    if (!resolve(run->device, put->remote_key, put->remote_key_indirect, &out->remote_key, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    if (p->ndst && !operand_address(run, 0, &out->remote_offset, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    if (!p->bytes)
        return THRUM_OK;
    if (p->form & SIM_PACKET_PAYLOAD) {
        out->local = payload_of(run);
        out->local_region = NULL;
        out->flags = THRUM_PUT_INLINE;
        return THRUM_OK;
    }
    if (!operand_address(run, p->ndst, &source, &bad))
        return report(run, THRUM_RAS_PAGE_FAULT, bad);
    out->local = sim_translate(run->device, source, p->bytes);
    if (!out->local)
        return report(run, THRUM_RAS_PAGE_FAULT, source);
    if (!put->local_region)
        out->flags = THRUM_PUT_INLINE;
    return THRUM_OK;
}

static thrum_status_t run_put(struct run *run)
{
    const struct sim_packet *p = run->packet;
    uint64_t at = run->position + 1 + operand_slots(p) + !!(p->form & SIM_PACKET_PAYLOAD);
    const struct thrum_put *put = &run->queue->ring[at & run->queue->mask].put;
    const struct thrum_fabric_ops *fabric;
    struct thrum_fabric_put request;
    thrum_status_t status;

    if (!atomic_load_explicit(&run->device->nports, memory_order_acquire))
        return report(run, THRUM_RAS_BAD_PACKET, 0);
    fabric = run->device->ports[0].fabric;
    if (p->flags & THRUM_CMD_FLAG_FLUSH) {
        status = fabric->flush(put->peer);
    } else {
        status = fill_put(run, put, &request);
        if (status)
            return status;
        status = fabric->put_signal(put->peer, &request);
        if (!status)
            add_relaxed(&run->queue->bytes_put, p->bytes);
    }
    return status > 0 ? blocked_elsewhere(run) : status;
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static thrum_status_t check_direct(struct run *run)
{
    struct thrum_operand operands[2 * SIM_MAX_OPERANDS];
    struct thrum_command command;
    char why[160];

    if (run->packet->form & SIM_PACKET_MALFORMED)
        return report(run, THRUM_RAS_BAD_PACKET, 0);
    sim_packet_decode(run->queue, run->position, &command, operands);
    if (!sim_command_check(run->device, &command, why, sizeof why))
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
    else if (run->packet->ndst + run->packet->nsrc && !operand_address(run, 0, &address, &bad))
        address = bad;
    return report(run, fault.kind, address);
}

static thrum_status_t run_engine(struct run *run)
{
    switch (run->packet->opcode) {
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

/* Before a packet's first execution only: what is known when it is met. */
static thrum_status_t meet(struct run *run)
{
    thrum_status_t status = THRUM_OK;

    if (sim_unlikely(run->queue->flags & THRUM_QUEUE_DIRECT))
        status = check_direct(run);
    if (!status &&
        sim_unlikely(atomic_load_explicit(&run->device->ras.armed, memory_order_relaxed)))
        status = scripted_fault(run);
    return status;
}

static thrum_status_t run_packet(struct run *run)
{
    struct sim_queue *queue = run->queue;
    thrum_status_t status;

    if (!queue->counted) {
        if (sim_unlikely(atomic_load_explicit(&run->device->reset_wanted, memory_order_relaxed)))
            return SIM_RUN_BLOCKED;
        status = meet(run);
        if (status)
            return status;
        queue->counted = true;
    }
    if (sim_unlikely(atomic_load_explicit(&run->device->ras.throttled, memory_order_relaxed))) {
        int64_t start_ns = now_ns();
        status = run_engine(run);
        sim_throttle(run->device, start_ns);
        return status;
    }
    return run_engine(run);
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

static void retire(struct sim_queue *queue, const struct sim_packet *packet, uint64_t head)
{
    uint64_t ticket = packet->ticket;
    bool last = packet->form & SIM_PACKET_LAST;

    queue->counted = false;
    queue->piece_offset = 0; /* one that failed may have done a part */
    add_relaxed(&queue->commands, 1);
    add_relaxed(&queue->progress, 1);
    atomic_store_explicit(&queue->head, head + packet->slots, memory_order_release);
    if (last)
        end_submission(queue, ticket);
}

enum sim_state sim_execute(struct sim_queue *queue, uint64_t budget_bytes, bool pieces)
{
    struct run run = {
        .queue = queue, .device = queue->device, .budget = budget_bytes, .pieces = pieces};
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);

    while (head != atomic_load_explicit(&queue->tail, memory_order_acquire)) {
        thrum_status_t status;

        run.packet = &queue->ring[head & queue->mask].packet;
        run.position = head;
        if (sim_unlikely(atomic_load_explicit(&queue->attention, memory_order_acquire)) &&
            (status = attend(queue, run.packet->ticket)) != THRUM_OK) {
            /* a command that has begun is let finish, unless the queue is stopped */
            if (!queue->piece_offset ||
                atomic_load_explicit(&queue->stopped, memory_order_relaxed)) {
                queue->piece_offset = 0;
                if (!queue->ending)
                    queue->ending = status;
            }
        }
        if (sim_likely(!queue->ending)) {
            status = run_packet(&run);
            if (status == SIM_RUN_BLOCKED)
                return SIM_BLOCKED;
            if (status == SIM_RUN_LARGE)
                return SIM_LARGE;
            if (status == SIM_RUN_PIECE) {
                add_relaxed(&queue->progress, 1);
                if (!run.budget)
                    return SIM_LARGE;
                continue;
            }
            if (sim_unlikely(status))
                queue->ending = status;
        }
        retire(queue, run.packet, head);
        head = atomic_load_explicit(&queue->head, memory_order_relaxed);
    }
    return SIM_EMPTY;
}
