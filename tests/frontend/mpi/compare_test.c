/*
 * Every collective, type, operation, form and layout by MPI_* beside the same by PMPI_*: all memory must be equal, bit for
 * bit, gaps and what must not be written included. Run with libthrum-mpi before the MPI library; see mpi-frontend.
 */
#include "check.h"

#include "calls.h"

#define MOST_COUNT 20000

/* ---- data ---- */

static uint64_t noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void fill_noise(void *memory, size_t bytes, uint64_t seed)
{
    uint64_t state = seed * 77 + (uint64_t)check_rank + 1;

    for (size_t i = 0; i < bytes; i += sizeof(uint32_t)) {
        uint32_t word = (uint32_t)noise(&state);

        memcpy((char *)memory + i, &word, bytes - i < sizeof word ? bytes - i : sizeof word);
    }
}

/* How elements of a type are made for reductions. */
enum kind { INTEGER, FLOATING, COMPLEX, LOGICAL, BITS };

static void set_element(void *memory, int size, enum kind kind, int value)
{
    switch (kind) {
    case FLOATING:
        if (size == 4)
            *(float *)memory = (float)value;
        else if (size == 8)
            *(double *)memory = value;
        else
            *(long double *)memory = value;
        return;
    case COMPLEX:
        set_element(memory, size / 2, FLOATING, value);
        set_element((char *)memory + size / 2, size / 2, FLOATING, value - 1);
        return;
    default: /* little endian */
        memset(memory, 0, (size_t)size);
        memcpy(memory, &value, (size_t)size < sizeof value ? (size_t)size : sizeof value);
    }
}

/* Small numbers: sums and products of all ranks are exact in every type. */
static void fill_numbers(void *memory, int n, int size, enum kind kind, bool product)
{
    for (int i = 0; i < n; i++) {
        int value = (check_rank * 7 + i * 3) % 5 + 1;

        if (product)
            value = (check_rank + i) % 3 == 0 ? 2 : 1;
        if (kind == LOGICAL)
            value = (check_rank + i) % 3 != 0;
        set_element((char *)memory + (size_t)i * (size_t)size, size, kind, value);
    }
}

/* ---- one call, both ways ---- */

/* Buffers of one way; in place the one that is not used is left alone and compared all the same. */
struct buffers {
    char *send, *recv;
};

static struct buffers copy_of(const struct buffers *from, size_t bytes)
{
    struct buffers copy = {need(bytes), need(bytes)};

    memcpy(copy.send, from->send, bytes);
    memcpy(copy.recv, from->recv, bytes);
    return copy;
}

static void drop(struct buffers *buffers)
{
    free(buffers->send);
    free(buffers->recv);
}

static struct tmpi_call with(const struct tmpi_call *call, const struct buffers *buffers)
{
    struct tmpi_call result = *call;

    if (call->function == TMPI_BCAST)
        result.send = result.recv = buffers->recv;
    if (call->send != MPI_IN_PLACE && call->function != TMPI_BCAST)
        result.send = buffers->send;
    if (call->recv != MPI_IN_PLACE)
        result.recv = buffers->recv;
    return result;
}

