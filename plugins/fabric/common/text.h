/* Texts that grow piece by piece, for what thrum-info shows. Included by the fabrics that list what they find (ofi, tcp). */
#ifndef FABRIC_TEXT_H
#define FABRIC_TEXT_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Adds to `text`, which has room for `bytes` in all, as much as there is room for. */
static inline void text_append(char *text, size_t bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static inline void text_append(char *text, size_t bytes, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text + used, bytes - used, format, arguments);
    va_end(arguments);
}

#endif
