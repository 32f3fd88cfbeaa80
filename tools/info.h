/* Inside of thrum-info: each part prints itself as text, or gives itself as JSON (owned by the caller). */
#ifndef TOOLS_INFO_H
#define TOOLS_INFO_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <thrum/status.h>

/* One line of text with what failed, to stderr. Returns the exit code for it. */
int info_fail(const char *what, thrum_status_t status);

/* "4 GiB", "1.5 MiB". Returns `text`. */
const char *info_bytes(uint64_t bytes, char text[24]);

/* Prints `text` in lines of at most `width` characters, each after `indent` spaces. */
void info_wrap(const char *text, int indent, int width);

/* info_devices.c: devices with their properties; all of them, or the first few. Exit codes. */
int info_devices(bool all, bool json, json_t **json_out);

/* info_tables.c */
int info_config(bool json);
int info_algorithms(bool json);
int info_fabrics(bool json);
struct info_question {
    const char *collective, *size, *ranks, *dtype, *op, *ranks_per_core;
    const char *hosts; /* NULL: not said */
    bool in_place, adapters;
};
struct select_policy;
int info_why(const struct info_question *question, const struct select_policy *policy, bool json);
int info_tuning(const struct select_policy *policy, bool json);

/* Prints and frees it. Exit code. */
int info_print_json(json_t *json);

#endif
