/*
 * What MPI's data types and operations are in Thrum. Predefined types are in a table made once; what is found out about
 * a derived type is kept at the type, as an attribute. Called by take.c and give.c.
 */
#include "frontend.h"

#include <stdlib.h>
#include <string.h>

/* ---- predefined types ---- */

struct tmpi_type_slot tmpi_type_slots[TMPI_TYPE_SLOTS];
static int keyval = MPI_KEYVAL_INVALID;

/* The type's Thrum type, by its class and size. */
static bool element_of(enum tmpi_class class, bool is_signed, size_t size, thrum_datatype_t *out)
{
    static const thrum_datatype_t integers[2][4] = {
        {THRUM_UINT8, THRUM_UINT16, THRUM_UINT32, THRUM_UINT64},
        {THRUM_INT8, THRUM_INT16, THRUM_INT32, THRUM_INT64}};
    int log2 = size && !(size & (size - 1)) ? __builtin_ctzl(size) : 99;

    switch (class) {
    case TMPI_CLASS_NONE:
        return false;
    case TMPI_CLASS_FLOAT:
        *out = size == 4 ? THRUM_FLOAT32 : THRUM_FLOAT64;
        return size == 4 || size == 8;
    case TMPI_CLASS_COMPLEX:
        *out = size == 8 ? THRUM_COMPLEX64 : THRUM_COMPLEX128;
        return size == 8 || size == 16;
    default:
        if (log2 > 3)
            return false;
        *out = integers[is_signed][log2];
        return true;
    }
}

/* Elements of this many bytes may be handed to a function of the caller's, as any Thrum type of that size. */
static bool stand_in(size_t size, thrum_datatype_t *out)
{
    switch (size) {
    case 1:
        *out = THRUM_UINT8;
        return true;
    case 2:
        *out = THRUM_UINT16;
        return true;
    case 4:
        *out = THRUM_UINT32;
        return true;
    case 8:
        *out = THRUM_UINT64;
        return true;
    case 16:
        *out = THRUM_COMPLEX128;
        return true;
    default:
        return false;
    }
}

static void add(MPI_Datatype handle, enum tmpi_class class, bool is_signed)
{
    struct tmpi_type type = {.class = class};
    MPI_Aint lower;
    size_t i;
    int size;

    if (handle == MPI_DATATYPE_NULL || tmpi_predefined(handle) || PMPI_Type_size(handle, &size) ||
        size <= 0 || PMPI_Type_get_extent(handle, &lower, &type.extent))
        return;
    type.size = (size_t)size;
    type.dense = lower == 0 && type.extent == size;
    type.has_dtype = type.dense && element_of(class, is_signed, type.size, &type.dtype);
    if (!type.has_dtype) {
        type.class = TMPI_CLASS_NONE;
        type.has_dtype = type.dense && stand_in(type.size, &type.dtype);
    }
    for (i = tmpi_type_slot_of(handle); tmpi_type_slots[i].handle != MPI_DATATYPE_NULL;)
        i = (i + 1) % TMPI_TYPE_SLOTS;
    tmpi_type_slots[i] = (struct tmpi_type_slot){handle, type};
}

