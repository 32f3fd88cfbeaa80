/*
 * thrum-trace: streams of records, as base/trace_format.h has them. They come from files that may be cut or damaged and from
 * processes that may be anything: nothing in them is believed before it was looked at.
 */
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "process.h"

#define MOST_NOTES 1000
#define LATEST (INT64_MAX / 16) /* of clocks that begin with the host: 18 years */

/* ---- memory ---- */

void *trace_room(void *array, size_t n, size_t *room, size_t bytes)
{
    if (n < *room)
        return array;
    *room = *room ? 2 * *room : 16;
    return process_must(reallocarray(array, *room, bytes));
}

void trace_init(struct trace *trace)
{
    memset(trace, 0, sizeof *trace);
}

static void free_table(struct table *table)
{
    free(table->slots);
    *table = (struct table){0};
}

void trace_free(struct trace *trace)
{
    for (size_t i = 0; i < trace->ncomms; i++) {
        free(trace->comms[i].members);
        free(trace->comms[i].refs);
        free(trace->comms[i].matches);
        free(trace->comms[i].pending);
    }
    for (size_t i = 0; i < trace->nnotes; i++)
        free(trace->notes[i]);
    free(trace->notes);
    free(trace->clocks);
    free(trace->procs);
    free(trace->queues);
    free(trace->kinds);
    free(trace->comms);
    free(trace->members);
    free(trace->ops);
    free_table(&trace->kind_table);
    free_table(&trace->queue_table);
    free_table(&trace->comm_table);
    free_table(&trace->member_table);
    free_table(&trace->proc_table);
    free_table(&trace->clock_table);
    trace_init(trace);
}

void trace_note(struct trace *trace, const char *format, ...)
{
    va_list arguments;
    char *text = NULL;

    if (trace->nnotes == MOST_NOTES)
        return;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        process_must(text = NULL);
    va_end(arguments);
    trace->notes = trace_room(trace->notes, trace->nnotes, &trace->notes_room, sizeof(char *));
    trace->notes[trace->nnotes++] = text;
}

/* ---- tables: the index of what is equal to a key, new if need be ---- */

static uint64_t hash_of(const void *key, size_t bytes)
{
    uint64_t h = hash_bytes(HASH_START, key, bytes);

    return h ^ h >> 32;
}

/* Of the array's elements `key_bytes` from `key_at` on are the key. */
struct keyed {
    const void *array;
    size_t bytes, key_at, key_bytes;
};

static const void *key_of(const struct keyed *keyed, uint32_t i)
{
    return (const char *)keyed->array + i * keyed->bytes + keyed->key_at;
}

static void rehash(struct table *table, const struct keyed *keyed)
{
    table->room = table->room ? 2 * table->room : 64;
    free(table->slots);
    table->slots = process_must(malloc(table->room * sizeof *table->slots));
    memset(table->slots, 0xff, table->room * sizeof *table->slots);
    for (uint32_t i = 0; i < table->n; i++) {
        size_t at = hash_of(key_of(keyed, i), keyed->key_bytes) & (table->room - 1);

        while (table->slots[at] != NONE)
            at = (at + 1) & (table->room - 1);
        table->slots[at] = i;
    }
}

/* table->n if it is new: the caller appends it to the array then. */
static uint32_t look_up(struct table *table, const struct keyed *keyed, const void *key, bool add)
{
    size_t at;

    if (2 * table->n >= table->room)
        rehash(table, keyed);
    at = hash_of(key, keyed->key_bytes) & (table->room - 1);
    while (table->slots[at] != NONE) {
        if (!memcmp(key_of(keyed, table->slots[at]), key, keyed->key_bytes))
            return table->slots[at];
        at = (at + 1) & (table->room - 1);
    }
    if (!add)
        return NONE;
    table->slots[at] = (uint32_t)table->n;
    return (uint32_t)table->n++;
}

#define KEYED(array, from, until) \
    &(struct keyed) \
    { \
        array, sizeof *(array), offsetof(__typeof__(*(array)), from), \
            offsetof(__typeof__(*(array)), until) - offsetof(__typeof__(*(array)), from) \
    }

/* ---- text ---- */

