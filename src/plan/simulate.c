/*
 * simulate: see simulate.h. What orders ops is what orders them in plan_check: ops of a lane run in order; a WAIT takes the
 * first raise that is high enough. A lane runs ahead until what it waits for has not been sent; messages between hosts are
 * events, which a heap hands out in the order of time, because what shares a stream or port depends on that. No event can make
 * an earlier one: everything that it causes is later. So each message meets a port in the order of time, and nothing depends on
 * the order in which lanes are run, or ranks were added.
 *
 * Every time is kept with the path that led to it: whoever waits takes over the path of what it waited for. So the critical path
 * is there when the last rank ends, and nothing has to be kept for it.
 */
#include "plan/simulate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define NONE UINT32_MAX
#define MIN_ROOM 16

/* Semaphores have their lane for a kind. */
enum { KIND_ARRIVE = PLAN_MAX_LANES, KIND_INLINE, KINDS };

struct op { /* of a lane */
    uint8_t opcode, flags;
    uint32_t channel; /* of PUT, SIGNAL, WAIT */
    uint64_t bytes; /* COPY, REDUCE: read and written, but for lines; else sent */
    uint64_t value;
};

/* A semaphore, or the line of a pair. */
struct channel {
    int from, to;
    uint32_t kind;
    uint32_t first, last; /* messages that have come and were not waited for */
    uint64_t seen; /* highest value that was */
    double
        last_us; /* when the last one came: none overtakes another, nor data that tell of nothing */
};

/* path.us is when it was sent, then when its last byte has left, then when it is seen. */
struct message {
    struct simulate_path path;
    uint32_t channel, next;
    uint64_t bytes, value; /* value 0: nobody waits for it */
    uint64_t order, id; /* of events of one time; for timelines */
};

struct lane {
    struct op *ops;
    size_t nops, room, next;
    uint32_t blocked_on; /* channel; NONE: it runs, or has ended */
    struct simulate_path path;
};

/* What a rank sends to other hosts. */
struct stream {
    uint32_t first, last; /* messages behind the one that is on its way out */
    bool busy; /* one is */
    bool held_by_port; /* it is, so that those behind it wait for a port, too */
};

struct port {
    double free_us; /* from when on */
    uint64_t bytes;
};

enum event_kind { STREAM_FREE, SENT, HEAD_IN };
struct event {
    double us;
    uint64_t order; /* the kind, then who sent it: different for all events of a time */
    uint32_t index; /* message; STREAM_FREE: rank */
};

struct simulation {
    struct simulate_machine machine;
    int n, nhosts;
    int *host;
    uint64_t nops, most_ops;
    bool many_lanes;
    struct lane *lanes; /* n x PLAN_MAX_LANES */
    struct channel *channels;
    uint32_t nchannels, channels_room;
    uint32_t *table; /* of channels, open addressing, a power of two; 0: free */
    uint64_t table_size;
    struct stream *streams;
    struct port *out, *in; /* of hosts */
    /* The run. */
    struct message *messages;
    uint32_t nmessages, messages_room, free_message;
    struct event *heap;
    size_t nheap, heap_room;
    uint32_t *runnable; /* lanes; room for all */
    size_t nrunnable;
    uint64_t ids;
    simulate_slice_fn slice;
    void *slice_argument;
    thrum_status_t status;
};

const char *simulate_part_key(enum simulate_part part)
{
    static const char *const keys[] = {
#define X(name, key, text) key,
        SIMULATE_PART_MAP(X)
#undef X
    };
    return keys[part];
}

const char *simulate_part_text(enum simulate_part part)
{
    static const char *const texts[] = {
#define X(name, key, text) text,
        SIMULATE_PART_MAP(X)
#undef X
    };
    return texts[part];
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static thrum_status_t no_memory(const struct simulation *s)
{
    return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to simulate %d ranks with %" PRIu64 " ops",
                      s->n, s->nops);
}

