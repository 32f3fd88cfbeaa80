/*
 * Requests, communicators, threads, progress and errors, through libthrum-mpi; see mpi-frontend. A wrong result, a hang or a
 * crash fails it with and without the library: without, it shows that the test itself is right.
 */
#include <pthread.h>

#include "check.h"

#ifdef HAVE_MPIX_PERSISTENT
#include <mpi-ext.h>
#define INIT(name) MPIX_##name##_init
#elif defined(HAVE_MPI_PERSISTENT)
#define INIT(name) MPI_##name##_init
#endif

#define N 3000
#define MANY 100 /* more than the library puts on a queue at once */

static int total(int value)
{
    return check_size * value + check_size * (check_size - 1) / 2;
}

/* A blocking collective, after which a communicator may have its Thrum twin. */
static void warm(MPI_Comm comm)
{
    for (int i = 0; i < 12; i++)
        MPI_Barrier(comm);
}

/* ---- ways to complete ---- */

enum how { WAITALL, WAITANY, WAITSOME, TESTALL, TESTANY, TESTSOME, TEST, WAIT_BACKWARDS, WAYS };

static void complete(enum how how, int n, MPI_Request *requests)
{
    int done = 0, flag = 0, index, some, *indices = need((size_t)n * sizeof(int));
    MPI_Status *statuses = need((size_t)n * sizeof *statuses), status;

    switch (how) {
    case WAITALL:
        check(!MPI_Waitall(n, requests, statuses), "Waitall failed");
        break;
    case WAITANY:
        for (; done < n; done++) {
            check(!MPI_Waitany(n, requests, &index, &status), "Waitany failed");
            check(index >= 0 && index < n, "Waitany: index %d", index);
        }
        MPI_Waitany(n, requests, &index, &status);
        check(index == MPI_UNDEFINED, "Waitany of nothing: index %d", index);
        break;
    case WAITSOME:
        while (done < n) {
            check(!MPI_Waitsome(n, requests, &some, indices, statuses), "Waitsome failed");
            check(some > 0, "Waitsome: %d", some);
            if (some <= 0)
                break;
            done += some;
        }
        break;
    case TESTALL:
        while (!flag)
            check(!MPI_Testall(n, requests, &flag, MPI_STATUSES_IGNORE), "Testall failed");
        break;
    case TESTANY:
        while (done < n) {
            check(!MPI_Testany(n, requests, &index, &flag, &status), "Testany failed");
            done += flag && index != MPI_UNDEFINED;
            if (flag && index == MPI_UNDEFINED)
                break;
        }
        check(done == n, "Testany: %d of %d", done, n);
        break;
    case TESTSOME:
        while (done < n) {
            check(!MPI_Testsome(n, requests, &some, indices, MPI_STATUSES_IGNORE),
                  "Testsome failed");
            if (some == MPI_UNDEFINED)
                break;
            done += some;
        }
        check(done == n, "Testsome: %d of %d", done, n);
        break;
    case TEST:
        for (int i = 0; i < n; i++)
            for (flag = 0; !flag;) {
                int ready;

                MPI_Request_get_status(requests[i], &ready, MPI_STATUS_IGNORE);
                check(!MPI_Test(&requests[i], &flag, &status), "Test failed");
                check(!ready || flag, "complete for Request_get_status, not for Test");
            }
        break;
    default:
        for (int i = n - 1; i >= 0; i--)
            check(!MPI_Wait(&requests[i], &status), "Wait failed");
        break;
    }
    free(indices);
    free(statuses);
}

