/* Inside of thrum-ras: ras_ask.c asks processes, thrum-ras.c makes sense of the answers. */
#ifndef TOOLS_RAS_H
#define TOOLS_RAS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "process.h"

struct ras_process {
    struct process who;
    bool is_asked;
    json_t *answer; /* NULL: it gave none; `why` says why */
    const char *why; /* static; "" where it was not asked and is as it should be */
};

/*
 * Finds all, and asks them, or `only` one of them if that is not 0, at the same time; within `limit_ms`, and those that the
 * kernel says are stopped within a second. Returns how many there are; *processes_out is from malloc, with their answers. Exits
 * where there is no memory.
 */
size_t ras_ask(pid_t only, int limit_ms, struct ras_process **processes_out);
void ras_forget(struct ras_process *processes, size_t n);

#endif
