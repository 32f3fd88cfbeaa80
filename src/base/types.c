/* Sizes and names of data types and reductions. */
#include <thrum/types.h>

size_t thrum_datatype_size(thrum_datatype_t dtype)
{
    switch (dtype) {
#define X(name, value, bytes, text) \
    case THRUM_##name: \
        return bytes;
        THRUM_DATATYPE_MAP(X)
#undef X
    case THRUM_DATATYPE_COUNT:
        break;
    }
    return 0;
}

const char *thrum_datatype_name(thrum_datatype_t dtype)
{
    switch (dtype) {
#define X(name, value, bytes, text) \
    case THRUM_##name: \
        return text;
        THRUM_DATATYPE_MAP(X)
#undef X
    case THRUM_DATATYPE_COUNT:
        break;
    }
    return "?";
}

const char *thrum_redop_name(thrum_redop_t op)
{
    switch (op) {
#define X(name, value, text) \
    case THRUM_##name: \
        return text;
        THRUM_REDOP_MAP(X)
#undef X
    case THRUM_REDOP_COUNT:
        break;
    }
    return "?";
}