static int run(const struct tmpi_call *call, enum form form)
{
    MPI_Request request = MPI_REQUEST_NULL;
    int code;

    if (form == BLOCKING)
        return call_blocking(call);
    if (form == NONBLOCKING) {
        code = call_nonblocking(call, &request);
        return code ? code : MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
#ifdef TMPI_INIT
    code = call_init(call, &request);
    if (!code)
        code = MPI_Start(&request);
    if (!code)
        code = MPI_Wait(&request, MPI_STATUS_IGNORE);
    return code ? code : MPI_Request_free(&request);
#else
    return MPI_SUCCESS;
#endif
}

static size_t first_difference(const char *a, const char *b, size_t bytes)
{
    size_t i = 0;

    if (!memcmp(a, b, bytes))
        return bytes;
    while (a[i] == b[i])
        i++;
    return i;
}

/* input: of both ways, `bytes` each, of which `defined` of recv are the result's. */
static void compare(const struct tmpi_call *call, enum form form, const struct buffers *input,
                    size_t bytes, size_t defined, const char *what)
{
    struct buffers tested = copy_of(input, bytes), expected = copy_of(input, bytes);
    struct tmpi_call test = with(call, &tested), reference = with(call, &expected);
    size_t at;

    check(call_raw(&reference) == MPI_SUCCESS, "%s: PMPI failed", function_names[call->function]);
    check(run(&test, form) == MPI_SUCCESS, "%s form %d %s: failed", function_names[call->function],
          (int)form, what);
    at = first_difference(tested.recv, expected.recv, defined);
    check(at == defined, "%s form %d %s: recv differs at byte %zu of %zu",
          function_names[call->function], (int)form, what, at, defined);
    at = first_difference(tested.send, expected.send, bytes);
    check(at == bytes, "%s form %d %s: send was written at byte %zu",
          function_names[call->function], (int)form, what, at);
    drop(&tested);
    drop(&expected);
}

/* ---- moves ---- */

/* Counts and displacements of v-variants: uneven, one is 0, and with gaps that differ from rank to rank. */
struct vectors {
    int sendcounts[MOST_RANKS], sdispls[MOST_RANKS], recvcounts[MOST_RANKS], rdispls[MOST_RANKS];
};

static int block_of(int count, int from, int to)
{
    return from != to && (from + 2 * to) % 4 == 2 ? 0 : count / (1 + (from + to) % 3);
}

static void spread(const int *counts, int *displs, int n, bool reverse, int gap)
{
    int next = 0;

    for (int i = 0; i < n; i++) {
        int r = reverse ? n - 1 - i : i;

        displs[r] = next;
        next += counts[r] + gap;
    }
}

static void fill_vectors(struct vectors *v, struct tmpi_call *call, int count, bool gaps)
{
    int n = check_size, me = check_rank;
    bool all = call->function == TMPI_ALLTOALLV;

    for (int r = 0; r < n; r++) {
        v->sendcounts[r] = all ? block_of(count, me, r) : block_of(count, r, 0);
        v->recvcounts[r] = all ? block_of(count, r, me) : block_of(count, r, 0);
    }
    if (all && call->send == MPI_IN_PLACE) /* what is sent is as much as what comes */
        for (int r = 0; r < n; r++)
            v->recvcounts[r] = block_of(count, me < r ? me : r, me < r ? r : me);
    spread(v->sendcounts, v->sdispls, n, gaps && me % 2, gaps ? me % 3 : 0);
    spread(v->recvcounts, v->rdispls, n, gaps && me % 2 == 0, gaps ? 1 + me % 2 : 0);
    if (call->function == TMPI_ALLGATHERV || call->function == TMPI_GATHERV)
        call->sendcount = v->recvcounts[me];
    if (call->function == TMPI_SCATTERV)
        call->recvcount = v->sendcounts[me];
    call->sendcounts = v->sendcounts;
    call->sdispls = v->sdispls;
    call->recvcounts = v->recvcounts;
    call->rdispls = v->rdispls;
}

/* A type, and how its elements lie. `alike`: another one of the same signature, for the other side of a call. */
struct layout {
    const char *name;
    MPI_Datatype type, alike;
};

static MPI_Datatype committed(MPI_Datatype type)
{
    MPI_Type_commit(&type);
    return type;
}

static MPI_Datatype triple(int kind)
{
    const int lengths[] = {1, 1, 1};
    const MPI_Aint shuffled[] = {8, 0, 4};
    const MPI_Datatype ints[] = {MPI_INT, MPI_INT, MPI_INT};
    MPI_Datatype type, resized;

    if (kind == 0)
        MPI_Type_contiguous(3, MPI_INT, &type);
    else if (kind == 1)
        MPI_Type_vector(3, 1, 2, MPI_INT, &type);
    else
        MPI_Type_create_struct(3, lengths, shuffled, ints, &type);
    if (kind != 1)
        return committed(type);
    MPI_Type_create_resized(type, 0, 28, &resized);
    MPI_Type_free(&type);
    return committed(resized);
}

static void move_one(enum tmpi_function function, const struct layout *layout, int count,
                     bool in_place, int root, enum form form, bool gaps)
{
    struct tmpi_call call = {.function = function, .comm = MPI_COMM_WORLD, .root = root};
    struct vectors vectors;
    struct buffers input;
    bool at_root = root == check_rank;
    MPI_Aint lower, extent, other;
    size_t bytes;
    char what[128];

    snprintf(what, sizeof what, "%s count %d%s root %d%s", layout->name, count,
             in_place ? " in place" : "", root, gaps ? " gaps" : "");
    MPI_Type_get_extent(layout->type, &lower, &extent);
    MPI_Type_get_extent(layout->alike, &lower, &other);
    if (other > extent)
        extent = other;
    bytes = (size_t)(check_size + 1) * (size_t)(count + 4) * (size_t)extent + 64;
    input = (struct buffers){need(bytes), need(bytes)};
    fill_noise(input.send, bytes, 1);
    fill_noise(input.recv, bytes, 2);
    call.sendtype = check_rank % 2 ? layout->alike : layout->type;
    call.recvtype = check_rank % 2 ? layout->type : layout->alike;
    call.sendcount = call.recvcount = count;
    if (in_place && (function == TMPI_SCATTER || function == TMPI_SCATTERV)) {
        if (at_root)
            call.recv = MPI_IN_PLACE;
    } else if (in_place && ((function != TMPI_GATHER && function != TMPI_GATHERV) || at_root)) {
        call.send = MPI_IN_PLACE;
    }
    if (function == TMPI_ALLTOALL && in_place) /* the blocks go both ways: one type */
        call.recvtype = call.sendtype;
    if (in_place && (function == TMPI_ALLTOALL || function == TMPI_ALLTOALLV))
        call.recvtype = layout->type;
    fill_vectors(&vectors, &call, count, gaps);
    compare(&call, form, &input, bytes, bytes, what);
    drop(&input);
}

static void moves(const struct layout *layouts, int nlayouts, enum form form)
{
    static const enum tmpi_function functions[] = {TMPI_BCAST,    TMPI_ALLGATHER, TMPI_ALLGATHERV,
                                                   TMPI_ALLTOALL, TMPI_ALLTOALLV, TMPI_GATHER,
                                                   TMPI_GATHERV,  TMPI_SCATTER,   TMPI_SCATTERV};
    static const int counts[] = {0, 1, 5, 700, MOST_COUNT};

    for (size_t f = 0; f < sizeof functions / sizeof *functions; f++)
        for (int l = 0; l < nlayouts; l++)
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
                bool v = 1u << functions[f] & (1u << TMPI_ALLGATHERV | 1u << TMPI_ALLTOALLV |
                                               1u << TMPI_GATHERV | 1u << TMPI_SCATTERV);
                bool may_in_place = functions[f] != TMPI_BCAST;

                if (counts[c] > 1000 && l > 1 && l != 3)
                    continue;
                for (int in_place = 0; in_place <= may_in_place; in_place++)
                    for (int gaps = 0; gaps <= v; gaps++)
                        move_one(functions[f], &layouts[l], counts[c], in_place,
                                 (l + (int)c) % check_size, form, gaps);
            }
}

