/*
 * Entry points of the plugins that are built into the library; loaded ones are found by name in a shared object.
 * Defined under plugins/, called by the loaders in src/device and src/fabric. And what both loaders do.
 */
#ifndef BASE_BUILTIN_H
#define BASE_BUILTIN_H

#include <thrum/device_plugin.h>
#include <thrum/fabric_plugin.h>

const struct thrum_device_ops *sim_device_plugin(uint32_t library_abi_version);
const struct thrum_fabric_ops *loopback_fabric_plugin(uint32_t library_abi_version);

/*
 * Before a plugin is loaded: it calls thrum/plugin.h. Where libthrum came in by dlopen, only its opener sees its symbols
 * until we say more.
 */
void plugin_offer_services(void);

#endif