/* Nonblocking collectives among messages, all completed by one kind of call. */
static void nonblocking(enum how how)
{
    enum { ALL = 4, WITH_MESSAGES = ALL + 2 };
    int *in = need(N * sizeof(int)), *sum = need(N * sizeof(int)), *prefix = need(N * sizeof(int));
    int *all = need((size_t)check_size * N * sizeof(int)), message = check_rank, from = -1;
    int next = (check_rank + 1) % check_size, previous = (check_rank + check_size - 1) % check_size;
    MPI_Request requests[WITH_MESSAGES];

    for (int i = 0; i < N; i++)
        in[i] = check_rank + i;
    MPI_Irecv(&from, 1, MPI_INT, previous, 5, MPI_COMM_WORLD, &requests[0]);
    MPI_Iallreduce(in, sum, N, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &requests[1]);
    MPI_Iscan(in, prefix, N, MPI_INT, MPI_MAX, MPI_COMM_WORLD, &requests[2]);
    MPI_Iallgather(in, N, MPI_INT, all, N, MPI_INT, MPI_COMM_WORLD, &requests[3]);
    MPI_Ibarrier(MPI_COMM_WORLD, &requests[4]);
    MPI_Isend(&message, 1, MPI_INT, next, 5, MPI_COMM_WORLD, &requests[5]);
    complete(how, WITH_MESSAGES, requests);
    for (int i = 0; i < WITH_MESSAGES; i++)
        check(requests[i] == MPI_REQUEST_NULL, "request %d is not null", i);
    check(from == previous, "message from %d", from);
    for (int i = 0; i < N; i++) {
        check(sum[i] == total(i), "sum[%d]=%d", i, sum[i]);
        check(prefix[i] == in[i], "prefix[%d]=%d", i, prefix[i]);
        for (int r = 0; r < check_size; r++)
            check(all[r * N + i] == r + i, "all[%d][%d]=%d", r, i, all[r * N + i]);
    }
    free(in);
    free(sum);
    free(prefix);
    free(all);
}

static void many_in_flight(void)
{
    static int in[MANY][40], out[MANY][40];
    MPI_Request requests[MANY];
    int one = 1, ones = 0;

    for (int i = 0; i < MANY; i++) {
        for (int k = 0; k < 40; k++)
            in[i][k] = i + k + check_rank;
        MPI_Iallreduce(in[i], out[i], 40, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &requests[i]);
    }
    MPI_Allreduce(&one, &ones, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD); /* behind all of them */
    check(ones == check_size, "blocking behind nonblocking: %d", ones);
    complete(WAIT_BACKWARDS, MANY, requests);
    for (int i = 0; i < MANY; i++)
        for (int k = 0; k < 40; k++)
            check(out[i][k] == total(i + k), "out[%d][%d]=%d", i, k, out[i][k]);
}

/* Rank 0 issues far more than fit, then sends what the others wait for before they issue theirs: nothing may block. */
static void issuing_is_local(void)
{
    enum { FAR_TOO_MANY = 600 };
    static int values[FAR_TOO_MANY][16];
    static MPI_Request requests[FAR_TOO_MANY];
    int token = 0;

    if (check_rank != 0)
        MPI_Recv(&token, 1, MPI_INT, 0, 6, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    for (int i = 0; i < FAR_TOO_MANY; i++) {
        for (int k = 0; k < 16; k++)
            values[i][k] = i + k + check_rank;
        MPI_Iallreduce(MPI_IN_PLACE, values[i], 16, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &requests[i]);
    }
    if (check_rank == 0)
        for (int r = 1; r < check_size; r++)
            MPI_Send(&token, 1, MPI_INT, r, 6, MPI_COMM_WORLD);
    complete(WAITALL, FAR_TOO_MANY, requests);
    for (int i = 0; i < FAR_TOO_MANY; i++)
        check(values[i][15] == total(i + 15), "values[%d][15]=%d", i, values[i][15]);
}

#ifdef INIT
static void persistent(enum how how)
{
    enum { KINDS = 3 };
    int *in = need(N * sizeof(int)), *sum = need(N * sizeof(int)), *parts = need(N * sizeof(int));
    int root = check_size - 1, message = 0, *counts = need((size_t)check_size * sizeof(int));
    MPI_Request requests[KINDS + 1], *idle = &requests[KINDS];
    MPI_Status status;

    for (int r = 0; r < check_size; r++)
        counts[r] = N / check_size;
    INIT(Allreduce)(in, sum, N, MPI_INT, MPI_SUM, MPI_COMM_WORLD, MPI_INFO_NULL, &requests[0]);
    INIT(Bcast)(&message, 1, MPI_INT, root, MPI_COMM_WORLD, MPI_INFO_NULL, &requests[1]);
    INIT(Reduce_scatter)
    (in, parts, counts, MPI_INT, MPI_MAX, MPI_COMM_WORLD, MPI_INFO_NULL, &requests[2]);
    memset(counts, 0x7f, (size_t)check_size * sizeof(int)); /* it was copied */
    INIT(Barrier)(MPI_COMM_WORLD, MPI_INFO_NULL, idle);
    check(!MPI_Wait(idle, &status), "waiting for an inactive request");
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < N; i++) {
            in[i] = check_rank + i + round;
            sum[i] = 0;
        }
        message = check_rank == root ? round : -1;
        if (round % 2)
            MPI_Startall(KINDS, requests);
        else
            for (int k = 0; k < KINDS; k++)
                MPI_Start(&requests[k]);
        complete(how, KINDS, requests);
        check(message == round, "message %d in round %d", message, round);
        for (int i = 0; i < N; i++)
            check(sum[i] == total(i + round), "round %d sum[%d]=%d", round, i, sum[i]);
        check(parts[0] == check_rank * (N / check_size) + round + check_size - 1,
              "round %d parts[0]=%d", round, parts[0]);
    }
    for (int k = 0; k <= KINDS; k++) {
        check(requests[k] != MPI_REQUEST_NULL, "a persistent request was freed by its completion");
        MPI_Request_free(&requests[k]);
        check(requests[k] == MPI_REQUEST_NULL, "not freed");
    }
    free(in);
    free(sum);
    free(parts);
    free(counts);
}
#endif

