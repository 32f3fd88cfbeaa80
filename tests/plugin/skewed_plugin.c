/* Fabric plugins of other ages, for the loader's test. SKEW: 1 older, 2 newer, 3 other ABI, 4 refuses, 5 no symbol. */
#include <string.h>

#include <thrum/fabric_plugin.h>

#define EXPORTED __attribute__((visibility("default")))

/* The table of a library that is newer than this one: the same, and more. */
struct newer_ops {
    struct thrum_fabric_ops now;
    thrum_status_t (*later)(void *endpoint);
};

static thrum_status_t enumerate(struct thrum_fabric_info *info_out, size_t max, size_t *n_out)
{
    if (max) {
        memset(info_out, 0, sizeof *info_out);
        strcpy(info_out->name, "skewed");
    }
    *n_out = 1;
    return THRUM_OK;
}

static const struct newer_ops ops = {
    .now =
        {
            .size = SKEW == 1   ? offsetof(struct thrum_fabric_ops, connect)
                    : SKEW == 2 ? sizeof ops
                                : sizeof ops.now,
            .abi_version = SKEW == 3 ? THRUM_FABRIC_ABI_VERSION + 1 : THRUM_FABRIC_ABI_VERSION,
            .name = "skewed",
            .enumerate = enumerate,
            /* Behind the end of the older table: must not be looked at. */
            .connect = SKEW == 1 ? (thrum_status_t(*)(void *, const struct thrum_fabric_address *,
                                                      void **))1
                                 : NULL,
        },
};

EXPORTED const struct thrum_fabric_ops *
#if SKEW == 5
thrum_fabric_other_name(uint32_t library_abi_version);
EXPORTED const struct thrum_fabric_ops *thrum_fabric_other_name(uint32_t library_abi_version)
#else
thrum_fabric_plugin(uint32_t library_abi_version);
EXPORTED const struct thrum_fabric_ops *thrum_fabric_plugin(uint32_t library_abi_version)
#endif
{
    (void)library_abi_version;
    return SKEW == 4 ? NULL : &ops.now;
}
