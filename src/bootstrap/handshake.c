/*
 * Both sides prove that they know the job's secret before either says anything else. Called through
 * boot_conn_handshake by accept.c (server) and join.c (client).
 *
 *   client -> server  hello:     "THRM", version, role; rank, target, nranks; nonce of the client
 *   server -> client  challenge: "THRM", version, code; nonce of the server
 *   client -> server  proof:     MAC(secret, 'C', hello, challenge)
 *   server -> client  verdict:   "THRM", version, code; MAC(secret, 'S', hello, challenge)
 *
 * The MAC is HMAC-SHA-512-256 (crypto_auth). It covers roles, ranks and both nonces, and begins with a letter per
 * direction: what one connection has carried is of no use on another, nor back to its sender. The first eight bytes of
 * hello and challenge are the same in every version.
 */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "bootstrap/internal.h"

static const uint8_t magic[4] = {'T', 'H', 'R', 'M'};
enum { CODE_OK = 0, CODE_VERSION = 1, CODE_AUTH = 2 };
enum { VERSION_AT = 4, ROLE_AT = 6, CODE_AT = 6, PREFIX_BYTES = 8, RANKS_AT = 8, NONCE_AT = 20 };

static size_t arrived(const struct boot_conn *conn)
{
    return conn->in.end - conn->in.begin;
}

static void put_prefix(uint8_t *wire, uint8_t third)
{
    memcpy(wire, magic, sizeof magic);
    wire[VERSION_AT] = BOOT_VERSION & 0xff;
    wire[VERSION_AT + 1] = BOOT_VERSION >> 8;
    wire[ROLE_AT] = third;
    wire[ROLE_AT + 1] = 0;
}

static bool is_ours(const uint8_t *wire)
{
    return !memcmp(wire, magic, sizeof magic);
}

static bool same_version(const uint8_t *wire)
{
    return wire[VERSION_AT] + 256 * wire[VERSION_AT + 1] == BOOT_VERSION;
}

static void queue(struct boot_conn *conn, const void *data, size_t bytes)
{
    if (!boot_buffer_append(&conn->out, data, bytes, 4096)) {
        conn->ended = true;
        conn->error = ENOMEM;
    }
    boot_conn_io(conn);
}

static void prove(const struct boot_conn *conn, const uint8_t *secret, uint8_t letter,
                  uint8_t *proof)
{
    uint8_t text[1 + BOOT_TRANSCRIPT_BYTES];

    text[0] = letter;
    memcpy(text + 1, conn->transcript, BOOT_TRANSCRIPT_BYTES);
    crypto_auth(proof, text, sizeof text, secret);
}

static void derive_keys(struct boot_conn *conn, const uint8_t *secret, bool client)
{
    uint8_t text[1 + BOOT_TRANSCRIPT_BYTES];

    memcpy(text + 1, conn->transcript, BOOT_TRANSCRIPT_BYTES);
    text[0] = 'c';
    crypto_generichash(client ? conn->send_key : conn->receive_key, 32, text, sizeof text, secret,
                       BOOT_SECRET_BYTES);
    text[0] = 's';
    crypto_generichash(client ? conn->receive_key : conn->send_key, 32, text, sizeof text, secret,
                       BOOT_SECRET_BYTES);
}

/* ---- client ---- */

static thrum_status_t client_connected(struct boot_conn *conn)
{
    uint8_t *hello = conn->transcript;
    socklen_t length = sizeof conn->error;
    struct boot_address peer;
    socklen_t peer_length = sizeof peer;
    int error = 0;

    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &length) || error) {
        conn->ended = true;
        conn->error = error;
        return THRUM_ERR_UNREACHABLE;
    }
    if (getpeername(conn->fd, &peer.sa, &peer_length))
        return THRUM_IN_PROGRESS; /* still connecting */
    put_prefix(hello, (uint8_t)conn->hello.role);
    boot_put_u32(hello + RANKS_AT, (uint32_t)conn->hello.rank);
    boot_put_u32(hello + RANKS_AT + 4, (uint32_t)conn->hello.target);
    boot_put_u32(hello + RANKS_AT + 8, (uint32_t)conn->hello.nranks);
    randombytes_buf(hello + NONCE_AT, BOOT_NONCE_BYTES);
    conn->shake = SHAKE_WAIT_CHALLENGE;
    queue(conn, hello, BOOT_HELLO_BYTES);
    return THRUM_IN_PROGRESS;
}

static thrum_status_t client_challenge(struct boot_conn *conn, const uint8_t *secret)
{
    const uint8_t *wire = conn->in.data + conn->in.begin;
    uint8_t proof[BOOT_PROOF_BYTES];

    if (arrived(conn) >= PREFIX_BYTES && (!is_ours(wire) || !same_version(wire)))
        return THRUM_ERR_PROTOCOL;
    if (arrived(conn) < BOOT_CHALLENGE_BYTES)
        return THRUM_IN_PROGRESS;
    memcpy(conn->transcript + BOOT_HELLO_BYTES, wire, BOOT_CHALLENGE_BYTES);
    conn->in.begin += BOOT_CHALLENGE_BYTES;
    prove(conn, secret, 'C', proof);
    conn->shake = SHAKE_WAIT_VERDICT;
    queue(conn, proof, sizeof proof);
    return THRUM_IN_PROGRESS;
}