static bool grow(void **array, size_t room, size_t item_bytes)
{
    void *moved = realloc(*array, room * item_bytes);

    if (moved)
        *array = moved;
    return moved != NULL;
}

void simulate_destroy(struct simulation *s)
{
    if (!s)
        return;
    for (size_t i = 0; s->lanes && i < (size_t)s->n * PLAN_MAX_LANES; i++)
        free(s->lanes[i].ops);
    free(s->lanes);
    free(s->host);
    free(s->channels);
    free(s->table);
    free(s->streams);
    free(s->out);
    free(s->in);
    free(s->messages);
    free(s->heap);
    free(s->runnable);
    free(s);
}

thrum_status_t simulate_create(const struct simulate_machine *machine, int nranks, const int *host,
                               uint64_t most_ops, struct simulation **simulation_out)
{
    struct simulation *s = calloc(1, sizeof *s);
    size_t n = (size_t)nranks;

    if (!s)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to simulate %d ranks", nranks);
    s->machine = *machine;
    s->n = nranks;
    s->nhosts = 1;
    s->most_ops = most_ops;
    for (size_t r = 0; host && r < n; r++)
        s->nhosts = host[r] >= s->nhosts ? host[r] + 1 : s->nhosts;
    s->host = calloc(n, sizeof *s->host);
    s->lanes = calloc(n * PLAN_MAX_LANES, sizeof *s->lanes);
    s->streams = calloc(n, sizeof *s->streams);
    s->runnable = calloc(n * PLAN_MAX_LANES, sizeof *s->runnable);
    s->out = calloc((size_t)s->nhosts, sizeof *s->out);
    s->in = calloc((size_t)s->nhosts, sizeof *s->in);
    if (!s->host || !s->lanes || !s->streams || !s->runnable || !s->out || !s->in) {
        simulate_destroy(s);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to simulate %d ranks", nranks);
    }
    if (host)
        memcpy(s->host, host, n * sizeof *host);
    *simulation_out = s;
    return THRUM_OK;
}

/* ---- adding ------------------------------------------------------------------------------------------------------ */

static uint64_t slot_of(const struct simulation *s, int from, int to, uint32_t kind)
{
    uint64_t key = ((uint64_t)from * (uint64_t)s->n + (uint64_t)to) * KINDS + kind;
    uint64_t slot = key * 0x9e3779b97f4a7c15u >> 20 & (s->table_size - 1);

    for (; s->table[slot]; slot = (slot + 1) & (s->table_size - 1)) {
        const struct channel *c = &s->channels[s->table[slot] - 1];
        if (c->from == from && c->to == to && c->kind == kind)
            break;
    }
    return slot;
}

static bool make_room_for_channel(struct simulation *s)
{
    uint32_t room = s->channels_room ? s->channels_room + s->channels_room / 2 : MIN_ROOM;

    if (s->nchannels == s->channels_room) {
        if (!grow((void **)&s->channels, room, sizeof *s->channels))
            return false;
        s->channels_room = room;
    }
    if (s->nchannels >= s->table_size / 2) {
        uint64_t size = s->table_size ? 2 * s->table_size : 4 * MIN_ROOM;
        uint32_t *table = calloc(size, sizeof *table);

        if (!table)
            return false;
        free(s->table);
        s->table = table;
        s->table_size = size;
        for (uint32_t i = 0; i < s->nchannels; i++) {
            const struct channel *c = &s->channels[i];
            table[slot_of(s, c->from, c->to, c->kind)] = i + 1;
        }
    }
    return true;
}

static bool find_channel(struct simulation *s, int from, int to, uint32_t kind,
                         uint32_t *channel_out)
{
    uint64_t slot;

    if (!make_room_for_channel(s))
        return false;
    slot = slot_of(s, from, to, kind);
    if (!s->table[slot]) {
        s->channels[s->nchannels++] = (struct channel){.from = from, .to = to, .kind = kind};
        s->table[slot] = s->nchannels;
    }
    *channel_out = s->table[slot] - 1;
    return true;
}