/* How many bytes of UTF-8 a printable character has at the beginning of the text, of so many; 0: there is none. */
static size_t character(const unsigned char *c, size_t left)
{
    size_t n = *c < 0x80                 ? 1
               : *c >= 0xc2 && *c < 0xe0 ? 2
               : (*c & 0xf0) == 0xe0     ? 3
               : *c >= 0xf0 && *c < 0xf5 ? 4
                                         : 0;

    if (!n || n > left || *c < ' ' || *c == 127 || (*c == 0xc2 && c[1] < 0xa0))
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    if ((*c == 0xe0 && c[1] < 0xa0) || (*c == 0xed && c[1] >= 0xa0) ||
        (*c == 0xf0 && c[1] < 0x90) || (*c == 0xf4 && c[1] >= 0x90))
        return 0;
    return n;
}

/* What was sent, shown, does nothing to a terminal, and is right in JSON: what is no character becomes '?'. The rest is 0. */
static void take_text(char *to, size_t room, const char *from, size_t most)
{
    size_t n = strnlen(from, most), bytes;

    memset(to, 0, room);
    for (size_t i = 0; i < n && i < room - 1; i += bytes ? bytes : 1) {
        bytes = character((const unsigned char *)from + i, n - i);
        if (bytes)
            memcpy(to + i, from + i, bytes);
        else
            to[i] = '?';
    }
}

/* ---- what streams tell ---- */

static bool __attribute__((format(printf, 2, 3)))
damage(struct stream *stream, const char *format, ...)
{
    va_list arguments;
    char text[160];

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    trace_note(stream->trace, "%s is damaged at byte %llu: %s", stream->name,
               (unsigned long long)stream->offset, text);
    stream->damaged = stream->trace->damaged = true;
    return false;
}

static bool is_time(int64_t ns)
{
    return ns >= 0 && ns <= LATEST;
}

/* Later reports of a clock are as good as the first. */
static uint32_t take_clock(struct trace *trace, const struct trace_process *said)
{
    size_t before = trace->nclocks;
    uint32_t at;

    trace->clocks = trace_room(trace->clocks, before, &trace->room[0], sizeof *trace->clocks);
    at = look_up(&trace->clock_table, KEYED(trace->clocks, number, realtime), &said->clock, true);
    if (at == before)
        trace->clocks[trace->nclocks++] = (struct clock){
            .number = said->clock, .realtime = said->realtime_ns - said->monotonic_ns, .hub = NONE};
    return at;
}

/* What there is to say of its communicators at its end, or where another process goes on. */
static void settle(struct stream *stream, bool whole)
{
    for (size_t i = 0; i < stream->nknown; i++) {
        struct member *member = &stream->trace->members[stream->known[i].member];

        member->whole = whole && !stream->lost && !member->lost;
        member->until = max_i64(member->until, stream->until);
    }
    if (stream->lost)
        trace_note(stream->trace, "%s: %llu operations were not recorded for want of room",
                   stream->name, (unsigned long long)stream->lost);
    stream->lost = 0;
}

static bool take_process(struct stream *stream, const struct trace_process *said)
{
    struct trace *trace = stream->trace;
    size_t before = trace->nprocs;
    struct proc proc;

    if (memcmp(said->magic, TRACE_MAGIC, sizeof said->magic) != 0)
        return damage(stream, "no \"%s\" where a process is named", TRACE_MAGIC);
    if (!is_time(said->monotonic_ns) || said->realtime_ns < 0 || said->realtime_ns > INT64_MAX / 4)
        return damage(stream, "a process begins at an impossible time");
    memset(&proc, 0, sizeof proc);
    proc.clock = take_clock(trace, said);
    proc.pid = said->pid;
    take_text(proc.host, sizeof proc.host, said->host, sizeof said->host);
    take_text(proc.program, sizeof proc.program, said->program, sizeof said->program);
    trace->procs = trace_room(trace->procs, before, &trace->room[1], sizeof *trace->procs);
    /* a program that another starts keeps its number, and its host has it once */
    stream->proc = look_up(&trace->proc_table, KEYED(trace->procs, clock, program), &proc, true);
    if (stream->proc == before)
        trace->procs[trace->nprocs++] = proc;
    settle(stream, true);
    stream->nknown = 0; /* numbers of communicators begin anew */
    free_table(&stream->known_table);
    if (stream->begin == NEVER)
        stream->begin = said->monotonic_ns;
    stream->until = max_i64(stream->until, said->monotonic_ns);
    return true;
}