static void add_c_types(void)
{
    const MPI_Datatype integers[] = {MPI_SIGNED_CHAR, MPI_SHORT,     MPI_INT,
                                     MPI_LONG,        MPI_LONG_LONG, MPI_INT8_T,
                                     MPI_INT16_T,     MPI_INT32_T,   MPI_INT64_T};
    const MPI_Datatype naturals[] = {MPI_UNSIGNED_CHAR, MPI_UNSIGNED_SHORT,     MPI_UNSIGNED,
                                     MPI_UNSIGNED_LONG, MPI_UNSIGNED_LONG_LONG, MPI_UINT8_T,
                                     MPI_UINT16_T,      MPI_UINT32_T,           MPI_UINT64_T};
    const MPI_Datatype own[] = {MPI_AINT, MPI_OFFSET, MPI_COUNT};
    const MPI_Datatype moved[] = {
        MPI_CHAR,     MPI_WCHAR,      MPI_PACKED,    MPI_LONG_DOUBLE, MPI_FLOAT_INT,
        MPI_LONG_INT, MPI_DOUBLE_INT, MPI_SHORT_INT, MPI_2INT,        MPI_LONG_DOUBLE_INT};

    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        add(integers[i], TMPI_CLASS_INTEGER, true);
    for (size_t i = 0; i < sizeof naturals / sizeof *naturals; i++)
        add(naturals[i], TMPI_CLASS_INTEGER, false);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        add(own[i], TMPI_CLASS_ANY_INTEGER, true);
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++)
        add(moved[i], TMPI_CLASS_NONE, false);
    add(MPI_FLOAT, TMPI_CLASS_FLOAT, true);
    add(MPI_DOUBLE, TMPI_CLASS_FLOAT, true);
    add(MPI_C_FLOAT_COMPLEX, TMPI_CLASS_COMPLEX, true);
    add(MPI_C_DOUBLE_COMPLEX, TMPI_CLASS_COMPLEX, true);
    add(MPI_C_LONG_DOUBLE_COMPLEX, TMPI_CLASS_NONE, true);
    add(MPI_C_BOOL, TMPI_CLASS_LOGICAL, false);
    add(MPI_BYTE, TMPI_CLASS_BYTE, false);
}

/* Those that this MPI was built without are MPI_DATATYPE_NULL, or have no size. */
static void add_fortran_types(void)
{
    const MPI_Datatype integers[] = {MPI_INTEGER, MPI_INTEGER1, MPI_INTEGER2, MPI_INTEGER4,
                                     MPI_INTEGER8};
    const MPI_Datatype floats[] = {MPI_REAL, MPI_DOUBLE_PRECISION, MPI_REAL4, MPI_REAL8};
    const MPI_Datatype complex[] = {MPI_COMPLEX, MPI_DOUBLE_COMPLEX, MPI_COMPLEX8, MPI_COMPLEX16};
    const MPI_Datatype moved[] = {MPI_CHARACTER, MPI_2REAL, MPI_2DOUBLE_PRECISION, MPI_2INTEGER};

    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        add(integers[i], TMPI_CLASS_FORTRAN_INTEGER, true);
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        add(floats[i], TMPI_CLASS_FLOAT, true);
    for (size_t i = 0; i < sizeof complex / sizeof *complex; i++)
        add(complex[i], TMPI_CLASS_COMPLEX, true);
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++)
        add(moved[i], TMPI_CLASS_NONE, false);
    add(MPI_LOGICAL, TMPI_CLASS_LOGICAL, true);
}

/* ---- derived types ---- */

static bool is_dense(MPI_Datatype type);

static void free_named(MPI_Datatype type)
{
    int integers, addresses, types, combiner;

    if (!PMPI_Type_get_envelope(type, &integers, &addresses, &types, &combiner) &&
        combiner != MPI_COMBINER_NAMED && combiner != MPI_COMBINER_F90_REAL &&
        combiner != MPI_COMBINER_F90_COMPLEX && combiner != MPI_COMBINER_F90_INTEGER)
        PMPI_Type_free(&type);
}

/* A structure whose parts are dense and follow each other. */
static bool is_dense_struct(const int *counts, const MPI_Aint *displs, const MPI_Datatype *types)
{
    MPI_Aint end = 0;

    for (int i = 0; i < counts[0]; i++) {
        MPI_Aint lower, extent;

        if (!counts[i + 1])
            continue;
        if (displs[i] != end || !is_dense(types[i]) ||
            PMPI_Type_get_extent(types[i], &lower, &extent))
            return false;
        end += counts[i + 1] * extent;
    }
    return true;
}

/* What the envelope says; only the constructors that programs use for plain arrays are looked into. */
static bool is_dense_by(int combiner, const int *integers, const MPI_Aint *addresses,
                        const MPI_Datatype *types)
{
    switch (combiner) {
    case MPI_COMBINER_DUP:
    case MPI_COMBINER_CONTIGUOUS:
        return is_dense(types[0]);
    case MPI_COMBINER_RESIZED:
        return is_dense(types[0]); /* size == extent was looked at */
    case MPI_COMBINER_VECTOR:
        return (integers[0] == 1 || integers[1] == integers[2]) && is_dense(types[0]);
    case MPI_COMBINER_STRUCT:
        return is_dense_struct(integers, addresses, types);
    default:
        return false;
    }
}

