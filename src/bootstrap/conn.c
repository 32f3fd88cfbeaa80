/*
 * One connection: buffers, frames with a MAC each, failures on the wire. Called by root, join, allgather, control.
 *
 * Frame: u32 payload bytes, u8 type, 3 zero bytes, payload, 16 bytes keyed BLAKE2b over frame number, header and
 * payload. The keys are fresh for each connection and direction (handshake.c), so that a frame can be neither forged,
 * replayed, reordered nor reflected.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bootstrap/internal.h"

enum { HEADER_BYTES = 8, TAG_BYTES = 16 };

void boot_put_u32(uint8_t *wire, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        wire[i] = (uint8_t)(value >> 8 * i);
}

void boot_put_u64(uint8_t *wire, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        wire[i] = (uint8_t)(value >> 8 * i);
}

uint32_t boot_get_u32(const uint8_t *wire)
{
    return (uint32_t)boot_get_u64((uint8_t[8]){wire[0], wire[1], wire[2], wire[3]});
}

uint64_t boot_get_u64(const uint8_t *wire)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--)
        value = value << 8 | wire[i];
    return value;
}

/* ---- buffers ---- */

static size_t filled(const struct boot_buffer *buffer)
{
    return buffer->end - buffer->begin;
}

static void compact(struct boot_buffer *buffer)
{
    if (!buffer->begin)
        return;
    memmove(buffer->data, buffer->data + buffer->begin, filled(buffer));
    buffer->end -= buffer->begin;
    buffer->begin = 0;
}

static bool reserve(struct boot_buffer *buffer, size_t bytes)
{
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    uint8_t *data;

    if (buffer->capacity - buffer->end >= bytes)
        return true;
    compact(buffer);
    if (buffer->capacity - buffer->end >= bytes)
        return true;
    while (capacity - buffer->end < bytes)
        capacity *= 2;
    data = realloc(buffer->data, capacity);
    if (!data)
        return false;
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

bool boot_buffer_append(struct boot_buffer *buffer, const void *data, size_t bytes, size_t limit)
{
    if (!bytes)
        return true;
    if (filled(buffer) + bytes > limit || !reserve(buffer, bytes))
        return false;
    memcpy(buffer->data + buffer->end, data, bytes);
    buffer->end += bytes;
    return true;
}

static void buffer_free(struct boot_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct boot_buffer){0};
}

/* ---- open and close ---- */

void boot_conn_init(struct boot_conn *conn)
{
    *conn = (struct boot_conn){.fd = -1, .out_most = BOOT_OUT_BYTES};
}

static void set_options(int fd)
{
    /* A host that vanishes without a word is noticed after about 20 seconds. */
    int one = 1, idle = 8, interval = 4, count = 3, unacknowledged_ms = 20000;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms, sizeof unacknowledged_ms);
}

