/* How long connect may take. Used by all fabrics here. */
#ifndef FABRIC_LIMIT_H
#define FABRIC_LIMIT_H

#include <stdlib.h>

#include <thrum/plugin.h>

/* `most`, but no longer than half of an operation's deadline: it shall still say who was not reached. */
static inline int limit_connect_ms(int most)
{
    const char *text = thrum_plugin_config("THRUM_DEADLINE_MS");
    long half = text ? strtol(text, NULL, 10) / 2 : 0;

    return half > 0 && half < most ? (int)half : most;
}

#endif