static bool is_dense(MPI_Datatype type)
{
    int nintegers, naddresses, ntypes, combiner, size;
    MPI_Aint lower, extent;
    const struct tmpi_type *known = tmpi_predefined(type);
    bool dense = false;
    int *integers;
    MPI_Aint *addresses;
    MPI_Datatype *types;

    if (known)
        return known->dense;
    if (PMPI_Type_size(type, &size) || PMPI_Type_get_extent(type, &lower, &extent) || lower ||
        extent != size ||
        PMPI_Type_get_envelope(type, &nintegers, &naddresses, &ntypes, &combiner) ||
        combiner == MPI_COMBINER_NAMED || !ntypes)
        return false;
    integers = calloc((size_t)nintegers + 1, sizeof *integers);
    addresses = calloc((size_t)naddresses + 1, sizeof *addresses);
    types = calloc((size_t)ntypes, sizeof *types);
    if (integers && addresses && types &&
        !PMPI_Type_get_contents(type, nintegers, naddresses, ntypes, integers, addresses, types)) {
        dense = is_dense_by(combiner, integers, addresses, types);
        for (int i = 0; i < ntypes; i++)
            free_named(types[i]);
    }
    free(integers);
    free(addresses);
    free(types);
    return dense;
}

static bool is_committed(MPI_Datatype type)
{
    char nothing[1];
    int position = 0;

    return PMPI_Pack(nothing, 0, type, nothing, 0, &position, tmpi.self) == MPI_SUCCESS;
}

/* The caller may free a type while calls that were given it are pending. */
struct kept_type {
    struct tmpi_type type;
    _Atomic bool freed; /* the caller's handle */
    _Atomic int users; /* the caller's handle, and calls */
};

static struct kept_type *kept(const struct tmpi_type *type)
{
    return (struct kept_type *)((char *)(uintptr_t)type - offsetof(struct kept_type, type));
}

static void release(const struct tmpi_type *type)
{
    if (atomic_fetch_sub(&kept(type)->users, 1) == 1)
        free(kept(type));
}

/* Not by MPI_Type_dup, which would call what the caller has attached to the type. */
static bool make_like(MPI_Datatype type, MPI_Datatype *out)
{
    if (PMPI_Type_contiguous(1, type, out))
        return false;
    if (!PMPI_Type_commit(out))
        return true;
    (void)PMPI_Type_free(out);
    return false;
}

bool tmpi_type_keep(const struct tmpi_type *type, bool is_called, MPI_Datatype *handle)
{
    MPI_Datatype like;

    if (!type || !type->derived)
        return true;
    if (!type->dense || is_called) {
        if (!make_like(*handle, &like))
            return false;
        *handle = like;
    }
    atomic_fetch_add(&kept(type)->users, 1);
    return true;
}

/* The handle may be the last that refers to the type, which is then forgotten: not before this is through with it. */
void tmpi_type_release(const struct tmpi_type *type, bool is_called, MPI_Datatype *handle)
{
    if (!type || !type->derived)
        return;
    if (!type->dense || is_called)
        (void)PMPI_Type_free(handle);
    release(type);
}

bool tmpi_type_is_freed(const struct tmpi_type *type)
{
    return type->derived && atomic_load(&kept(type)->freed);
}

static bool describe(MPI_Datatype type, struct tmpi_type *info)
{
    MPI_Aint lower;
    int size;

    if (!is_committed(type) || PMPI_Type_size(type, &size) || size < 0 ||
        PMPI_Type_get_extent(type, &lower, &info->extent))
        return false;
    info->derived = true;
    info->size = (size_t)size;
    info->dense = is_dense(type);
    info->has_dtype = info->dense && stand_in(info->size, &info->dtype);
    return true;
}