/* ---- reductions ---- */

struct number {
    const char *name;
    MPI_Datatype type;
    enum kind kind;
};

static bool is_defined(const struct number *number, MPI_Op op)
{
    bool arithmetic = op == MPI_SUM || op == MPI_PROD, order = op == MPI_MAX || op == MPI_MIN;
    bool bits = op == MPI_BAND || op == MPI_BOR || op == MPI_BXOR;
    bool logic = op == MPI_LAND || op == MPI_LOR || op == MPI_LXOR;

    switch (number->kind) {
    case INTEGER:
        return arithmetic || order || bits || (logic && strncmp(number->name, "Fortran", 7));
    case FLOATING:
        return arithmetic || order;
    case COMPLEX:
        return arithmetic;
    case LOGICAL:
        return logic;
    default:
        return bits;
    }
}

static void reduce_one(enum tmpi_function function, const struct number *number, MPI_Op op,
                       int count, bool in_place, int root, enum form form)
{
    struct tmpi_call call = {.function = function,
                             .comm = MPI_COMM_WORLD,
                             .root = root,
                             .op = op,
                             .sendtype = number->type,
                             .sendcount = count,
                             .recvcount = count};
    int counts[MOST_RANKS], size, n = count;
    MPI_Aint lower, extent;
    struct buffers input;
    size_t bytes, defined;

    if (number->type == MPI_DATATYPE_NULL || MPI_Type_size(number->type, &size) || size <= 0)
        return;
    MPI_Type_get_extent(number->type, &lower, &extent);
    if (function == TMPI_REDUCE_SCATTER_BLOCK)
        n = count * check_size;
    if (function == TMPI_REDUCE_SCATTER) {
        n = 0;
        for (int r = 0; r < check_size; r++)
            n += counts[r] = block_of(count, r, 0);
        call.recvcounts = counts;
    }
    bytes = (size_t)(n + 3) * (size_t)extent;
    input = (struct buffers){need(bytes), need(bytes)};
    fill_noise(input.send, bytes, 3);
    fill_noise(input.recv, bytes, 4);
    if (number->kind != BITS) {
        bool logic = op == MPI_LAND || op == MPI_LOR || op == MPI_LXOR;
        enum kind kind = logic ? LOGICAL : number->kind;

        fill_numbers(input.send, n, size, kind, op == MPI_PROD);
        fill_numbers(input.recv, n, size, kind, op == MPI_PROD);
    }
    if (in_place && (function != TMPI_REDUCE || root == check_rank))
        call.send = MPI_IN_PLACE;
    /* in place, what is behind the block is nobody's afterwards */
    if (in_place && (function == TMPI_REDUCE_SCATTER || function == TMPI_REDUCE_SCATTER_BLOCK))
        defined =
            (size_t)(function == TMPI_REDUCE_SCATTER ? counts[check_rank] : count) * (size_t)extent;
    else
        defined = bytes;
    compare(&call, form, &input, bytes, defined, number->name);
    drop(&input);
}