/* What a COPY or REDUCE reads and writes, or what the source of a PUT is long. */
static uint64_t moved_bytes(const struct plan *plan, const struct plan_op *op,
                            const struct plan_operand *operands)
{
    int n = op->opcode == PLAN_PUT ? 0 : op->ndst;
    uint64_t bytes = 0;

    for (int i = 0; i < n + op->nsrc; i++) {
        const struct plan_operand *o = &operands[i < n ? i : i - n + op->ndst];
        if (o->space != PLAN_LINE || op->opcode == PLAN_PUT)
            bytes += op->bytes * (o->space == PLAN_WIDE ? plan_widening(&plan->params) : 1);
    }
    return bytes;
}

thrum_status_t simulate_take(void *simulation, const struct plan *plan, const struct plan_op *op,
                             const struct plan_operand *operands)
{
    struct simulation *s = simulation;
    int rank = plan->params.rank;
    struct lane *lane = &s->lanes[(size_t)rank * PLAN_MAX_LANES + op->lane];
    struct op own = {op->opcode, op->flags, NONE, op->bytes, op->value};
    uint32_t kind = op->flags & PLAN_INLINE   ? KIND_INLINE
                    : op->flags & PLAN_ARRIVE ? KIND_ARRIVE
                                              : op->lane;
    bool waits = op->opcode == PLAN_WAIT;

    if (s->nops >= s->most_ops)
        return thrum_fail(THRUM_ERR_UNSUPPORTED,
                          "the plans of %d ranks have more than %" PRIu64
                          " ops, of rank %d on: they would not fit the memory allowed",
                          s->n, s->most_ops, rank);
    if (op->opcode <= PLAN_PUT)
        own.bytes = moved_bytes(plan, op, operands);
    if (op->opcode >= PLAN_PUT && kind >= KIND_ARRIVE)
        own.value = 1; /* lines come once */
    if (op->opcode >= PLAN_PUT &&
        !find_channel(s, waits ? op->peer : rank, waits ? rank : op->peer, kind, &own.channel))
        return no_memory(s);
    if (lane->nops == lane->room) {
        size_t room = lane->room ? lane->room + lane->room / 2 : MIN_ROOM;

        if (!grow((void **)&lane->ops, room, sizeof *lane->ops))
            return no_memory(s);
        lane->room = room;
    }
    lane->ops[lane->nops++] = own;
    s->many_lanes |= op->lane > 0;
    s->nops++;
    return THRUM_OK;
}

thrum_status_t simulate_add(struct simulation *s, const struct plan *plan)
{
    thrum_status_t status = plan->status;

    for (size_t i = 0; i < plan->nops && !status; i++)
        status = simulate_take(s, plan, &plan->ops[i], plan->operands + plan->ops[i].first_operand);
    return status;
}

/* ---- messages and events ----------------------------------------------------------------------------------------- */

static uint32_t new_message(struct simulation *s)
{
    uint32_t index = s->free_message;

    if (index != NONE) {
        s->free_message = s->messages[index].next;
        return index;
    }
    if (s->nmessages == s->messages_room) {
        uint32_t room = s->messages_room ? s->messages_room * 2 : MIN_ROOM;

        if (!grow((void **)&s->messages, room, sizeof *s->messages)) {
            s->status = no_memory(s);
            return NONE;
        }
        s->messages_room = room;
    }
    return s->nmessages++;
}

static void free_message(struct simulation *s, uint32_t index)
{
    s->messages[index].next = s->free_message;
    s->free_message = index;
}

static bool is_before(const struct event *a, const struct event *b)
{
    return a->us != b->us ? a->us < b->us : a->order < b->order;
}