thrum_status_t boot_conn_open(struct boot_conn *conn, const struct boot_address *address,
                              const struct boot_hello *hello, size_t frame_max)
{
    int fd = socket(address->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return boot_fail_descriptor(errno, "connecting to a rank");
    boot_conn_init(conn);
    conn->fd = fd;
    conn->shake = SHAKE_CONNECTING;
    conn->hello = *hello;
    conn->peer = *address;
    conn->frame_max = frame_max;
    conn->since_ns = now_ns();
    set_options(fd);
    if (connect(fd, &address->sa, boot_address_length(address)) && errno != EINPROGRESS) {
        conn->ended = true;
        conn->error = errno;
    }
    return THRUM_OK;
}

void boot_conn_accepted(struct boot_conn *conn, int fd, const struct boot_address *peer,
                        size_t frame_max)
{
    boot_conn_init(conn);
    conn->fd = fd;
    conn->shake = SHAKE_WAIT_HELLO;
    conn->peer = *peer;
    conn->frame_max = frame_max;
    conn->since_ns = now_ns();
    set_options(fd);
}

void boot_conn_close(struct boot_conn *conn)
{
    int fd = conn->fd;

    conn->fd = -1; /* first: a child of fork closes what stands here */
    if (fd >= 0)
        close(fd);
    buffer_free(&conn->in);
    buffer_free(&conn->out);
    sodium_memzero(conn->send_key, sizeof conn->send_key);
    sodium_memzero(conn->receive_key, sizeof conn->receive_key);
    conn->ended = true;
}

/* ---- reading and writing ---- */

/* Before the proof nobody gets more memory than the handshake needs. */
static size_t in_limit(const struct boot_conn *conn)
{
    if (conn->shake != SHAKE_DONE)
        return BOOT_HELLO_BYTES + BOOT_PROOF_BYTES;
    return conn->frame_max + HEADER_BYTES + TAG_BYTES;
}

short boot_conn_events(const struct boot_conn *conn)
{
    short events = 0;

    if (conn->fd < 0 || conn->ended)
        return 0;
    if (conn->shake == SHAKE_CONNECTING)
        return POLLOUT;
    if (filled(&conn->in) < in_limit(conn))
        events |= POLLIN;
    if (filled(&conn->out))
        events |= POLLOUT;
    return events;
}

static void broke(struct boot_conn *conn, int error)
{
    conn->ended = true;
    conn->error = error;
}

static void read_some(struct boot_conn *conn)
{
    size_t limit = in_limit(conn);

    while (!conn->ended && filled(&conn->in) < limit) {
        size_t room = limit - filled(&conn->in);
        ssize_t n;

        if (!reserve(&conn->in, room)) {
            broke(conn, ENOMEM);
            return;
        }
        n = recv(conn->fd, conn->in.data + conn->in.end, room, MSG_DONTWAIT);
        if (n > 0)
            conn->in.end += (size_t)n;
        else if (!n)
            broke(conn, 0);
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return;
        else if (errno != EINTR)
            broke(conn, errno);
    }
}

static void write_some(struct boot_conn *conn)
{
    while (!conn->ended && filled(&conn->out)) {
        ssize_t n = send(conn->fd, conn->out.data + conn->out.begin, filled(&conn->out),
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            conn->out.begin += (size_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (errno != EINTR) {
            /* What the peer said before it went is still to be read: only reading ends a connection. */
            conn->out.begin = conn->out.end;
            return;
        }
    }
    if (conn->out.begin == conn->out.end)
        conn->out.begin = conn->out.end = 0;
}

void boot_conn_io(struct boot_conn *conn)
{
    if (conn->fd < 0 || conn->ended || conn->shake == SHAKE_CONNECTING)
        return;
    write_some(conn);
    read_some(conn);
}

bool boot_conn_flushed(const struct boot_conn *conn)
{
    return conn->fd < 0 || conn->ended || !filled(&conn->out);
}

size_t boot_conn_pending(const struct boot_conn *conn)
{
    return filled(&conn->out);
}

/* ---- frames ---- */

static void make_tag(const uint8_t *key, uint64_t number, const uint8_t *header, const void *head,
                     size_t head_bytes, const void *body, size_t body_bytes, uint8_t *tag)
{
    crypto_generichash_state state;
    uint8_t wire[8];

    boot_put_u64(wire, number);
    crypto_generichash_init(&state, key, 32, TAG_BYTES);
    crypto_generichash_update(&state, wire, sizeof wire);
    crypto_generichash_update(&state, header, HEADER_BYTES);
    if (head_bytes)
        crypto_generichash_update(&state, head, head_bytes);
    if (body_bytes)
        crypto_generichash_update(&state, body, body_bytes);
    crypto_generichash_final(&state, tag, TAG_BYTES);
}

thrum_status_t boot_conn_send(struct boot_conn *conn, enum boot_frame_type type, const void *head,
                              size_t head_bytes, const void *body, size_t body_bytes)
{
    uint8_t header[HEADER_BYTES] = {0}, tag[TAG_BYTES];
    size_t payload = head_bytes + body_bytes;

    if (conn->fd < 0 || conn->ended || conn->shake != SHAKE_DONE)
        return THRUM_OK;
    boot_put_u32(header, (uint32_t)payload);
    header[4] = (uint8_t)type;
    if (filled(&conn->out) + payload + HEADER_BYTES + TAG_BYTES > conn->out_most ||
        !reserve(&conn->out, payload + HEADER_BYTES + TAG_BYTES))
        return THRUM_ERR_NO_MEMORY;
    make_tag(conn->send_key, conn->sent++, header, head, head_bytes, body, body_bytes, tag);
    (void)boot_buffer_append(&conn->out, header, sizeof header, conn->out_most);
    (void)boot_buffer_append(&conn->out, head, head_bytes, conn->out_most);
    (void)boot_buffer_append(&conn->out, body, body_bytes, conn->out_most);
    (void)boot_buffer_append(&conn->out, tag, sizeof tag, conn->out_most);
    write_some(conn);
    return THRUM_OK;
}

thrum_status_t boot_conn_peek(struct boot_conn *conn, struct boot_frame *frame_out)
{
    const uint8_t *header = conn->in.data + conn->in.begin;
    uint8_t tag[TAG_BYTES];
    size_t bytes;

    if (conn->shake != SHAKE_DONE || filled(&conn->in) < HEADER_BYTES)
        return THRUM_IN_PROGRESS;
    bytes = boot_get_u32(header);
    if (bytes > conn->frame_max || !header[4] || header[4] >= FRAME_TYPES)
        return THRUM_ERR_PROTOCOL;
    if (filled(&conn->in) < HEADER_BYTES + bytes + TAG_BYTES)
        return THRUM_IN_PROGRESS;
    if (!conn->peeked) {
        make_tag(conn->receive_key, conn->received, header, header + HEADER_BYTES, bytes, NULL, 0,
                 tag);
        if (sodium_memcmp(tag, header + HEADER_BYTES + bytes, TAG_BYTES))
            return THRUM_ERR_PROTOCOL;
        conn->peeked = true;
        conn->received++;
    }
    *frame_out = (struct boot_frame){(enum boot_frame_type)header[4], header + HEADER_BYTES, bytes};
    return THRUM_OK;
}

void boot_conn_pop(struct boot_conn *conn)
{
    conn->in.begin += HEADER_BYTES + boot_get_u32(conn->in.data + conn->in.begin) + TAG_BYTES;
    conn->peeked = false;
}

/* ---- failures ---- */

void boot_failure_set(struct boot_failure *failure, thrum_status_t status, int rank,
                      const char *format, ...)
{
    va_list args;

    failure->status = status;
    failure->rank = rank;
    va_start(args, format);
    vsnprintf(failure->message, sizeof failure->message, format, args);
    va_end(args);
}

void boot_send_failure(struct boot_conn *conn, const struct boot_failure *failure)
{
    uint8_t head[8];

    boot_put_u32(head, (uint32_t)failure->status);
    boot_put_u32(head + 4, (uint32_t)failure->rank);
    (void)boot_conn_send(conn, FRAME_FAIL, head, sizeof head, failure->message,
                         strnlen(failure->message, sizeof failure->message - 1));
}

bool boot_get_failure(const struct boot_frame *frame, struct boot_failure *out)
{
    size_t text = frame->bytes - 8;

    if (frame->bytes < 8 || text >= sizeof out->message)
        return false;
    out->status = (thrum_status_t)(int32_t)boot_get_u32(frame->payload);
    out->rank = (int32_t)boot_get_u32(frame->payload + 4);
    memcpy(out->message, frame->payload + 8, text);
    out->message[text] = 0;
    for (size_t i = 0; i < text; i++) /* it will be printed */
        if ((uint8_t)out->message[i] < 32 || out->message[i] == 127)
            out->message[i] = '?';
    return out->status < 0 && out->rank >= -1 && out->rank < BOOT_MAX_RANKS;
}

/* ---- closing ---- */

int boot_poll_ms(int64_t due, int64_t now)
{
    if (due <= now)
        return 0;
    return (int)min_u64((uint64_t)(due - now + MS_NS - 1) / (uint64_t)MS_NS, 3600000);
}

void boot_conns_linger(struct boot_conn *conns, int n)
{
    int64_t due = now_ns() + BOOT_LINGER_NS;
    struct pollfd fds[BOOT_LINKS];
    bool half_closed[BOOT_LINKS] = {false};

    for (;;) {
        int open = 0;

        for (int i = 0; i < n && i < BOOT_LINKS; i++) {
            struct boot_conn *conn = &conns[i];

            boot_conn_io(conn);
            conn->in.begin = conn->in.end = 0;
            if (conn->fd >= 0 && !conn->ended && boot_conn_flushed(conn) && !half_closed[i]) {
                shutdown(conn->fd, SHUT_WR);
                half_closed[i] = true;
            }
            fds[i] = (struct pollfd){.fd = conn->ended ? -1 : conn->fd,
                                     .events = boot_conn_events(conn)};
            open += fds[i].fd >= 0;
        }
        if (!open || now_ns() >= due)
            break;
        poll(fds, (nfds_t)n, boot_poll_ms(due, now_ns()));
    }
    for (int i = 0; i < n; i++)
        boot_conn_close(&conns[i]);
}