static bool take_comm(struct stream *stream, const struct trace_comm *said)
{
    struct trace *trace = stream->trace;
    size_t ncomms = trace->ncomms, nmembers = trace->nmembers;
    struct member member;
    uint32_t at, i;

    if (said->nranks < 1 || said->rank < 0 || said->rank >= said->nranks || !said->number)
        return damage(stream, "rank %d of %d, communicator number %u", said->rank, said->nranks,
                      said->number);
    trace->comms = trace_room(trace->comms, ncomms, &trace->room[4], sizeof *trace->comms);
    memset(&member, 0, sizeof member);
    member.comm = look_up(&trace->comm_table, KEYED(trace->comms, id, nranks), &said->id, true);
    if (member.comm == ncomms) {
        struct comm *comm = &trace->comms[trace->ncomms++];

        *comm = (struct comm){.id = said->id,
                              .nranks = said->nranks,
                              .namer = said->nranks,
                              .begun = NEVER,
                              .ended = NEVER};
    } else if (trace->comms[member.comm].nranks != said->nranks) {
        return damage(stream, "%s has %d ranks here, and %d elsewhere",
                      trace->comms[member.comm].name, said->nranks,
                      trace->comms[member.comm].nranks);
    }
    if (said->rank < trace->comms[member.comm].namer) {
        struct comm *comm = &trace->comms[member.comm];

        take_text(comm->name, sizeof comm->name, said->name, sizeof said->name);
        comm->namer = said->rank;
    }
    member.proc = stream->proc;
    member.rank = said->rank;
    member.until = member.sure = NEVER;
    trace->members = trace_room(trace->members, nmembers, &trace->room[5], sizeof *trace->members);
    /* a rank that two processes claim to be is two members, of which trace_sort keeps one */
    at = look_up(&trace->member_table, KEYED(trace->members, comm, whole), &member, true);
    if (at == nmembers)
        trace->members[trace->nmembers++] = member;
    stream->known =
        trace_room(stream->known, stream->nknown, &stream->known_room, sizeof *stream->known);
    stream->known[stream->nknown].number = said->number;
    stream->known[stream->nknown].member = at;
    i = look_up(&stream->known_table, KEYED(stream->known, number, member), &said->number, true);
    stream->known[i].member = at;
    stream->nknown += i == stream->nknown;
    return true;
}

/* NONE: it was not introduced. */
static uint32_t member_of(struct stream *stream, uint32_t number)
{
    uint32_t i =
        look_up(&stream->known_table, KEYED(stream->known, number, member), &number, false);

    return i == NONE ? NONE : stream->known[i].member;
}

static bool begins(const char *text, const char *start)
{
    return !strncmp(text, start, strlen(start));
}

/* By the names of collectives; those with counts for each rank have a v at their end. */
static enum needs needs_of(const char *what)
{
    if (begins(what, "allreduce") || begins(what, "allgather") || begins(what, "reduce_scatter") ||
        begins(what, "alltoall") || begins(what, "barrier"))
        return NEEDS_ALL;
    if (begins(what, "broadcast") || begins(what, "scatter"))
        return NEEDS_ROOT;
    if (begins(what, "reduce") || begins(what, "gather"))
        return NEEDS_AT_ROOT;
    if (begins(what, "scan") || begins(what, "exscan"))
        return NEEDS_LOWER;
    return NEEDS_NONE;
}

static uint32_t kind_of(struct trace *trace, const struct trace_operation *said)
{
    size_t before = trace->nkinds;
    struct kind kind;
    uint32_t at;

    memset(&kind, 0, sizeof kind); /* holes too: it is compared as bytes */
    take_text(kind.what, sizeof kind.what, said->what, sizeof said->what);
    take_text(kind.algorithm, sizeof kind.algorithm, said->algorithm, sizeof said->algorithm);
    kind.dtype = said->dtype;
    kind.redop = said->redop;
    kind.needs = said->sequence ? needs_of(kind.what) : NEEDS_NONE;
    kind.count = said->count;
    kind.bytes = said->bytes;
    trace->kinds = trace_room(trace->kinds, before, &trace->room[3], sizeof *trace->kinds);
    at = look_up(&trace->kind_table, &(struct keyed){trace->kinds, sizeof kind, 0, sizeof kind},
                 &kind, true);
    if (at == before)
        trace->kinds[trace->nkinds++] = kind;
    return at;
}