/* ---- communicators ---- */

static void check_comm(MPI_Comm comm)
{
    int rank, size, sum = 0, one, *all;

    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    all = need((size_t)size * sizeof(int));
    for (int round = 0; round < 3; round++) {
        one = rank + round;
        MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, comm);
        check(sum == size * round + size * (size - 1) / 2, "sum=%d on %d ranks", sum, size);
        MPI_Allgather(&one, 1, MPI_INT, all, 1, MPI_INT, comm);
        check(all[size - 1] == size - 1 + round, "all[%d]=%d", size - 1, all[size - 1]);
    }
    free(all);
}

static void communicators(void)
{
    MPI_Comm halves, copy, reversed, group_comm, many[20];
    MPI_Group world, evens;
    int ranks[2] = {0, check_size - 1};

    for (int again = 0; again < 5; again++) { /* handles come again */
        MPI_Comm_split(MPI_COMM_WORLD, check_rank % 2, -check_rank, &halves);
        MPI_Comm_dup(halves, &copy);
        MPI_Comm_split(MPI_COMM_WORLD, check_rank == 0 ? MPI_UNDEFINED : 7, -check_rank, &reversed);
        check_comm(halves);
        check_comm(copy);
        if (reversed != MPI_COMM_NULL) {
            check_comm(reversed);
            MPI_Comm_free(&reversed);
        }
        MPI_Comm_free(&halves);
        check_comm(copy);
        MPI_Comm_free(&copy);
    }
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    MPI_Group_incl(world, check_size > 1 ? 2 : 1, ranks, &evens);
    MPI_Comm_create(MPI_COMM_WORLD, evens, &group_comm);
    if (group_comm != MPI_COMM_NULL) {
        check_comm(group_comm);
        MPI_Comm_free(&group_comm);
    }
    MPI_Group_free(&evens);
    MPI_Group_free(&world);
    for (int i = 0; i < 20; i++) {
        MPI_Comm_dup(MPI_COMM_WORLD, &many[i]);
        check_comm(many[i]);
    }
    for (int i = 0; i < 20; i++)
        check_comm(many[19 - i]);
    for (int i = 0; i < 19; i++) /* the last is left to MPI_Finalize */
        MPI_Comm_free(&many[i]);
}

static void intercommunicator(void)
{
    MPI_Comm half, inter;
    int value = check_rank + 1, sum = 0, expected = 0, color = check_rank % 2;

    MPI_Comm_split(MPI_COMM_WORLD, color, 0, &half);
    MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - color, 9, &inter);
    for (int i = 0; i < 12; i++)
        MPI_Allreduce(&value, &sum, 1, MPI_INT, MPI_SUM, inter);
    for (int r = 1 - color; r < check_size; r += 2)
        expected += r + 1;
    check(sum == expected, "sum of the other side is %d, not %d", sum, expected);
    MPI_Comm_free(&inter);
    MPI_Comm_free(&half);
}

/*
 * Ranks that describe the same bytes differently, at sizes on both sides of what is taken: were one of them of another mind
 * about who serves the call than the others, they would wait for each other.
 */
