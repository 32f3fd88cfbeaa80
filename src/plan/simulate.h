/*
 * simulate: how long the plans of all ranks take on a machine that is described by some numbers: an event simulation, op by
 * op. Called by thrum-sim; it reads and writes nothing, and does not depend on the machine that it runs on.
 *
 * Every rank has a core of its own, and its lanes are engines of their own. All ranks start at 0. Inside a host a PUT is a
 * copy by its rank, and a line or signal is seen exchange_us after it was written. Between hosts what a rank sends goes out
 * in order in one stream of its own, through the port of its host, net_us later in through that of the other, and the rank
 * goes on meanwhile. Ports serve whole messages, first come first served; a message passes stream and ports at the same
 * time, at the pace of the slowest of them. Signals and arrivals take no room there.
 */
#ifndef PLAN_SIMULATE_H
#define PLAN_SIMULATE_H

#include "plan/plan.h"

/* Microseconds, and GB/s in bytes read and written for what stays inside a host, in bytes sent for what does not. */
struct simulate_machine {
    double call_us; /* before the first op */
    double exchange_us; /* inside a host: from writing a line or signal to seeing it */
    double message_us; /* writing, or looking at, one of them */
    double copy_gbps,
        reduce_gbps; /* COPY, REDUCE; what they read out of a line is counted as passed */
    double pass_gbps; /* lines and PUTs inside a host */
    double net_us, net_message_us; /* the same between hosts */
    double net_gbps; /* what a rank sends */
    double port_gbps; /* what a host sends, and what it receives */
};

/* What time goes by with: name, for programs, for people. */
#define SIMULATE_PART_MAP(X) \
    X(CALL, "call", "the call") \
    X(MESSAGE, "message", "writing and taking messages") \
    X(COPY, "copy", "copies") \
    X(REDUCE, "reduce", "reductions") \
    X(PASS, "pass", "data passed inside hosts") \
    X(EXCHANGE, "exchange", "exchanges inside hosts") \
    X(NET, "net", "latency between hosts") \
    X(STREAM, "stream", "ranks' streams to other hosts") \
    X(PORT, "port", "ports")

enum simulate_part {
#define X(name, key, text) SIMULATE_##name,
    SIMULATE_PART_MAP(X)
#undef X
        SIMULATE_PARTS
};
const char *simulate_part_key(enum simulate_part part);
const char *simulate_part_text(enum simulate_part part);

/* A way through the ops and messages of the ranks, of which each began when the one before it had ended. */
struct simulate_path {
    double us, part_us[SIMULATE_PARTS]; /* they add up to `us` */
    uint32_t steps,
        net_steps; /* messages on it inside and between hosts: exchanges that depend on each other */
};

struct simulate_result {
    struct simulate_path path; /* the critical one: until the last rank has ended */
    int slowest; /* that rank; the first of them */
    uint64_t port_bytes; /* through the port that most goes through, in one direction */
    uint64_t ops;
};

/* For timelines: what a lane does (it waits from `from` to `begun` first), or a message in a port. */
enum simulate_place { SIMULATE_LANE, SIMULATE_PORT_OUT, SIMULATE_PORT_IN };
struct simulate_slice {
    enum simulate_place place;
    const char *what; /* "REDUCE", "PUT|INLINE" ..; static */
    int rank, lane; /* of a port: the sender, and its lane */
    int host; /* of the lane or port */
    int peer; /* -1: none */
    uint64_t bytes;
    double from, begun, until;
    uint64_t sent, seen; /* the message that it sends, or that it waited for; 0: none */
};
typedef void (*simulate_slice_fn)(void *argument, const struct simulate_slice *slice);

struct simulation;

/* host[r], numbered from 0, is copied; NULL: one host. `most_ops` bounds the memory: some 25 bytes each. NO_MEMORY. */
thrum_status_t simulate_create(const struct simulate_machine *machine, int nranks, const int *host,
                               uint64_t most_ops, struct simulation **simulation_out);
void simulate_destroy(struct simulation *simulation); /* takes NULL */

/*
 * The ops of one rank, which the plan names; the ranks in any order, each once. Nothing of the plan is kept. UNSUPPORTED:
 * more ops than most_ops; NO_MEMORY. The other is a plan_sink_fn that takes each op as it is made; its argument is the
 * simulation.
 */
thrum_status_t simulate_add(struct simulation *simulation, const struct plan *plan);
thrum_status_t simulate_take(void *simulation, const struct plan *plan, const struct plan_op *op,
                             const struct plan_operand *operands);

/*
 * Runs what was added; may be called again. `slice` (may be NULL) is told of everything, not in the order of time. ERR_PLAN: it
 * does not end, the message says who waits for whom; NO_MEMORY.
 */
thrum_status_t simulate_run(struct simulation *simulation, simulate_slice_fn slice, void *argument,
                            struct simulate_result *result_out);

/* When a rank had ended, of the last run. */
double simulate_rank_us(const struct simulation *simulation, int rank);

#endif
