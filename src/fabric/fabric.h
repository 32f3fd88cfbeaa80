/* fabric: finds and loads fabric plugins. Called by comm (endpoints, connections), exec and thrum-info. */
#ifndef FABRIC_FABRIC_H
#define FABRIC_FABRIC_H

#include <thrum/fabric_plugin.h>

/* The plugin of that name, built in or loaded from THRUM_PLUGIN_PATH or $libdir/thrum; every entry is callable. */
thrum_status_t fabric_plugin_load(const char *name, const struct thrum_fabric_ops **ops_out);

/* Names of built-in plugins, NULL-terminated. */
extern const char *const thrum_fabric_builtin_names[];

#endif