static void one_mind(void)
{
    static const int sizes[] = {2, 32, 126, 128, 130, 510, 1022, 1024, 1026, 2048, 4096, 9000};
    enum { MOST = 9000 };
    int *in = need((size_t)check_size * MOST * sizeof(int));
    int *out = need((size_t)check_size * MOST * sizeof(int)), pairs = check_rank % 2;
    MPI_Datatype pair, type;

    MPI_Type_contiguous(2, MPI_INT, &pair);
    MPI_Type_commit(&pair);
    type = pairs ? pair : MPI_INT;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int n = sizes[i], count = pairs ? n / 2 : n, root = (int)i % check_size;

        for (int k = 0; k < check_size * n; k++)
            in[k] = check_rank * 100000 + k;
        MPI_Allgather(in, count, type, out, n, MPI_INT, MPI_COMM_WORLD);
        for (int r = 0; r < check_size; r++)
            check(out[r * n + n - 1] == r * 100000 + n - 1, "allgather of %d", n);
        MPI_Alltoall(in, n, MPI_INT, out, count, type, MPI_COMM_WORLD);
        for (int r = 0; r < check_size; r++)
            check(out[r * n] == r * 100000 + check_rank * n, "alltoall of %d", n);
        MPI_Gather(in, count, type, out, count, type, root, MPI_COMM_WORLD);
        for (int r = 0; r < check_size && check_rank == root; r++)
            check(out[r * n + 1] == r * 100000 + 1, "gather of %d", n);
        MPI_Scatter(in, count, type, out, count, type, root, MPI_COMM_WORLD);
        check(out[0] == root * 100000 + check_rank * n, "scatter of %d", n);
        MPI_Bcast(in, count, type, root, MPI_COMM_WORLD);
        check(in[n - 1] == root * 100000 + n - 1, "bcast of %d", n);
    }
    MPI_Type_free(&pair);
    free(in);
    free(out);
}

/* A rank that waits in a collective must get on with a message without which the other does not come. */
static void messages_go_on(void)
{
    enum { BIG = 8 << 20 };
    char *memory = need(BIG);
    MPI_Request request;

    for (int round = 0; round < 3; round++) {
        memset(memory, check_rank == 0 ? round + 1 : 0, BIG);
        if (check_rank == 0) {
            MPI_Isend(memory, BIG, MPI_CHAR, 1, 8, MPI_COMM_WORLD, &request);
            MPI_Barrier(MPI_COMM_WORLD);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
        } else {
            if (check_rank == 1) {
                MPI_Recv(memory, BIG, MPI_CHAR, 0, 8, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                check(memory[0] == round + 1 && memory[BIG - 1] == round + 1, "wrong message");
            }
            MPI_Barrier(MPI_COMM_WORLD);
        }
    }
    free(memory);
}

/* ---- threads ---- */

#define THREADS 3

static void *use_comm(void *argument)
{
    MPI_Comm comm = *(MPI_Comm *)argument;
    bool *good = need(sizeof *good);

    *good = true;
    for (int i = 0; i < 200; i++) {
        int in[64], out[64];
        MPI_Request request;

        for (int k = 0; k < 64; k++)
            in[k] = check_rank + i + k;
        if (i % 3) {
            MPI_Allreduce(in, out, 64, MPI_INT, MPI_SUM, comm);
        } else {
            MPI_Iallreduce(in, out, 64, MPI_INT, MPI_SUM, comm, &request);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
        }
        for (int k = 0; k < 64; k++)
            *good &= out[k] == total(i + k);
    }
    return good;
}

static void threads(void)
{
    pthread_t thread[THREADS];
    MPI_Comm comms[THREADS];

    for (int t = 0; t < THREADS; t++)
        MPI_Comm_dup(MPI_COMM_WORLD, &comms[t]);
    for (int t = 0; t < THREADS; t++)
        check(!pthread_create(&thread[t], NULL, use_comm, &comms[t]), "no thread");
    for (int t = 0; t < THREADS; t++) {
        bool *good;

        pthread_join(thread[t], (void **)&good);
        check(*good, "thread %d had wrong sums", t);
        free(good);
    }
    for (int t = 0; t < THREADS; t++)
        MPI_Comm_free(&comms[t]);
}

/* ---- errors ---- */

static int handled, handled_code;
static MPI_Comm handled_comm;

static void on_error(MPI_Comm *comm, int *code, ...)
{
    handled++;
    handled_comm = *comm;
    handled_code = *code;
}

static void expect(int code, int wanted, MPI_Comm comm, const char *what)
{
    int class = MPI_SUCCESS, of_handler = MPI_SUCCESS;

    MPI_Error_class(code, &class);
    check(class == wanted, "%s: class %d, not %d", what, class, wanted);
    check(handled == 1, "%s: the handler was called %d times", what, handled);
    if (handled) {
        MPI_Error_class(handled_code, &of_handler);
        check(of_handler == wanted, "%s: the handler got class %d", what, of_handler);
        check(handled_comm == comm, "%s: the handler got another communicator", what);
    }
    handled = 0;
}

static void errors(void)
{
    int in[4] = {1, 2, 3, 4}, out[64] = {0};
    MPI_Datatype raw;
    MPI_Errhandler handler;
    MPI_Comm comm, null = MPI_COMM_NULL;
    MPI_Request request;

    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    warm(comm);
    MPI_Comm_create_errhandler(on_error, &handler);
    MPI_Comm_set_errhandler(comm, handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler); /* of what has no communicator */
    expect(MPI_Allreduce(in, out, -1, MPI_INT, MPI_SUM, comm), MPI_ERR_COUNT, comm, "count");
    expect(MPI_Bcast(in, 4, MPI_DATATYPE_NULL, 0, comm), MPI_ERR_TYPE, comm, "type");
    expect(MPI_Allreduce(in, out, 4, MPI_INT, MPI_OP_NULL, comm), MPI_ERR_OP, comm, "op");
    expect(MPI_Allreduce(in, out, 1, MPI_FLOAT, MPI_BAND, comm), MPI_ERR_OP, comm, "op of type");
    expect(MPI_Bcast(in, 4, MPI_INT, check_size, comm), MPI_ERR_ROOT, comm, "root");
    expect(MPI_Bcast(in, 4, MPI_INT, -5, comm), MPI_ERR_ROOT, comm, "negative root");
    expect(MPI_Gather(in, -1, MPI_INT, out, 1, MPI_INT, 0, comm), MPI_ERR_COUNT, comm,
           "count of Gather");
    expect(MPI_Iallreduce(in, out, -1, MPI_INT, MPI_SUM, comm, &request), MPI_ERR_COUNT, comm,
           "count of Iallreduce");
    expect(MPI_Allreduce(in, out, 4, MPI_INT, MPI_SUM, null), MPI_ERR_COMM, MPI_COMM_WORLD,
           "null communicator");
    MPI_Type_vector(2, 1, 2, MPI_INT, &raw);
    expect(MPI_Bcast(in, 1, raw, 0, comm), MPI_ERR_TYPE, comm, "type that is not committed");
    MPI_Type_free(&raw);
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    check(MPI_Bcast(in, -1, MPI_INT, 0, comm) != MPI_SUCCESS && !handled, "MPI_ERRORS_RETURN");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
    MPI_Errhandler_free(&handler);
    check_comm(comm); /* as usable as before */
    MPI_Comm_free(&comm);
}

/* ---- the end ---- */

static int ends; /* callbacks that have run */

/* MPI_Finalize deletes the attributes of MPI_COMM_SELF first, the newest first: collectives work to the last of them. */
static int on_finalize(MPI_Comm self, int key, void *value, void *extra)
{
    int one = 1, sum = 0;

    (void)self, (void)key, (void)value, (void)extra;
    for (int i = 0; i < 3; i++)
        MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    check(sum == check_size, "while MPI_Finalize runs: sum=%d", sum);
    ends++;
    return MPI_SUCCESS;
}

static void at_finalize(void)
{
    int key;

    MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, on_finalize, &key, NULL);
    MPI_Comm_set_attr(MPI_COMM_SELF, key, NULL);
}