static void push_event(struct simulation *s, double us, enum event_kind kind, uint64_t order,
                       uint32_t index)
{
    struct event event = {us, (uint64_t)kind << 60 | order, index};
    size_t at = s->nheap, above;

    if (s->nheap == s->heap_room) {
        size_t room = s->heap_room ? s->heap_room * 2 : MIN_ROOM;

        if (!grow((void **)&s->heap, room, sizeof *s->heap)) {
            s->status = no_memory(s);
            return;
        }
        s->heap_room = room;
    }
    for (s->nheap++; at > 0; at = above) {
        above = (at - 1) / 2;
        if (!is_before(&event, &s->heap[above]))
            break;
        s->heap[at] = s->heap[above];
    }
    s->heap[at] = event;
}

static struct event pop_event(struct simulation *s)
{
    struct event first = s->heap[0], last = s->heap[--s->nheap];
    size_t at = 0, below;

    for (; (below = 2 * at + 1) < s->nheap; at = below) {
        if (below + 1 < s->nheap && is_before(&s->heap[below + 1], &s->heap[below]))
            below++;
        if (!is_before(&s->heap[below], &last))
            break;
        s->heap[at] = s->heap[below];
    }
    s->heap[at] = last;
    return first;
}

static void spend(struct simulate_path *path, enum simulate_part part, double us)
{
    path->us += us;
    path->part_us[part] += us;
}

static double transfer_us(uint64_t bytes, double gbps)
{
    return (double)bytes / gbps / 1000;
}

/* It is there at path.us, or when those before it are. */
static void arrive(struct simulation *s, uint32_t index)
{
    struct message *m = &s->messages[index];
    uint32_t number = m->channel;
    struct channel *c = &s->channels[number];

    if (m->path.us < c->last_us)
        spend(&m->path, SIMULATE_PORT, c->last_us - m->path.us);
    c->last_us = m->path.us;
    if (!m->value) {
        free_message(s, index);
        return;
    }
    m->next = NONE;
    if (c->first == NONE)
        c->first = index;
    else
        s->messages[c->last].next = index;
    c->last = index;
    for (uint32_t i = 0; i < PLAN_MAX_LANES; i++) {
        uint32_t lane = (uint32_t)c->to * PLAN_MAX_LANES + i;

        if (s->lanes[lane].blocked_on != number)
            continue;
        s->lanes[lane].blocked_on = NONE;
        s->runnable[s->nrunnable++] = lane;
    }
}

/* ---- between hosts ----------------------------------------------------------------------------------------------- */

static double pass_port(struct simulation *s, struct port *port, enum simulate_place place,
                        const struct message *m, double from)
{
    const struct channel *c = &s->channels[m->channel];
    double begun = from > port->free_us ? from : port->free_us;
    struct simulate_slice slice = {.place = place,
                                   .what = "message",
                                   .rank = c->from,
                                   .host = s->host[place == SIMULATE_PORT_OUT ? c->from : c->to],
                                   .peer = c->to,
                                   .bytes = m->bytes,
                                   .from = begun,
                                   .begun = begun};

    port->free_us = slice.until = begun + transfer_us(m->bytes, s->machine.port_gbps);
    port->bytes += m->bytes;
    if (s->slice)
        s->slice(s->slice_argument, &slice);
    return begun;
}

/* A message goes out; the stream is busy until its last byte has. */
static void send(struct simulation *s, uint32_t index, double now)
{
    struct message *m = &s->messages[index];
    int from = s->channels[m->channel].from;
    struct stream *stream = &s->streams[from];
    struct port *port = &s->out[s->host[from]];
    double begun, out = now + transfer_us(m->bytes, s->machine.net_gbps);

    if (now > m->path.us)
        spend(&m->path, stream->held_by_port ? SIMULATE_PORT : SIMULATE_STREAM, now - m->path.us);
    begun = m->bytes ? pass_port(s, port, SIMULATE_PORT_OUT, m, now) : now;
    stream->held_by_port = m->bytes && port->free_us > out;
    if (stream->held_by_port)
        out = port->free_us;
    spend(&m->path, stream->held_by_port ? SIMULATE_PORT : SIMULATE_STREAM, out - now);
    stream->busy = out > now;
    if (stream->busy)
        push_event(s, out, STREAM_FREE, (uint64_t)from, (uint32_t)from);
    push_event(s, begun + s->machine.net_us, HEAD_IN, m->order, index);
}

