/* thrum-device-acme.so: the make-believe vendor's plugin; what it does is in the vendor's runtime, acme.c. */
#include "acme.h"

#include <dlfcn.h>
#include <string.h>

const struct thrum_device_ops *thrum_device_plugin(uint32_t library_abi_version);

__attribute__((visibility("default"))) const struct thrum_device_ops *
thrum_device_plugin(uint32_t library_abi_version)
{
    void *symbol =
        dlsym(RTLD_DEFAULT, "acme_device_ops"); /* of the runtime's version that there is */
    __typeof__(acme_device_ops) *ops;

    memcpy(&ops, &symbol, sizeof ops);
    return ops && library_abi_version == THRUM_DEVICE_ABI_VERSION ? ops() : NULL;
}