int main(int argc, char **argv)
{
    static const char *const ways[] = {"Waitall", "Waitany",  "Waitsome", "Testall",
                                       "Testany", "Testsome", "Test",     "Wait, last first"};
    char name[64];
    int provided, status;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    check_begin();
    at_finalize(); /* before the library has done so */
    warm(MPI_COMM_WORLD);
    for (int how = 0; how < WAYS; how++) {
        nonblocking((enum how)how);
        snprintf(name, sizeof name, "nonblocking calls among messages: %s", ways[how]);
        check_case(name);
#ifdef INIT
        persistent((enum how)how);
        snprintf(name, sizeof name, "persistent calls: %s", ways[how]);
        check_case(name);
#endif
    }
    many_in_flight();
    check_case("many calls in flight, a blocking one behind them");
    issuing_is_local();
    check_case("a nonblocking call never waits");
    communicators();
    check_case("split, dup, create, free; many communicators");
    if (check_size > 1) {
        intercommunicator();
        check_case("intercommunicator");
        messages_go_on();
        check_case("messages get on while a collective waits");
    }
    if (provided == MPI_THREAD_MULTIPLE) {
        threads();
        check_case("MPI_THREAD_MULTIPLE");
    }
    errors();
    check_case("errors: class, handler, communicator");
    one_mind();
    check_case("ranks with types of their own are of one mind");
    at_finalize();
    status = check_end();
    MPI_Finalize();
    check(ends == 2, "%d of 2 callbacks ran in MPI_Finalize", ends);
    return status || check_failures;
}