static thrum_status_t client_verdict(struct boot_conn *conn, const uint8_t *secret)
{
    const uint8_t *wire = conn->in.data + conn->in.begin;
    uint8_t proof[BOOT_PROOF_BYTES];

    if (arrived(conn) < BOOT_VERDICT_BYTES)
        return THRUM_IN_PROGRESS;
    if (!is_ours(wire) || !same_version(wire))
        return THRUM_ERR_PROTOCOL;
    prove(conn, secret, 'S', proof);
    if (wire[CODE_AT] != CODE_OK || sodium_memcmp(proof, wire + PREFIX_BYTES, sizeof proof))
        return THRUM_ERR_AUTH;
    conn->in.begin += BOOT_VERDICT_BYTES;
    derive_keys(conn, secret, true);
    conn->shake = SHAKE_DONE;
    return THRUM_OK;
}

/* ---- server ---- */

static thrum_status_t server_hello(struct boot_conn *conn)
{
    const uint8_t *wire = conn->in.data + conn->in.begin;
    uint8_t *challenge = conn->transcript + BOOT_HELLO_BYTES;

    /* Whoever does not begin with our magic gets no answer at all. */
    if (arrived(conn) >= sizeof magic && !is_ours(wire))
        return THRUM_ERR_PROTOCOL;
    if (arrived(conn) < PREFIX_BYTES)
        return THRUM_IN_PROGRESS;
    memset(challenge, 0, BOOT_CHALLENGE_BYTES);
    if (!same_version(wire)) {
        put_prefix(challenge, CODE_VERSION);
        queue(conn, challenge, BOOT_CHALLENGE_BYTES);
        return THRUM_ERR_PROTOCOL;
    }
    if (arrived(conn) < BOOT_HELLO_BYTES)
        return THRUM_IN_PROGRESS;
    memcpy(conn->transcript, wire, BOOT_HELLO_BYTES);
    conn->in.begin += BOOT_HELLO_BYTES;
    put_prefix(challenge, CODE_OK);
    randombytes_buf(challenge + PREFIX_BYTES, BOOT_NONCE_BYTES);
    conn->shake = SHAKE_WAIT_PROOF;
    queue(conn, challenge, BOOT_CHALLENGE_BYTES);
    return THRUM_IN_PROGRESS;
}

static thrum_status_t server_proof(struct boot_conn *conn, const uint8_t *secret)
{
    const uint8_t *wire = conn->in.data + conn->in.begin, *hello = conn->transcript;
    uint8_t proof[BOOT_PROOF_BYTES], verdict[BOOT_VERDICT_BYTES] = {0};

    if (arrived(conn) < BOOT_PROOF_BYTES)
        return THRUM_IN_PROGRESS;
    prove(conn, secret, 'C', proof);
    if (sodium_memcmp(proof, wire, sizeof proof)) {
        put_prefix(verdict, CODE_AUTH);
        if (!conn->is_discreet)
            queue(conn, verdict, sizeof verdict);
        return THRUM_ERR_AUTH;
    }
    conn->in.begin += BOOT_PROOF_BYTES;
    conn->hello = (struct boot_hello){
        .role = (enum boot_role)hello[ROLE_AT],
        .rank = (int32_t)boot_get_u32(hello + RANKS_AT),
        .target = (int32_t)boot_get_u32(hello + RANKS_AT + 4),
        .nranks = (int32_t)boot_get_u32(hello + RANKS_AT + 8),
    };
    put_prefix(verdict, CODE_OK);
    prove(conn, secret, 'S', verdict + PREFIX_BYTES);
    derive_keys(conn, secret, false);
    conn->shake = SHAKE_DONE;
    queue(conn, verdict, sizeof verdict);
    return THRUM_OK;
}

static thrum_status_t step(struct boot_conn *conn, const uint8_t *secret)
{
    switch (conn->shake) {
    case SHAKE_CONNECTING:
        return client_connected(conn);
    case SHAKE_WAIT_CHALLENGE:
        return client_challenge(conn, secret);
    case SHAKE_WAIT_VERDICT:
        return client_verdict(conn, secret);
    case SHAKE_WAIT_HELLO:
        return server_hello(conn);
    case SHAKE_WAIT_PROOF:
        return server_proof(conn, secret);
    case SHAKE_DONE:
        break;
    }
    return THRUM_OK;
}

thrum_status_t boot_conn_handshake(struct boot_conn *conn, const uint8_t *secret)
{
    thrum_status_t status;
    enum boot_shake before;

    boot_conn_io(conn);
    do {
        before = conn->shake;
        status = step(conn, secret);
    } while (status == THRUM_IN_PROGRESS && conn->shake != before);
    if (status == THRUM_IN_PROGRESS && conn->ended)
        return THRUM_ERR_UNREACHABLE;
    return status;
}
