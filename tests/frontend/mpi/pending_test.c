/*
 * What MPI lets a program do while nonblocking calls are pending, without threads, through libthrum-mpi; see mpi-frontend:
 * wait for something else first, free the types and the communicator that they were given. Only where Thrum takes everything:
 * Open MPI 4.1 itself crashes when types or communicators of nonblocking collectives are freed.
 */
#include "check.h"

#ifdef HAVE_MPIX_PERSISTENT
#include <mpi-ext.h>
#define INIT(name) MPIX_##name##_init
#elif defined(HAVE_MPI_PERSISTENT)
#define INIT(name) MPI_##name##_init
#endif

#define MANY 200 /* more than the library puts on a queue at once */
#define N 500

static int total(int value)
{
    return check_size * value + check_size * (check_size - 1) / 2;
}

/* A communicator of its own, with its Thrum twin. */
static MPI_Comm new_comm(void)
{
    MPI_Comm comm;

    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    for (int i = 0; i < 12; i++)
        MPI_Barrier(comm);
    return comm;
}

/* ---- waiting for something else ---- */

enum elsewhere { IN_RECV, IN_TEST, IN_BARRIER };

/* The last rank waits in a call that is MPI's for one that comes when all others have their sums. */
static void waits(enum elsewhere where)
{
    static int in[MANY][40], out[MANY][40];
    MPI_Request requests[MANY], message;
    MPI_Comm other;
    int token = 0, flag = 0, last = check_size - 1;

    PMPI_Comm_dup(MPI_COMM_WORLD, &other);
    for (int i = 0; i < MANY; i++) {
        for (int k = 0; k < 40; k++)
            in[i][k] = i + k + check_rank;
        MPI_Iallreduce(in[i], out[i], 40, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &requests[i]);
    }
    if (check_rank != last)
        MPI_Waitall(MANY, requests, MPI_STATUSES_IGNORE);
    if (where == IN_BARRIER)
        PMPI_Barrier(other);
    else if (check_rank == 0)
        MPI_Send(&token, 1, MPI_INT, last, 7, MPI_COMM_WORLD);
    else if (check_rank == last && where == IN_RECV)
        MPI_Recv(&token, 1, MPI_INT, 0, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    else if (check_rank == last) {
        MPI_Irecv(&token, 1, MPI_INT, 0, 7, MPI_COMM_WORLD, &message);
        while (!flag)
            MPI_Test(&message, &flag, MPI_STATUS_IGNORE);
    }
    if (check_rank == last)
        MPI_Waitall(MANY, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < MANY; i++)
        for (int k = 0; k < 40; k++)
            check(out[i][k] == total(i + k), "out[%d][%d]=%d", i, k, out[i][k]);
    PMPI_Comm_free(&other);
}

/* A communicator with calls that wait goes as soon as the last of them has been completed. */
static void waits_and_goes(void)
{
    static int values[MANY];
    MPI_Request requests[MANY];

    for (int round = 0; round < 3; round++) {
        MPI_Comm comm = new_comm();

        for (int i = 0; i < MANY; i++) {
            values[i] = i + check_rank;
            MPI_Iallreduce(MPI_IN_PLACE, &values[i], 1, MPI_INT, MPI_SUM, comm, &requests[i]);
        }
        MPI_Waitall(MANY, requests, MPI_STATUSES_IGNORE);
        MPI_Comm_free(&comm);
        for (int i = 0; i < MANY; i++)
            check(values[i] == total(i), "round %d values[%d]=%d", round, i, values[i]);
    }
}

/* ---- types that are freed ---- */

#define STRIDE 2 /* every second int is a gap */

/* N ints with gaps between them. */
static MPI_Datatype gappy(void)
{
    MPI_Datatype vector, type;

    MPI_Type_vector(N, 1, STRIDE, MPI_INT, &vector);
    MPI_Type_create_resized(vector, 0, (MPI_Aint)sizeof(int) * STRIDE * N, &type);
    MPI_Type_commit(&type);
    MPI_Type_free(&vector);
    return type;
}

static bool copied, deleted;

static int on_copy(MPI_Datatype type, int key, void *extra, void *value, void *value_out, int *flag)
{
    (void)type, (void)key, (void)extra;
    *(void **)value_out = value;
    *flag = 1;
    copied = true;
    return MPI_SUCCESS;
}

static int on_delete(MPI_Datatype type, int key, void *value, void *extra)
{
    (void)type, (void)key, (void)value, (void)extra;
    deleted = true;
    return MPI_SUCCESS;
}

/* Frees the type, and fills what the library may have freed with it. */
static void free_type(MPI_Datatype *type)
{
    char *others[256];

    MPI_Type_free(type);
    for (size_t i = 0; i < 256; i++)
        memset(others[i] = need(16 + 8 * i), 0x5a, 16 + 8 * i);
    for (size_t i = 0; i < 256; i++)
        free(others[i]);
}

static void check_blocks(const int *all, const char *what)
{
    for (int r = 0; r < check_size; r++)
        for (int i = 0; i < STRIDE * N; i++) {
            int expected = i % STRIDE ? -1 : r * 1000 + i / STRIDE;
            int found = all[r * STRIDE * N + i];

            check(found == expected, "%s: [%d][%d]=%d, not %d", what, r, i, found, expected);
        }
}

static int *empty_blocks(void)
{
    size_t bytes = (size_t)check_size * STRIDE * N * sizeof(int);

    return memset(need(bytes), 0xff, bytes);
}

static int *own_block(void)
{
    int *own = need(N * sizeof(int));

    for (int i = 0; i < N; i++)
        own[i] = check_rank * 1000 + i;
    return own;
}

static void types_are_freed(void)
{
    enum { CALLS = 4 };
    int *own = own_block(), *spread = empty_blocks(), *all[CALLS];
    int *counts = need((size_t)check_size * sizeof(int)),
        *displs = need((size_t)check_size * sizeof(int)), key;
    MPI_Datatype type = gappy();
    MPI_Request requests[CALLS];

    MPI_Type_create_keyval(on_copy, on_delete, &key, NULL);
    MPI_Type_set_attr(type, key, NULL);
    for (int i = 0; i < N; i++)
        spread[STRIDE * i] = own[i];
    for (int i = 0; i < CALLS; i++)
        all[i] = empty_blocks();
    for (int r = 0; r < check_size; r++) {
        counts[r] = 1;
        displs[r] = r;
    }
    copied = deleted = false;
    MPI_Iallgather(own, N, MPI_INT, all[0], 1, type, MPI_COMM_WORLD, &requests[0]);
    MPI_Iallgather(spread, 1, type, all[1], 1, type, MPI_COMM_WORLD, &requests[1]);
    MPI_Iallgatherv(spread, 1, type, all[2], counts, displs, type, MPI_COMM_WORLD, &requests[2]);
    MPI_Igather(own, N, MPI_INT, all[3], 1, type, 0, MPI_COMM_WORLD, &requests[3]);
    free_type(&type);
    MPI_Waitall(CALLS, requests, MPI_STATUSES_IGNORE);
    check(deleted && !copied, "the type's attributes: deleted %d, copied %d", deleted, copied);
    check_blocks(all[0], "allgather");
    check_blocks(all[1], "allgather of gaps");
    check_blocks(all[2], "allgatherv");
    if (check_rank == 0)
        check_blocks(all[3], "gather");
    for (int i = 0; i < CALLS; i++)
        free(all[i]);
    MPI_Type_free_keyval(&key);
    free(own);
    free(spread);
    free(counts);
    free(displs);
}

/* The same where the calls wait in line until long after the type has gone. */
static void types_of_many_are_freed(void)
{
    enum { LATE = 60 };
    int *own = own_block(), *all[LATE];
    MPI_Datatype type = gappy();
    MPI_Request requests[LATE];

    for (int i = 0; i < LATE; i++) {
        all[i] = empty_blocks();
        MPI_Iallgather(own, N, MPI_INT, all[i], 1, type, MPI_COMM_WORLD, &requests[i]);
    }
    free_type(&type);
    MPI_Waitall(LATE, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < LATE; i++) {
        check_blocks(all[i], "one of many");
        free(all[i]);
    }
    free(own);
}

#ifdef INIT
static void types_of_persistent_calls_are_freed(void)
{
    int *own = own_block(), *all = empty_blocks(), *spread = empty_blocks();
    MPI_Datatype type = gappy();
    MPI_Request request;

    for (int i = 0; i < N; i++)
        spread[STRIDE * i] = own[i];
    INIT(Allgather)(spread, 1, type, all, 1, type, MPI_COMM_WORLD, MPI_INFO_NULL, &request);
    free_type(&type);
    for (int round = 0; round < 3; round++) {
        memset(all, 0xff, (size_t)check_size * STRIDE * N * sizeof(int));
        MPI_Start(&request);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        check_blocks(all, "persistent allgather");
    }
    MPI_Request_free(&request);
    free(own);
    free(all);
    free(spread);
}
#endif

/* ---- operations of the program's ---- */

static int operations_called;

/* N ints with gaps between them: sums. */
static void add_spread(void *in, void *inout, int *n, MPI_Datatype *type)
{
    MPI_Aint lower, extent;
    int *a = in, *b = inout;

    MPI_Type_get_extent(*type, &lower, &extent);
    check(extent == (MPI_Aint)sizeof(int) * STRIDE * N, "the operation is told another type");
    for (int i = 0; i < *n * N; i++)
        b[i * STRIDE] += a[i * STRIDE];
    operations_called++;
}

static void other(void *in, void *inout, int *n, MPI_Datatype *type)
{
    (void)in, (void)inout, (void)n, (void)type;
    check(false, "an operation that no call was given is called");
}

static void add_dense(void *in, void *inout, int *n, MPI_Datatype *type)
{
    int *a = in, *b = inout;

    check(*type == MPI_INT, "the operation is told another type");
    for (int i = 0; i < *n; i++)
        b[i] += a[i];
    operations_called++;
}

/* A device could call it by itself, beside the program. */
static void operation_waits_for_the_program(void)
{
    int in[1000], out[1000];
    MPI_Request request;
    MPI_Op op;
    double until;

    for (int i = 0; i < 1000; i++)
        in[i] = i + check_rank;
    MPI_Op_create(add_dense, 1, &op);
    operations_called = 0;
    MPI_Iallreduce(in, out, 1000, MPI_INT, op, MPI_COMM_WORLD, &request);
    for (until = PMPI_Wtime() + 0.1; PMPI_Wtime() < until;)
        ;
    check(operations_called == 0, "the operation is called while the program is not in MPI");
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    check(operations_called > 0, "the operation is never called");
    for (int i = 0; i < 1000; i++)
        check(out[i] == total(i), "out[%d]=%d", i, out[i]);
    MPI_Op_free(&op);
}

/* The operation and the type, and others take their places. */
static void free_both(MPI_Op *op, MPI_Datatype *type, MPI_Op *others, int n)
{
    MPI_Op_free(op);
    check(*op == MPI_OP_NULL, "the freed operation's handle");
    free_type(type);
    for (int i = 0; i < n; i++)
        MPI_Op_create(other, 1, &others[i]);
}

static int *spread_numbers(int first)
{
    int *spread = memset(need(STRIDE * N * sizeof(int)), 0xff, STRIDE * N * sizeof(int));

    for (int i = 0; i < N; i++)
        spread[STRIDE * i] = first + i;
    return spread;
}

/* The sum of `ranks` ranks' numbers, which begin with their rank. */
static void check_sum(const int *sum, int ranks, const char *what)
{
    for (int i = 0; i < STRIDE * N; i++) {
        int expected = i % STRIDE || !ranks ? -1 : ranks * (i / STRIDE) + ranks * (ranks - 1) / 2;

        check(sum[i] == expected, "%s: [%d]=%d, not %d", what, i, sum[i], expected);
    }
}

static void operations_are_freed(void)
{
    enum { CALLS = 60, OTHERS = 16 };
    int *own = spread_numbers(check_rank), *sums[2 * CALLS];
    MPI_Datatype type = gappy();
    MPI_Request requests[2 * CALLS];
    MPI_Op op, others[OTHERS];

    MPI_Op_create(add_spread, 0, &op);
    operations_called = 0;
    for (int i = 0; i < 2 * CALLS; i++)
        sums[i] = memset(need(STRIDE * N * sizeof(int)), 0xff, STRIDE * N * sizeof(int));
    for (int i = 0; i < CALLS; i++) {
        MPI_Iallreduce(own, sums[2 * i], 1, type, op, MPI_COMM_WORLD, &requests[2 * i]);
        MPI_Iexscan(own, sums[2 * i + 1], 1, type, op, MPI_COMM_WORLD, &requests[2 * i + 1]);
    }
    free_both(&op, &type, others, OTHERS);
    MPI_Waitall(2 * CALLS, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < CALLS; i++) {
        check_sum(sums[2 * i], check_size, "allreduce");
        check_sum(sums[2 * i + 1], check_rank, "exscan");
    }
    for (int i = 0; i < 2 * CALLS; i++)
        free(sums[i]);
    for (int i = 0; i < OTHERS; i++)
        MPI_Op_free(&others[i]);
    free(own);
}

#ifdef INIT
static void operations_of_persistent_calls_are_freed(void)
{
    enum { OTHERS = 16 };
    int *own = spread_numbers(check_rank), *sum;
    MPI_Datatype type = gappy();
    MPI_Request request;
    MPI_Op op, others[OTHERS];

    MPI_Op_create(add_spread, 0, &op);
    sum = memset(need(STRIDE * N * sizeof(int)), 0xff, STRIDE * N * sizeof(int));
    INIT(Allreduce)(own, sum, 1, type, op, MPI_COMM_WORLD, MPI_INFO_NULL, &request);
    free_both(&op, &type, others, OTHERS);
    for (int round = 0; round < 3; round++) {
        memset(sum, 0xff, STRIDE * N * sizeof(int));
        MPI_Start(&request);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        check_sum(sum, check_size, "persistent allreduce");
    }
    MPI_Request_free(&request);
    for (int i = 0; i < OTHERS; i++)
        MPI_Op_free(&others[i]);
    free(own);
    free(sum);
}
#endif

/* ---- communicators that are freed ---- */

static void comms_are_freed(void)
{
    enum { CALLS = 3 };

    for (int round = 0; round < 4; round++) {
        int in = check_rank, sum = -1, word = check_rank == 0 ? 7 : -1;
        MPI_Comm comm = new_comm();
        MPI_Request requests[CALLS];

        MPI_Iallreduce(&in, &sum, 1, MPI_INT, MPI_SUM, comm, &requests[0]);
        MPI_Ibcast(&word, 1, MPI_INT, 0, comm, &requests[1]);
        MPI_Ibarrier(comm, &requests[2]);
        if (round % 2 == 0)
            MPI_Comm_free(&comm);
        if (round < 2) {
            MPI_Waitall(CALLS, requests, MPI_STATUSES_IGNORE);
        } else {
            for (int i = 0, flag; i < CALLS; i++)
                for (flag = 0; !flag;)
                    MPI_Test(&requests[i], &flag, MPI_STATUS_IGNORE);
        }
        if (round % 2)
            MPI_Comm_disconnect(&comm);
        check(sum == total(0) && word == 7, "round %d: sum=%d word=%d", round, sum, word);
    }
}

/* The last calls wait in line when the communicator goes. */
static void comm_of_many_is_freed(void)
{
    static int values[MANY];
    MPI_Comm comm = new_comm();
    MPI_Request requests[MANY];

    for (int i = 0; i < MANY; i++) {
        values[i] = i + check_rank;
        MPI_Iallreduce(MPI_IN_PLACE, &values[i], 1, MPI_INT, MPI_SUM, comm, &requests[i]);
    }
    MPI_Comm_free(&comm);
    MPI_Waitall(MANY, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < MANY; i++)
        check(values[i] == total(i), "values[%d]=%d", i, values[i]);
}

#ifdef INIT
static void comm_of_persistent_call_is_freed(void)
{
    int in, sum;
    MPI_Comm comm = new_comm();
    MPI_Request request;

    INIT(Allreduce)(&in, &sum, 1, MPI_INT, MPI_SUM, comm, MPI_INFO_NULL, &request);
    MPI_Comm_free(&comm);
    for (int round = 0; round < 3; round++) {
        in = round + check_rank;
        MPI_Start(&request);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        check(sum == total(round), "round %d: sum=%d", round, sum);
    }
    MPI_Request_free(&request);
}
#endif

int main(int argc, char **argv)
{
    int status;

    MPI_Init(&argc, &argv);
    check_begin();
    for (int i = 0; i < 12; i++)
        MPI_Barrier(MPI_COMM_WORLD);
    waits(IN_RECV);
    check_case("more calls than a queue takes, and a message is waited for first");
    waits(IN_TEST);
    check_case("the same by MPI_Test");
    waits(IN_BARRIER);
    check_case("the same in a barrier of MPI's");
    waits_and_goes();
    check_case("communicators go one after the other");
    types_are_freed();
    check_case("types are freed before the calls have ended");
    types_of_many_are_freed();
    check_case("and before they have begun");
#ifdef INIT
    types_of_persistent_calls_are_freed();
    check_case("and before persistent ones are started");
#endif
    operation_waits_for_the_program();
    check_case("an operation of the program's is called from within MPI only");
    operations_are_freed();
    check_case("operations are freed before their calls have ended");
#ifdef INIT
    operations_of_persistent_calls_are_freed();
    check_case("and before persistent ones are started");
#endif
    comms_are_freed();
    check_case("communicators are freed before their calls have ended");
    comm_of_many_is_freed();
    check_case("and before they have begun");
#ifdef INIT
    comm_of_persistent_call_is_freed();
    check_case("and before persistent ones are started");
#endif
    status = check_end();
    MPI_Finalize();
    return status;
}
