/* Services of plugins that are loaded from files: thrum/plugin.h. Built-in ones use base.h and config.h themselves. */
#include <thrum/plugin.h>

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/builtin.h"
#include "base/config.h"

#define MESSAGE_BYTES 512

_Static_assert((int)THRUM_LOG_ERROR == (int)LOG_ERROR && (int)THRUM_LOG_DEBUG == (int)LOG_DEBUG,
               "the same levels");

thrum_status_t thrum_plugin_fail(thrum_status_t status, const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return thrum_fail(status, "%s", text);
}

void thrum_plugin_log(enum thrum_log_level level, const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    thrum_log((enum log_level)level, "%s", text);
}

void thrum_plugin_log_default(enum thrum_log_level level, const char *file)
{
    thrum_log_default((enum log_level)level, file);
}

const char *thrum_plugin_config(const char *name)
{
    bool loaded = thrum_config_load() == THRUM_OK;

    for (int key = 0; key < CFG_COUNT; key++)
        if (!strcmp(thrum_config_rows[key].name, name))
            return loaded ? thrum_config_string((enum config_key)key) : "";
    return NULL;
}

void plugin_offer_services(void)
{
    thrum_status_t (*const service)(thrum_status_t, const char *, ...) = thrum_plugin_fail;
    void *symbol, *seen_by_all = dlopen(NULL, RTLD_NOW);
    Dl_info self;

    memcpy(&symbol, &service, sizeof symbol); /* also what makes the linker take them in */
    /* not RTLD_DEFAULT, which looks into the library that asks, too */
    if ((!seen_by_all || !dlsym(seen_by_all, "thrum_plugin_fail")) && dladdr(symbol, &self))
        (void)dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
    if (seen_by_all)
        dlclose(seen_by_all);
}