static void on_stream_free(struct simulation *s, int rank, double now)
{
    struct stream *stream = &s->streams[rank];

    stream->busy = false;
    while (!stream->busy && stream->first != NONE) {
        uint32_t index = stream->first;

        stream->first = s->messages[index].next;
        send(s, index, now);
    }
}

static void on_sent(struct simulation *s, uint32_t index, double now)
{
    struct stream *stream = &s->streams[s->channels[s->messages[index].channel].from];

    if (!stream->busy) {
        send(s, index, now);
        return;
    }
    s->messages[index].next = NONE;
    if (stream->first == NONE)
        stream->first = index;
    else
        s->messages[stream->last].next = index;
    stream->last = index;
}

/* Its last byte is in when the port has taken all, and not before it has come. */
static void on_head_in(struct simulation *s, uint32_t index, double now)
{
    struct message *m = &s->messages[index];
    struct port *port = &s->in[s->host[s->channels[m->channel].to]];

    spend(&m->path, SIMULATE_NET, s->machine.net_us);
    if (m->bytes) {
        (void)pass_port(s, port, SIMULATE_PORT_IN, m, now);
        if (port->free_us > m->path.us)
            spend(&m->path, SIMULATE_PORT, port->free_us - m->path.us);
    }
    arrive(s, index);
}

/* ---- lanes ------------------------------------------------------------------------------------------------------- */

/* 0 if there is no memory. */
static uint64_t post(struct simulation *s, const struct op *op, const struct simulate_path *path,
                     uint64_t order, bool crosses)
{
    uint32_t index = new_message(s);
    struct message *m;

    if (index == NONE)
        return 0;
    m = &s->messages[index];
    *m = (struct message){.path = *path,
                          .channel = op->channel,
                          .bytes = op->opcode == PLAN_PUT ? op->bytes : 0,
                          .value = op->value,
                          .order = order,
                          .id = ++s->ids};
    if (crosses) {
        m->path.net_steps++;
        push_event(s, path->us, SENT, order, index);
        return s->ids;
    }
    m->path.steps++;
    spend(&m->path, SIMULATE_EXCHANGE, s->machine.exchange_us);
    arrive(s, index);
    return s->ids;
}

/* PUT, SIGNAL. Returns the message's number for timelines, 0 if there is none. */
static uint64_t do_send(struct simulation *s, const struct op *op, struct simulate_path *path,
                        uint64_t order)
{
    const struct simulate_machine *machine = &s->machine;
    const struct channel *c = &s->channels[op->channel];
    bool crosses = s->host[c->from] != s->host[c->to];

    if (crosses) {
        spend(path, SIMULATE_MESSAGE, machine->net_message_us);
        return post(s, op, path, order, true);
    }
    if (op->opcode == PLAN_PUT) /* a line is read by the WAIT */
        spend(path, SIMULATE_PASS,
              transfer_us(op->bytes, machine->pass_gbps) * (op->flags & PLAN_INLINE ? 1 : 2));
    if (!op->value)
        return 0;
    spend(path, SIMULATE_MESSAGE, machine->message_us);
    return post(s, op, path, order, false);
}