static const enum tmpi_function reductions[] = {TMPI_ALLREDUCE,      TMPI_REDUCE,
                                                TMPI_REDUCE_SCATTER, TMPI_REDUCE_SCATTER_BLOCK,
                                                TMPI_SCAN,           TMPI_EXSCAN};
#define REDUCTIONS (sizeof reductions / sizeof *reductions)

static void all_types(const struct number *numbers, size_t n)
{
    const MPI_Op ops[] = {MPI_SUM, MPI_PROD, MPI_MAX, MPI_MIN,  MPI_LAND,
                          MPI_LOR, MPI_BAND, MPI_BOR, MPI_BXOR, MPI_LXOR};

    for (size_t t = 0; t < n; t++)
        for (size_t o = 0; o < sizeof ops / sizeof *ops; o++)
            for (size_t f = 0; f < REDUCTIONS && is_defined(&numbers[t], ops[o]); f++)
                reduce_one(reductions[f], &numbers[t], ops[o], 37, o % 2, (int)o % check_size,
                           BLOCKING);
}

static void all_sizes(const struct number *number, enum form form)
{
    static const int counts[] = {0, 1, 2, 5, 255, 4096, MOST_COUNT};

    for (size_t f = 0; f < REDUCTIONS; f++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            for (int in_place = 0; in_place < 2; in_place++)
                reduce_one(reductions[f], number, MPI_SUM, counts[c], in_place, (int)c % check_size,
                           form);
}

static void pairs(void)
{
    const MPI_Datatype types[] = {MPI_DOUBLE_INT, MPI_2INT};

    for (size_t t = 0; t < 2; t++) {
        struct {
            double value;
            int index, gap;
        } mine[5], tested[5], expected[5];

        memset(mine, 0, sizeof mine);
        memset(tested, 0, sizeof tested);
        memset(expected, 0, sizeof expected);
        for (int i = 0; i < 5; i++) {
            mine[i].value = (check_rank * 3 + i) % 4;
            mine[i].index = check_rank;
        }
        MPI_Allreduce(mine, tested, 5, types[t], MPI_MAXLOC, MPI_COMM_WORLD);
        PMPI_Allreduce(mine, expected, 5, types[t], MPI_MAXLOC, MPI_COMM_WORLD);
        check(!memcmp(tested, expected, sizeof tested), "MAXLOC of type %zu differs", t);
    }
}

/* ---- operations of the caller's ---- */

/* What the operations check: that they are told the type of the call, and by whom they are called. */
static MPI_Datatype used_type;
static pthread_t main_thread;
static bool pending; /* the call is not a blocking one */

static void check_call(const MPI_Datatype *type)
{
    check(*type == used_type, "the operation is told another type");
    check(!pending || pthread_equal(pthread_self(), main_thread),
          "a thread that is not the program's calls the operation");
}

/* Not commutative: products of 2 x 2 matrices of integers that lie `step` apart, and sums of what is behind them. */
static void multiply_by(unsigned *a, unsigned *b, int n, int step, int elements, int stride)
{
    for (int i = 0; i < n; i++, a += stride, b += stride) {
        const unsigned c[4] = {a[0] * b[0] + a[step] * b[2 * step],
                               a[0] * b[step] + a[step] * b[3 * step],
                               a[2 * step] * b[0] + a[3 * step] * b[2 * step],
                               a[2 * step] * b[step] + a[3 * step] * b[3 * step]};
        for (int k = 0; k < 4; k++)
            b[k * step] = c[k];
        for (int k = 4; k < elements; k++)
            b[k * step] += a[k * step];
    }
}

static void multiply(void *in, void *inout, int *n, MPI_Datatype *type)
{
    check_call(type);
    multiply_by(in, inout, *n, 1, 4, 4);
}

static void multiply_with_sums(void *in, void *inout, int *n, MPI_Datatype *type)
{
    check_call(type);
    multiply_by(in, inout, *n, 1, 6, 6);
}

static void multiply_with_gaps(void *in, void *inout, int *n, MPI_Datatype *type)
{
    check_call(type);
    multiply_by(in, inout, *n, 2, 4, 9);
}

static void mix(void *in, void *inout, int *n, MPI_Datatype *type)
{
    unsigned char *a = in, *b = inout;

    check_call(type);
    for (int i = 0; i < 3 * *n; i++) /* all bits of the left one, but for the right one's last */
        b[i] = (unsigned char)((a[i] & ~1) | (b[i] & 1));
}

static void largest(void *in, void *inout, int *n, MPI_Datatype *type)
{
    double *a = in, *b = inout;

    check_call(type);
    for (int i = 0; i < *n; i++)
        b[i] = a[i] > b[i] ? a[i] : b[i];
}

static MPI_Datatype matrices_with_gaps(void)
{
    MPI_Datatype vector, type;

    MPI_Type_vector(4, 1, 2, MPI_INT, &vector);
    MPI_Type_create_resized(vector, 0, 9 * (MPI_Aint)sizeof(int), &type);
    MPI_Type_free(&vector);
    return committed(type);
}

static void user_ops(enum form form)
{
    static const int counts[] = {1, 3, 300, 9000};
    struct {
        struct number number;
        MPI_User_function *function;
        int commutes;
    } cases[] = {{{"2x2 matrices", MPI_DATATYPE_NULL, BITS}, multiply, 0},
                 {{"24 bytes", MPI_DATATYPE_NULL, BITS}, multiply_with_sums, 0},
                 {{"3 bytes", MPI_DATATYPE_NULL, BITS}, mix, 0},
                 {{"with gaps", MPI_DATATYPE_NULL, BITS}, multiply_with_gaps, 0},
                 {{"double", MPI_DOUBLE, FLOATING}, largest, 1}};
    MPI_Op op;

    MPI_Type_contiguous(4, MPI_INT, &cases[0].number.type);
    MPI_Type_commit(&cases[0].number.type);
    MPI_Type_contiguous(6, MPI_INT, &cases[1].number.type);
    MPI_Type_commit(&cases[1].number.type);
    MPI_Type_contiguous(3, MPI_BYTE, &cases[2].number.type);
    MPI_Type_commit(&cases[2].number.type);
    cases[3].number.type = matrices_with_gaps();
    pending = form != BLOCKING;
    main_thread = pthread_self();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int again = 0; again < 3; again++) { /* handles come again */
            MPI_Op_create(cases[i].function, cases[i].commutes, &op);
            used_type = cases[i].number.type;
            for (size_t f = 0; f < REDUCTIONS; f++)
                for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
                    reduce_one(reductions[f], &cases[i].number, op, counts[c], c % 2,
                               (int)c % check_size, form);
            MPI_Op_free(&op);
        }
    for (size_t i = 0; i < 4; i++)
        MPI_Type_free(&cases[i].number.type);
}

