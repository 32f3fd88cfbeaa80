/* Empties mailboxes into registered regions and answers gets. Called by progress and flush, under the endpoint's lock. */
#include "loopback.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Tells the sender why nothing more is taken from it. This process goes on unharmed. */
static bool refuse(struct loopback_source *source, thrum_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool refuse(struct loopback_source *source, thrum_status_t status, const char *format, ...)
{
    char text[LOOPBACK_TEXT_BYTES] = "";
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    thrum_log(LOG_WARN, "loopback: refused process %d: %s", source->pid, text);
    memcpy(source->mailbox->refusal, text, sizeof text);
    source->refused = true;
    /* release: the text before the status; pairs with check_mailbox in send.c */
    atomic_store_explicit(&source->mailbox->refused, status, memory_order_release);
    return false;
}

/* The bytes at [offset, +bytes) of a registered region; NULL if there are no such. */
static char *find_target(struct loopback_endpoint *endpoint, uint64_t key, uint64_t offset,
                         uint64_t bytes)
{
    uint64_t slot = (key & UINT32_MAX) - 1;
    struct loopback_region *region = slot < endpoint->slots ? endpoint->regions[slot] : NULL;

    if (!region || region->key != key || offset > region->bytes || bytes > region->bytes - offset)
        return NULL;
    return region->base + offset;
}

/* A signal that nobody misses where the region is gone; not one by a key that never was. */
static bool may_pass_over(struct loopback_endpoint *endpoint,
                          const struct loopback_message *message)
{
    return message->flags & THRUM_PUT_LENIENT &&
           !find_target(endpoint, message->signal_key, 0, 0) &&
           keys_were_given(message->signal_key, endpoint->first_salt, endpoint->key_salt);
}

/* Checks all of a put, this message and those that will follow, before anything of it is stored. */
static bool find_put_targets(struct loopback_endpoint *endpoint, struct loopback_source *source,
                             const struct loopback_message *message, char **data_out,
                             _Atomic uint64_t **signal_out)
{
    uint64_t bytes;
    char *word;

    if (__builtin_add_overflow(message->rest, message->bytes, &bytes))
        return refuse(source, THRUM_ERR_PROTOCOL, "length of a put overflows");
    *data_out = bytes ? find_target(endpoint, message->key, message->offset, bytes) : NULL;
    if (bytes && !*data_out)
        return refuse(
            source, THRUM_ERR_INVALID_POINTER,
            "put of %llu bytes at offset %llu: key 0x%llx is not that of a region so large",
            (unsigned long long)bytes, (unsigned long long)message->offset,
            (unsigned long long)message->key);
    *signal_out = NULL;
    if (!message->signal_key)
        return true;
    word = find_target(endpoint, message->signal_key, message->signal_offset, 8);
    if (!word && may_pass_over(endpoint, message))
        return true;
    if (!word || (uintptr_t)word % 8)
        return refuse(source, THRUM_ERR_INVALID_POINTER,
                      "signal at offset %llu: key 0x%llx has no aligned word there",
                      (unsigned long long)message->signal_offset,
                      (unsigned long long)message->signal_key);
    *signal_out = (_Atomic uint64_t *)(void *)word;
    return true;
}

static bool receive_put(struct loopback_endpoint *endpoint, struct loopback_source *source,
                        const struct loopback_message *message)
{
    _Atomic uint64_t *signal = NULL;
    char *data = NULL;

    if (!find_put_targets(endpoint, source, message, &data, &signal))
        return false;
    if (message->bytes)
        loopback_ring_read(source->ring, source->ring_bytes, source->tail + sizeof *message, data,
                           message->bytes);
    /* release: the data before the signal; pairs with the acquire of whoever waits for the word */
    if (signal && !message->rest)
        atomic_store_explicit(signal, message->signal_value, memory_order_release);
    return true;
}

/* Sends back as much as there is room for. *done_out: that was all of it. */
static bool answer_get(struct loopback_endpoint *endpoint, struct loopback_source *source,
                       const struct loopback_message *message, bool *done_out)
{
    /* acquire: the sender has read what we may now overwrite; pairs with take_replies in send.c */
    uint64_t taken = atomic_load_explicit(&source->mailbox->reply_tail, memory_order_acquire);
    uint64_t used = source->reply_head - taken, part;
    char *data = find_target(endpoint, message->key, message->offset, message->rest);

    *done_out = false;
    if (used > LOOPBACK_REPLY_BYTES)
        return refuse(source, THRUM_ERR_PROTOCOL, "reply ring is damaged");
    if (!data)
        return refuse(
            source, THRUM_ERR_INVALID_POINTER,
            "get of %llu bytes at offset %llu: key 0x%llx is not that of a region so large",
            (unsigned long long)message->rest, (unsigned long long)message->offset,
            (unsigned long long)message->key);
    part = min_u64(message->rest - source->get_done, LOOPBACK_REPLY_BYTES - used);
    loopback_ring_write(source->reply, LOOPBACK_REPLY_BYTES, source->reply_head,
                        data + source->get_done, part);
    source->reply_head += part;
    source->get_done += part;
    /* release: the bytes before the count; pairs with take_replies in send.c */
    order_published();
    atomic_store_explicit(&source->mailbox->reply_head, source->reply_head, memory_order_release);
    *done_out = source->get_done == message->rest;
    if (*done_out)
        source->get_done = 0;
    return part > 0;
}

/* The message at the tail. False: refused, or a get waits for room; *moved_out is set if anything happened. */
static bool receive_message(struct loopback_endpoint *endpoint, struct loopback_source *source,
                            uint64_t available, bool *moved_out)
{
    struct loopback_message message; /* a copy: the sender could change it after the check */
    uint64_t size;
    bool done = true;

    loopback_ring_read(source->ring, source->ring_bytes, source->tail, &message, sizeof message);
    size = sizeof message + round_up_u64(message.bytes, LOOPBACK_MESSAGE_ALIGN);
    if (size > available)
        return refuse(source, THRUM_ERR_PROTOCOL, "message of %u bytes is cut short",
                      message.bytes);
    if (message.kind == LOOPBACK_PUT) {
        if (!receive_put(endpoint, source, &message))
            return false;
        *moved_out = true;
    } else if (message.kind == LOOPBACK_GET && !message.bytes) {
        *moved_out |= answer_get(endpoint, source, &message, &done);
    } else {
        return refuse(source, THRUM_ERR_PROTOCOL, "no such message: kind %u", message.kind);
    }
    if (!done)
        return false;
    source->tail += size;
    /* release: we have read the message before its room is free; pairs with free_room in send.c */
    atomic_store_explicit(&source->mailbox->tail, source->tail, memory_order_release);
    return true;
}

bool loopback_receive_locked(struct loopback_endpoint *endpoint, struct loopback_source *source)
{
    uint64_t head, available;
    bool moved = false;

    if (source->refused)
        return false;
    /* acquire: messages up to head are complete; pairs with publish in send.c */
    head = atomic_load_explicit(&source->mailbox->head, memory_order_acquire);
    order_looked();
    available = head - source->tail;
    if (available > source->ring_bytes || available % LOOPBACK_MESSAGE_ALIGN)
        return refuse(source, THRUM_ERR_PROTOCOL, "message ring is damaged");
    while (available) {
        if (!receive_message(endpoint, source, available, &moved))
            break;
        available = head - source->tail;
    }
    return moved;
}