static uint32_t queue_of(struct trace *trace, uint32_t proc, uint64_t name)
{
    struct queue queue = {.proc = proc, .name = name};
    size_t before = trace->nqueues;
    uint32_t at;

    trace->queues = trace_room(trace->queues, before, &trace->room[2], sizeof *trace->queues);
    at = look_up(&trace->queue_table, &(struct keyed){trace->queues, sizeof queue, 0, sizeof queue},
                 &queue, true);
    if (at == before)
        trace->queues[trace->nqueues++] = queue;
    return at;
}

static bool take_operation(struct stream *stream, const struct trace_operation *said)
{
    struct trace *trace = stream->trace;
    uint32_t at = member_of(stream, said->comm);
    struct member *member;
    struct op op;

    if (at == NONE)
        return damage(stream, "an operation of communicator number %u, which was not introduced",
                      said->comm);
    if (!is_time(said->called_ns) || !is_time(said->begun_ns) || !is_time(said->ended_ns) ||
        (said->ended_ns && said->ended_ns < said->begun_ns))
        return damage(stream, "an operation at impossible times");
    if (!memchr(said->what, 0, sizeof said->what) ||
        !memchr(said->algorithm, 0, sizeof said->algorithm))
        return damage(stream, "a name without an end");
    if (trace->nops == NONE)
        return damage(stream, "more than %u operations", NONE);
    member = &trace->members[at];
    op = (struct op){.called = said->called_ns,
                     .begun = said->begun_ns ? said->begun_ns : NEVER,
                     .ended = said->ended_ns ? said->ended_ns : NEVER,
                     .sequence = said->sequence,
                     .member = at,
                     .peer = said->peer,
                     .root = said->root,
                     .last = NONE};
    op.kind = kind_of(trace, said);
    op.queue = queue_of(trace, member->proc, said->queue);
    trace->ops = trace_room(trace->ops, trace->nops, &trace->room[6], sizeof *trace->ops);
    trace->ops[trace->nops++] = op;
    if (op.sequence > member->newest)
        member->newest = op.sequence;
    stream->until = max_i64(stream->until, max_i64(op.called, max_i64(op.begun, op.ended)));
    return true;
}

static bool take_lost(struct stream *stream, const struct trace_lost *said)
{
    uint32_t at = said->comm ? member_of(stream, said->comm) : 0;
    uint64_t *lost = &stream->lost;

    if (at == NONE)
        return damage(stream, "losses of communicator number %u, which was not introduced",
                      said->comm);
    if (said->comm)
        lost = &stream->trace->members[at].lost;
    *lost = said->operations > UINT64_MAX - *lost ? UINT64_MAX : *lost + said->operations;
    return true;
}

static bool take_time(struct stream *stream, const struct trace_time *said)
{
    uint32_t at = member_of(stream, said->comm);

    if (at == NONE)
        return damage(stream, "a time of communicator number %u, which was not introduced",
                      said->comm);
    if (!is_time(said->monotonic_ns))
        return damage(stream, "an impossible time");
    stream->trace->members[at].sure = max_i64(stream->trace->members[at].sure, said->monotonic_ns);
    stream->until = max_i64(stream->until, said->monotonic_ns);
    return true;
}

/* Newer ones say when. */
static bool take_end(struct stream *stream, const int64_t *when, size_t bytes)
{
    if (bytes >= sizeof *when && is_time(*when) && *when > stream->until)
        stream->until = *when;
    stream->ended = true;
    return true;
}

/* ---- frames ---- */

