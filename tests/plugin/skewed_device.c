/* Device plugins of other ages, for the loader's test. SKEW: 1 older, 2 newer, 3 other ABI, 4 refuses, 5 no symbol, 6 a stub. */
#include <string.h>

#include <thrum/device_plugin.h>
#include <thrum/plugin.h>

#define EXPORTED __attribute__((visibility("default")))

/* The table of a library that is newer than this one: the same, and more. */
struct newer_ops {
    struct thrum_device_ops now;
    thrum_status_t (*later)(void *device);
};

static thrum_status_t enumerate(int *count_out)
{
    *count_out = 2;
    return THRUM_OK;
}

/* The second one is broken. */
static thrum_status_t open_device(int index, void **device_out)
{
    static int device;

    if (index)
        return thrum_plugin_fail(THRUM_ERR_BUSY, "skewed%d: somebody sits on it", index);
    *device_out = &device;
    return THRUM_OK;
}

static void close_device(void *device)
{
    (void)device;
}

static thrum_status_t properties(void *device, struct thrum_device_properties *out)
{
    (void)device;
    strcpy(out->name, "skewed0");
    out->generation = 1;
    return THRUM_OK;
}

static const struct newer_ops ops = {
    .now =
        {
            .size = SKEW == 1   ? offsetof(struct thrum_device_ops, reset)
                    : SKEW == 2 ? sizeof ops
                    : SKEW == 6 ? offsetof(struct thrum_device_ops, open)
                                : sizeof ops.now,
            .abi_version = SKEW == 3 ? THRUM_DEVICE_ABI_VERSION + 1 : THRUM_DEVICE_ABI_VERSION,
            .name = "skewed",
            .enumerate = enumerate,
            .open = open_device,
            .close = close_device,
            .properties = properties,
            /* Behind the end of the older table: must not be looked at. */
            .mem_free = SKEW == 1 ? (thrum_status_t(*)(void *, uint64_t))1 : NULL,
        },
};

EXPORTED const struct thrum_device_ops *
#if SKEW == 5
thrum_device_other_name(uint32_t library_abi_version);
EXPORTED const struct thrum_device_ops *thrum_device_other_name(uint32_t library_abi_version)
#else
thrum_device_plugin(uint32_t library_abi_version);
EXPORTED const struct thrum_device_ops *thrum_device_plugin(uint32_t library_abi_version)
#endif
{
    (void)library_abi_version;
    return SKEW == 4 ? NULL : &ops.now;
}
