/*
 * What the thread sanitizer is told of bytes that reach another endpoint of this process by ways that it does not see: a
 * mailbox that is mapped twice, a TCP connection. Nothing elsewhere. Used by loopback and tcp.
 */
#ifndef FABRIC_ORDER_H
#define FABRIC_ORDER_H

#include <stddef.h>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>

__attribute__((weak, visibility("hidden"))) char order_of_fabrics; /* one in each library */
void __tsan_read_range(void *address, long bytes);
void __tsan_write_range(void *address, long bytes);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);

/* What this thread has read and written so far is before what others do behind order_looked. */
static inline void order_published(void)
{
    __tsan_release(&order_of_fabrics);
}

static inline void order_looked(void)
{
    __tsan_acquire(&order_of_fabrics);
}

static inline void order_reads(const void *address, size_t bytes)
{
    if (bytes)
        __tsan_read_range((void *)(size_t)address, (long)bytes);
}

static inline void order_writes(void *address, size_t bytes)
{
    if (bytes)
        __tsan_write_range(address, (long)bytes);
}

/*
 * Between these what a system call does is not seen, so that it can be told where it counts: reads before the bytes can be
 * at the other end, writes behind the order that they bring.
 */
static inline void order_hide(void)
{
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
}

static inline void order_show(void)
{
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#else
static inline void order_published(void) {}
static inline void order_looked(void) {}
static inline void order_reads(const void *address, size_t bytes)
{
    (void)address, (void)bytes;
}
static inline void order_writes(void *address, size_t bytes)
{
    (void)address, (void)bytes;
}
static inline void order_hide(void) {}
static inline void order_show(void) {}
#endif

#endif