static void run_all(void)
{
    struct layout layouts[] = {{"int", MPI_INT, MPI_INT},
                               {"contiguous", triple(0), triple(0)},
                               {"shuffled", triple(2), triple(2)},
                               {"vector", triple(1), triple(1)},
                               {"contiguous and vector", triple(0), triple(1)},
                               {"double_int", MPI_DOUBLE_INT, MPI_DOUBLE_INT}};
    const struct number numbers[] = {{"signed char", MPI_SIGNED_CHAR, INTEGER},
                                     {"unsigned char", MPI_UNSIGNED_CHAR, INTEGER},
                                     {"short", MPI_SHORT, INTEGER},
                                     {"unsigned short", MPI_UNSIGNED_SHORT, INTEGER},
                                     {"int", MPI_INT, INTEGER},
                                     {"unsigned", MPI_UNSIGNED, INTEGER},
                                     {"long", MPI_LONG, INTEGER},
                                     {"unsigned long", MPI_UNSIGNED_LONG, INTEGER},
                                     {"long long", MPI_LONG_LONG, INTEGER},
                                     {"unsigned long long", MPI_UNSIGNED_LONG_LONG, INTEGER},
                                     {"int8_t", MPI_INT8_T, INTEGER},
                                     {"uint16_t", MPI_UINT16_T, INTEGER},
                                     {"int64_t", MPI_INT64_T, INTEGER},
                                     {"aint", MPI_AINT, INTEGER},
                                     {"count", MPI_COUNT, INTEGER},
                                     {"float", MPI_FLOAT, FLOATING},
                                     {"double", MPI_DOUBLE, FLOATING},
                                     {"float complex", MPI_C_FLOAT_COMPLEX, COMPLEX},
                                     {"double complex", MPI_C_DOUBLE_COMPLEX, COMPLEX},
                                     {"bool", MPI_C_BOOL, LOGICAL},
                                     {"byte", MPI_BYTE, BITS},
                                     {"Fortran integer", MPI_INTEGER, INTEGER},
                                     {"Fortran real", MPI_REAL, FLOATING},
                                     {"Fortran double precision", MPI_DOUBLE_PRECISION, FLOATING},
                                     {"Fortran complex", MPI_COMPLEX, COMPLEX},
                                     {"Fortran logical", MPI_LOGICAL, LOGICAL}};
    static const char *const forms[] = {"blocking", "nonblocking", "persistent"};
    char name[64];
#ifdef TMPI_INIT
    const int last = PERSISTENT;
#else
    const int last = NONBLOCKING;
#endif

    for (enum form form = BLOCKING; (int)form <= last; form++) {
        moves(layouts, sizeof layouts / sizeof *layouts, form);
        snprintf(name, sizeof name, "moves, %s", forms[form]);
        check_case(name);
        all_sizes(&(struct number){"float", MPI_FLOAT, FLOATING}, form);
        snprintf(name, sizeof name, "reductions of all sizes, %s", forms[form]);
        check_case(name);
        user_ops(form);
        snprintf(name, sizeof name, "operations of the caller's, %s", forms[form]);
        check_case(name);
    }
    all_types(numbers, sizeof numbers / sizeof *numbers);
    check_case("all types and operations");
    pairs();
    check_case("MAXLOC");
}

int main(int argc, char **argv)
{
    int status;

    MPI_Init(&argc, &argv);
    check_begin();
    run_all();
    status = check_end();
    MPI_Finalize();
    return status;
}