/* Takes what there is up to the value; false: that has not been sent. */
static bool do_wait(struct simulation *s, const struct op *op, struct simulate_path *path,
                    double *begun_out, uint64_t *seen_out)
{
    const struct simulate_machine *machine = &s->machine;
    struct channel *c = &s->channels[op->channel];
    bool crosses = s->host[c->from] != s->host[c->to];
    bool stays = s->many_lanes && c->kind >= KIND_ARRIVE; /* other lanes wait for it, too */

    while (stays || c->seen < op->value) {
        uint32_t index = c->first;
        const struct message *m;

        if (index == NONE)
            return false;
        m = &s->messages[index];
        c->seen = m->value;
        if (c->seen >= op->value) {
            *seen_out = m->id;
            if (m->path.us > path->us)
                *path = m->path;
        }
        if (stays)
            break;
        c->first = m->next;
        free_message(s, index);
    }
    *begun_out = path->us;
    spend(path, SIMULATE_MESSAGE, crosses ? machine->net_message_us : machine->message_us);
    if (op->flags & PLAN_INLINE && !crosses)
        spend(path, SIMULATE_PASS, transfer_us(op->bytes, machine->pass_gbps));
    return true;
}

static void tell(const struct simulation *s, uint32_t number, const struct op *op, double from,
                 double begun, uint64_t message)
{
    static const char *const names[] = {"COPY", "REDUCE", "PUT", "SIGNAL", "WAIT"};
    const struct lane *lane = &s->lanes[number];
    const struct channel *c = op->channel == NONE ? NULL : &s->channels[op->channel];
    bool waits = op->opcode == PLAN_WAIT;
    struct simulate_slice slice = {
        .what = names[op->opcode],
        .rank = (int)(number / PLAN_MAX_LANES),
        .lane = (int)(number % PLAN_MAX_LANES),
        .host = s->host[number / PLAN_MAX_LANES],
        .peer = !c      ? -1
                : waits ? c->from
                        : c->to,
        .bytes = op->bytes,
        .from = from,
        .begun = begun,
        .until = lane->path.us,
        .sent = waits ? 0 : message,
        .seen = waits ? message : 0,
    };

    if (s->slice)
        s->slice(s->slice_argument, &slice);
}