static const struct tmpi_type *learn(MPI_Datatype type)
{
    struct kept_type *info = calloc(1, sizeof *info);

    if (!info || !describe(type, &info->type)) {
        free(info);
        return NULL;
    }
    atomic_store(&info->users, 1);
    if (PMPI_Type_set_attr(type, keyval, &info->type)) {
        free(info);
        return NULL;
    }
    return &info->type;
}

static int forget(MPI_Datatype type, int key, void *info, void *extra)
{
    (void)type, (void)key, (void)extra;
    atomic_store(&kept(info)->freed, true);
    release(info);
    return MPI_SUCCESS;
}

const struct tmpi_type *tmpi_type_of(MPI_Datatype type)
{
    const struct tmpi_type *info = tmpi_predefined(type);
    int found;

    if (info || type == MPI_DATATYPE_NULL || keyval == MPI_KEYVAL_INVALID)
        return info;
    if (PMPI_Type_get_attr(type, keyval, &info, &found))
        return NULL;
    return found ? info : learn(type);
}

bool tmpi_types_init(void)
{
    for (size_t i = 0; i < TMPI_TYPE_SLOTS; i++)
        tmpi_type_slots[i].handle = MPI_DATATYPE_NULL;
    add_c_types();
    add_fortran_types();
    return PMPI_Type_create_keyval(MPI_TYPE_NULL_COPY_FN, forget, &keyval, NULL) == MPI_SUCCESS;
}

void tmpi_types_fini(void)
{
    if (keyval != MPI_KEYVAL_INVALID)
        PMPI_Type_free_keyval(&keyval);
}

/* ---- operations ---- */

/* Which operations MPI defines for a class. */
static unsigned operations_of(enum tmpi_class class)
{
    const unsigned arithmetic = 1u << THRUM_SUM | 1u << THRUM_PROD,
                   order = 1u << THRUM_MAX | 1u << THRUM_MIN,
                   bits = 1u << THRUM_BAND | 1u << THRUM_BOR | 1u << THRUM_BXOR,
                   logic = 1u << THRUM_LAND | 1u << THRUM_LOR;

    switch (class) {
    case TMPI_CLASS_INTEGER:
    case TMPI_CLASS_ANY_INTEGER:
        return arithmetic | order | bits | logic;
    case TMPI_CLASS_FORTRAN_INTEGER:
        return arithmetic | order | bits;
    case TMPI_CLASS_FLOAT:
        return arithmetic | order;
    case TMPI_CLASS_COMPLEX:
        return arithmetic;
    case TMPI_CLASS_LOGICAL:
        return logic;
    case TMPI_CLASS_BYTE:
        return bits;
    default:
        return 0;
    }
}

/* Thrum's operation; -1: MPI's, but not Thrum's; -2: the caller's. */
static int redop_of(MPI_Op op)
{
    if (op == MPI_SUM)
        return THRUM_SUM;
    if (op == MPI_MAX)
        return THRUM_MAX;
    if (op == MPI_MIN)
        return THRUM_MIN;
    if (op == MPI_PROD)
        return THRUM_PROD;
    if (op == MPI_LAND)
        return THRUM_LAND;
    if (op == MPI_BAND)
        return THRUM_BAND;
    if (op == MPI_LOR)
        return THRUM_LOR;
    if (op == MPI_BOR)
        return THRUM_BOR;
    if (op == MPI_BXOR)
        return THRUM_BXOR;
    if (op == MPI_OP_NULL || op == MPI_LXOR || op == MPI_MINLOC || op == MPI_MAXLOC ||
        op == MPI_REPLACE || op == MPI_NO_OP)
        return -1;
    return -2;
}

bool tmpi_op_of(MPI_Op op, const struct tmpi_type *type, thrum_redop_t *redop_out, bool *user_out,
                bool *commutes_out)
{
    int redop = redop_of(op), commutes;

    *user_out = redop == -2;
    if (redop >= 0) {
        *redop_out = (thrum_redop_t)redop;
        return type->has_dtype && operations_of(type->class) >> redop & 1;
    }
    if (redop == -1 || PMPI_Op_commutative(op, &commutes))
        return false;
    *commutes_out = commutes;
    return type->extent >= 0;
}
