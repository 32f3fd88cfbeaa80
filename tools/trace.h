/*
 * Inside of thrum-trace. Streams (base/trace_format.h) come in by trace_live.c or from files, trace_read.c makes operations of
 * them, trace_clock.c gives all one clock, trace_match.c finds out who waited for whom, trace_sums.c how long; trace_report.c,
 * trace_json.c and trace_timeline.c tell it.
 */
#ifndef TOOLS_TRACE_H
#define TOOLS_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <thrum/thrum.h>

#include "base/trace_format.h"

static inline int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#define NEVER INT64_MIN /* a time */
#define NONE UINT32_MAX /* an index */

/* Which ranks have to begin before a rank can end. */
enum needs {
    NEEDS_NONE,
    NEEDS_ALL,
    NEEDS_ROOT,
    NEEDS_AT_ROOT /* the root needs all */,
    NEEDS_LOWER
};

/* Operations that are the same in all this. */
struct kind {
    char what[17], algorithm[25];
    uint8_t dtype;
    uint16_t redop;
    uint32_t needs; /* enum needs */
    uint64_t count, bytes;
};

struct op {
    int64_t called, begun, ended; /* ns; begun, ended: NEVER */
    uint64_t sequence; /* 0: it is no collective */
    int64_t waited; /* ns from its begin, for others */
    uint32_t kind, member, queue;
    int32_t peer, root;
    uint32_t last; /* member for which it waited longest; NONE */
    bool counts; /* by trace_match: it has a part in the sums */
};

/* Different clocks tell different times, and run at different speeds. */
struct clock {
    uint64_t number;
    int64_t realtime; /* CLOCK_REALTIME less its time */
    int64_t offset, base; /* its time t is t + offset + rate * (t - base) in the time of clock 0 */
    double rate;
    uint32_t hub; /* the clock that it was compared with; NONE: its offset is CLOCK_REALTIME's */
    bool aligned;
    uint64_t samples; /* collectives that it was compared by */
    int64_t spread; /* ns by which these disagree: half of them less */
    int64_t bound; /* ns by which the offset can be wrong at most */
    int64_t contradiction; /* ns by which some collective would end before it could; 0: none */
};

struct proc {
    uint32_t clock;
    int32_t pid;
    char host[64], program[17];
};

struct queue {
    uint32_t proc, number; /* from 0 in its process */
    uint64_t name;
};

/* A rank of a communicator. */
struct member {
    uint32_t comm, proc;
    int32_t rank;
    bool whole; /* its stream has ended as it should, and nothing was lost */
    uint64_t lost; /* operations */
    int64_t sure; /* all that it had begun by then is here; NEVER */
    uint64_t newest; /* sequence of its newest collective */
    int64_t until; /* when its recording ended, or the last time in it */
    /* of what counts, by trace_match */
    int64_t waiting, moving, other; /* ns, overlaps once; other: in messages, puts and signals */
    int64_t held; /* ns that others waited for it, all together */
    uint64_t last; /* collectives to which it came last */
};

/* An operation by its communicator and sequence: sorted by those, then by rank. */
struct ref {
    uint64_t sequence;
    uint32_t op, member;
};

/* A collective that counts: all recorded ranks have done it. */
struct match {
    uint64_t sequence;
    uint32_t kind;
    uint32_t last; /* member that came last, for whom others waited; NONE */
    int64_t begun, late; /* its begin; ns after those that waited for it (median) */
    int64_t moving; /* from the last begin to the last end */
    int64_t waited, spent; /* of all ranks together; spent: with the waiting */
};

/* A collective that had begun somewhere and not ended everywhere. */
struct pending {
    uint64_t sequence;
    uint32_t first, n; /* refs */
    int64_t since; /* first begin */
};

struct comm {
    uint64_t id;
    int32_t nranks;
    char name[49]; /* at its lowest rank: ranks of one process number theirs apart */
    int32_t namer; /* that rank */
    bool left_out; /* --pid */
    uint32_t *members; /* by rank */
    uint32_t nmembers;
    struct ref *refs;
    size_t nrefs, again; /* again: recorded twice */
    struct match *matches;
    size_t nmatches;
    struct pending *pending;
    size_t npending;
    uint64_t partial; /* collectives that only some of the recorded ranks have */
    uint64_t others; /* operations that are no collectives */
    int64_t begun, ended; /* the window that counts; NEVER */
};

/* Indices by hash. */
struct table {
    uint32_t *slots;
    size_t room, n;
};

struct trace {
    struct clock *clocks;
    struct proc *procs;
    struct queue *queues;
    struct kind *kinds;
    struct comm *comms;
    struct member *members;
    struct op *ops;
    size_t nclocks, nprocs, nqueues, nkinds, ncomms, nmembers, nops;
    size_t room[7];
    struct table kind_table, queue_table, comm_table, member_table, proc_table, clock_table;
    char **notes; /* what the reader has to know of the figures */
    size_t nnotes, notes_room;
    bool damaged; /* or something was silent: figures lack what should be there */
};