/* Bytes that a frame of this type has to have at least, and of which more are skipped; 0: it is not known. */
static size_t body_of(uint32_t type)
{
    switch (type) {
    case TRACE_PROCESS:
        return sizeof(struct trace_process);
    case TRACE_COMM:
        return sizeof(struct trace_comm);
    case TRACE_OPERATION:
        return sizeof(struct trace_operation);
    case TRACE_LOST:
        return sizeof(struct trace_lost);
    case TRACE_TIME:
        return sizeof(struct trace_time);
    default:
        return 0;
    }
}

static bool take_frame(struct stream *stream, uint32_t type, const void *body, size_t bytes)
{
    stream->ended = false;
    switch (type) {
    case TRACE_PROCESS:
        return take_process(stream, body);
    case TRACE_COMM:
        return take_comm(stream, body);
    case TRACE_OPERATION:
        return take_operation(stream, body);
    case TRACE_LOST:
        return take_lost(stream, body);
    case TRACE_TIME:
        return take_time(stream, body);
    case TRACE_END:
        return take_end(stream, body, bytes);
    default:
        return true;
    }
}

/* How many bytes of the frame are wanted, where its head is known; the rest of it is skipped. */
static size_t wanted(const struct trace_frame *head)
{
    size_t body = head->type == TRACE_END ? sizeof(int64_t) : body_of(head->type);

    return sizeof *head + (body < head->bytes ? body : head->bytes);
}

static bool check_head(struct stream *stream, const struct trace_frame *head)
{
    if (stream->proc == NONE && head->type != TRACE_PROCESS)
        return damage(stream, "it is no recording of Thrum");
    if (head->bytes % 8)
        return damage(stream, "a frame of %u bytes", head->bytes);
    if (head->bytes < body_of(head->type))
        return damage(stream, "a frame of type %u with %u bytes, which should be %zu", head->type,
                      head->bytes, body_of(head->type));
    return true;
}

void stream_open(struct stream *stream, struct trace *trace, const char *name)
{
    memset(stream, 0, sizeof *stream);
    stream->trace = trace;
    stream->name = process_must(strdup(name));
    take_text(stream->name, strlen(name) + 1, name, strlen(name));
    stream->proc = NONE;
    stream->begin = stream->until = NEVER;
}

bool stream_feed(struct stream *stream, const void *data, size_t bytes)
{
    const char *from = data;

    while (bytes && !stream->damaged) {
        struct trace_frame head;
        size_t want = sizeof head, n;

        if (stream->skip) {
            n = stream->skip < bytes ? (size_t)stream->skip : bytes;
            stream->skip -= n;
            stream->offset += n;
            from += n;
            bytes -= n;
            continue;
        }
        if (stream->held >= sizeof head) {
            memcpy(&head, stream->frame, sizeof head);
            want = wanted(&head);
        }
        n = want - stream->held < bytes ? want - stream->held : bytes;
        memcpy(stream->frame + stream->held, from, n);
        stream->held += n;
        from += n;
        bytes -= n;
        if (stream->held < want)
            break;
        memcpy(&head, stream->frame, sizeof head);
        if (want == sizeof head && (!check_head(stream, &head) || wanted(&head) > want))
            continue;
        if (!take_frame(stream, head.type, stream->frame + sizeof head, want - sizeof head))
            break;
        stream->skip = head.bytes - (want - sizeof head);
        stream->offset += want;
        stream->held = 0;
    }
    return !stream->damaged;
}

void stream_close(struct stream *stream, bool quiet)
{
    settle(stream, stream->ended);
    if (!stream->ended && !stream->damaged && !quiet)
        trace_note(stream->trace,
                   "%s ends at byte %llu without an end, as that of a process that was killed",
                   stream->name, (unsigned long long)(stream->offset + stream->held));
    free(stream->known);
    free_table(&stream->known_table);
    free(stream->name);
    stream->known = NULL;
    stream->name = NULL;
}

bool trace_read_file(struct trace *trace, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), error;
    size_t room = 1 << 20;
    struct stream stream;
    ssize_t n = -1;
    char *buffer;

    if (fd < 0)
        return false;
    buffer = process_must(malloc(room));
    stream_open(&stream, trace, path);
    while ((n = read(fd, buffer, room)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0 && !stream_feed(&stream, buffer, (size_t)n))
            break;
    error = errno;
    stream_close(&stream, n < 0);
    free(buffer);
    close(fd);
    errno = error;
    return n >= 0;
}