/* Until it waits for what has not been sent, or ends. */
static void run_lane(struct simulation *s, uint32_t number)
{
    const struct simulate_machine *machine = &s->machine;
    struct lane *lane = &s->lanes[number];

    for (; lane->next < lane->nops && !s->status; lane->next++) {
        const struct op *op = &lane->ops[lane->next];
        double from = lane->path.us, begun = from;
        uint64_t message = 0;

        switch (op->opcode) {
        case PLAN_COPY:
            spend(&lane->path, SIMULATE_COPY, transfer_us(op->bytes, machine->copy_gbps));
            break;
        case PLAN_REDUCE:
            spend(&lane->path, SIMULATE_REDUCE, transfer_us(op->bytes, machine->reduce_gbps));
            break;
        case PLAN_WAIT:
            if (!do_wait(s, op, &lane->path, &begun, &message)) {
                lane->blocked_on = op->channel;
                return;
            }
            break;
        default: /* PUT, SIGNAL */
            message = do_send(s, op, &lane->path, (uint64_t)number << 34 | lane->next);
        }
        tell(s, number, op, from, begun, message);
    }
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

static void reset(struct simulation *s)
{
    s->nmessages = 0;
    s->free_message = NONE;
    s->nheap = s->nrunnable = 0;
    s->ids = 0;
    s->status = THRUM_OK;
    for (uint32_t i = 0; i < s->nchannels; i++) {
        struct channel *c = &s->channels[i];

        c->first = c->last = NONE;
        c->seen = 0;
        c->last_us = 0;
    }
    for (int r = 0; r < s->n; r++)
        s->streams[r] = (struct stream){.first = NONE};
    memset(s->out, 0, (size_t)s->nhosts * sizeof *s->out);
    memset(s->in, 0, (size_t)s->nhosts * sizeof *s->in);
    for (uint32_t i = 0; i < (uint32_t)s->n * PLAN_MAX_LANES; i++) {
        struct lane *lane = &s->lanes[i];

        lane->next = 0;
        lane->blocked_on = NONE;
        lane->path = (struct simulate_path){.us = 0};
        spend(&lane->path, SIMULATE_CALL, s->machine.call_us);
        if (lane->nops)
            s->runnable[s->nrunnable++] = i;
    }
}

static const struct lane *blocked_lane(const struct simulation *s, int rank)
{
    for (int i = 0; i < PLAN_MAX_LANES; i++)
        if (s->lanes[(size_t)rank * PLAN_MAX_LANES + (size_t)i].blocked_on != NONE)
            return &s->lanes[(size_t)rank * PLAN_MAX_LANES + (size_t)i];
    return NULL;
}

/* From the first rank that waits, along those that each waits for. */
static thrum_status_t report_blocked(const struct simulation *s)
{
    char text[320] = "";
    int waiting = 0, first = s->n, rank;
    const struct lane *lane;

    for (rank = s->n - 1; rank >= 0; rank--)
        if (blocked_lane(s, rank)) {
            waiting++;
            first = rank;
        }
    rank = first;
    for (int i = 0; i < 4 && (lane = blocked_lane(s, rank)); i++) {
        const struct channel *c = &s->channels[lane->blocked_on];
        size_t used = strlen(text);

        snprintf(text + used, sizeof text - used, "%srank %d waits for %s of rank %d",
                 i ? ", " : "", rank,
                 c->kind == KIND_ARRIVE   ? "the arrival"
                 : c->kind == KIND_INLINE ? "a line"
                                          : "a signal",
                 c->from);
        rank = c->from;
    }
    if (!lane)
        snprintf(text + strlen(text), sizeof text - strlen(text), ", which has ended");
    return thrum_fail(THRUM_ERR_PLAN, "the plans do not end: %d of %d ranks wait for ever: %s",
                      waiting, s->n, text);
}

static void find_result(const struct simulation *s, struct simulate_result *result)
{
    *result = (struct simulate_result){.ops = s->nops};
    for (uint32_t i = 0; i < (uint32_t)s->n * PLAN_MAX_LANES; i++)
        if (s->lanes[i].path.us > result->path.us) {
            result->path = s->lanes[i].path;
            result->slowest = (int)(i / PLAN_MAX_LANES);
        }
    for (int h = 0; h < s->nhosts; h++)
        result->port_bytes = max_u64(result->port_bytes, max_u64(s->out[h].bytes, s->in[h].bytes));
}

thrum_status_t simulate_run(struct simulation *s, simulate_slice_fn slice, void *argument,
                            struct simulate_result *result_out)
{
    s->slice = slice;
    s->slice_argument = argument;
    for (reset(s); (s->nrunnable || s->nheap) && !s->status;) {
        struct event event;

        if (s->nrunnable) {
            run_lane(s, s->runnable[--s->nrunnable]);
            continue;
        }
        event = pop_event(s);
        switch ((enum event_kind)(event.order >> 60)) {
        case STREAM_FREE:
            on_stream_free(s, (int)event.index, event.us);
            break;
        case SENT:
            on_sent(s, event.index, event.us);
            break;
        case HEAD_IN:
            on_head_in(s, event.index, event.us);
            break;
        }
    }
    for (int r = 0; r < s->n && !s->status; r++)
        if (blocked_lane(s, r))
            s->status = report_blocked(s);
    if (!s->status)
        find_result(s, result_out);
    return s->status;
}

double simulate_rank_us(const struct simulation *s, int rank)
{
    double us = 0;

    for (int i = 0; i < PLAN_MAX_LANES; i++) {
        const struct lane *lane = &s->lanes[(size_t)rank * PLAN_MAX_LANES + (size_t)i];
        us = lane->path.us > us ? lane->path.us : us;
    }
    return us;
}