void trace_init(struct trace *trace);
void trace_free(struct trace *trace);
void trace_note(struct trace *trace, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Doubles the room of an array where it is full, of elements of so many bytes; ends the program where there is no memory. */
void *trace_room(void *array, size_t n, size_t *room, size_t bytes);

/* ---- trace_read.c ---- */

/* A stream as it comes in. */
struct stream {
    struct trace *trace;
    char *name; /* of its file or process, for messages */
    uint64_t offset; /* of the frame that is being read */
    size_t held; /* bytes of it */
    uint64_t skip; /* bytes that come and are of no interest */
    bool ended; /* TRACE_END was the last */
    uint64_t lost; /* operations of any communicator */
    bool damaged;
    uint32_t proc;
    struct { /* by numbers of communicators in this stream */
        uint32_t number, member;
    } * known;
    size_t nknown, known_room;
    struct table known_table;
    int64_t begin; /* monotonic_ns of the first process; NEVER */
    int64_t until; /* the last time in it, or when it ended */
    unsigned char frame[256];
};

void stream_open(struct stream *stream, struct trace *trace, const char *name);
/* False: it is damaged, which is noted; nothing more of it is taken. */
bool stream_feed(struct stream *stream, const void *data, size_t bytes);
/* What was read stays in the trace. `quiet`: that it is cut is known already. */
void stream_close(struct stream *stream, bool quiet);

/* Reads a file; false: it cannot be read, and errno says why. */
bool trace_read_file(struct trace *trace, const char *path);

/* ---- trace_live.c ---- */

/* Records all processes here for so long; only communicators of `pid` are kept if that is not 0. Returns how many were found. */
size_t trace_live(struct trace *trace, pid_t pid, double seconds);

/* ---- trace_clock.c, trace_match.c ---- */

/* Sorts members and collectives: before the two others. */
void trace_sort(struct trace *trace);
void trace_align(struct trace *trace);
void trace_match(struct trace *trace);

/* ---- trace_sums.c ---- */

/* Collectives of a communicator that are alike. */
struct row {
    uint32_t kind; /* NONE: the rest */
    size_t calls, kinds;
    int64_t median, p99; /* ns, once all are there */
    double spent, waited; /* ns, of all ranks together */
    uint32_t last; /* member that was the last most often; NONE */
    size_t times; /* that it was */
    int64_t late;
};

/* Those of a communicator, the most time first; at most `most`, and the rest as one. Returns how many; *out is from malloc. */
size_t trace_rows(const struct comm *comm, size_t most, struct row **out);

struct sums {
    double time, waiting, moving, other; /* ns, of all ranks together; time: all */
    size_t hosts;
};

struct sums trace_sums(const struct trace *trace, const struct comm *comm);
/* What is left of a time; never less than nothing, where operations overlap. */
double trace_rest(double time, double waiting, double moving, double other);

/* Of a rank in a pending collective. Of one whose recording is not whole it cannot be said, nor of one that has gone on. */
bool trace_not_begun(const struct trace *trace, const struct comm *comm, uint32_t position,
                     const struct pending *pending);
bool trace_unknown(const struct trace *trace, const struct comm *comm, uint32_t position,
                   const struct pending *pending);
/* ns from its first begin to the end of the recording. */
double trace_age(const struct trace *trace, const struct comm *comm, const struct pending *pending);

/* A host that has this clock. */
const char *trace_clock_host(const struct trace *trace, uint32_t clock);

/* ---- trace_report.c, trace_json.c, trace_timeline.c ---- */

void trace_report(const struct trace *trace, bool all, FILE *out);
/* "4 MiB"; returns `text`. */
const char *trace_size_text(uint64_t size, char *text, size_t bytes);
int trace_json(const struct trace *trace, FILE *out); /* 0, or -1 */
void trace_timeline(const struct trace *trace, FILE *out);

#define TRACE_FEWEST 10 /* collectives, of which somebody is often the last */

/* Whom the others wait for. */
struct verdict {
    uint32_t member; /* NONE: nobody */
    uint32_t suspect; /* who would be, if clocks could be trusted so far; NONE */
    bool often; /* it is often the last; else it has cost most, if rarely */
    double share; /* of the collectives, or of the waiting */
    uint64_t times; /* that it was the last */
    int64_t late; /* ns, median */
    const struct match *worst; /* to which it came latest */
    double
        busy; /* share of the time by which it was late in which it was in other operations itself */
};
void trace_judge(const struct trace *trace, const struct comm *comm, struct verdict *out);

/* The median (0.5), say, of n numbers, which it reorders; 0 of none. */
int64_t trace_quantile(int64_t *values, size_t n, double q);

#endif
