/* The proof of the secret and the MAC of frames, over socket pairs, with somebody in between. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <sodium.h>

#include "bootstrap/internal.h"

static const uint8_t secret[BOOT_SECRET_BYTES] = "the secret of this job";
static const uint8_t other_secret[BOOT_SECRET_BYTES] = "the secret of another job";
static const struct boot_hello hello = {BOOT_ROLE_TREE, 5, 2, 9};

/* client.fd <-> wire[0], wire[1] <-> server.fd: the test carries the bytes, as it likes. */
struct pair {
    struct boot_conn client, server;
    int wire[2];
};

static void make_pair(struct pair *pair)
{
    struct boot_address nobody;
    int a[2], b[2];

    assert_true(sodium_init() >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, a), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, b), 0);
    memset(&nobody, 0, sizeof nobody);
    boot_conn_init(&pair->client);
    pair->client.fd = a[0];
    pair->client.hello = hello;
    pair->client.shake = SHAKE_CONNECTING;
    pair->client.frame_max = 1000;
    boot_conn_accepted(&pair->server, b[0], &nobody, 1000);
    pair->wire[0] = a[1];
    pair->wire[1] = b[1];
}

static void free_pair(struct pair *pair)
{
    boot_conn_close(&pair->client);
    boot_conn_close(&pair->server);
    close(pair->wire[0]);
    close(pair->wire[1]);
}

/* What the sender at `wire` has written. */
static size_t take(int wire, uint8_t *bytes, size_t room)
{
    ssize_t n = recv(wire, bytes, room, 0);
    return n > 0 ? (size_t)n : 0;
}

static void give(int wire, const uint8_t *bytes, size_t n)
{
    assert_int_equal(send(wire, bytes, n, MSG_NOSIGNAL), n);
}

/* Carries one message, with byte `flip` (or -1) changed. Returns its length. */
static size_t carry(int from, int to, int flip, uint8_t *copy)
{
    uint8_t bytes[512];
    size_t n = take(from, bytes, sizeof bytes);

    if (flip >= 0) {
        assert_true((size_t)flip < n);
        bytes[flip] ^= 4;
    }
    if (copy)
        memcpy(copy, bytes, n);
    give(to, bytes, n);
    return n;
}

static void shake(struct pair *pair)
{
    assert_int_equal(boot_conn_handshake(&pair->client, secret), THRUM_IN_PROGRESS);
    carry(pair->wire[0], pair->wire[1], -1, NULL);
    assert_int_equal(boot_conn_handshake(&pair->server, secret), THRUM_IN_PROGRESS);
    carry(pair->wire[1], pair->wire[0], -1, NULL);
    assert_int_equal(boot_conn_handshake(&pair->client, secret), THRUM_IN_PROGRESS);
    carry(pair->wire[0], pair->wire[1], -1, NULL);
    assert_int_equal(boot_conn_handshake(&pair->server, secret), THRUM_OK);
    carry(pair->wire[1], pair->wire[0], -1, NULL);
    assert_int_equal(boot_conn_handshake(&pair->client, secret), THRUM_OK);
}

static void both_sides_prove(void **state)
{
    struct pair pair;

    (void)state;
    make_pair(&pair);
    shake(&pair);
    assert_memory_equal(&pair.server.hello, &hello, sizeof hello);
    free_pair(&pair);
}

static void the_secret_is_never_on_the_wire(void **state)
{
    struct pair pair;
    uint8_t seen[4][512];
    size_t n[4];

    (void)state;
    make_pair(&pair);
    (void)boot_conn_handshake(&pair.client, secret);
    n[0] = carry(pair.wire[0], pair.wire[1], -1, seen[0]);
    (void)boot_conn_handshake(&pair.server, secret);
    n[1] = carry(pair.wire[1], pair.wire[0], -1, seen[1]);
    (void)boot_conn_handshake(&pair.client, secret);
    n[2] = carry(pair.wire[0], pair.wire[1], -1, seen[2]);
    (void)boot_conn_handshake(&pair.server, secret);
    n[3] = carry(pair.wire[1], pair.wire[0], -1, seen[3]);
    for (int i = 0; i < 4; i++)
        assert_null(memmem(seen[i], n[i], secret, 8));
    free_pair(&pair);
}

static void a_wrong_secret_is_refused(void **state)
{
    struct pair pair;

    (void)state;
    make_pair(&pair);
    (void)boot_conn_handshake(&pair.client, other_secret);
    carry(pair.wire[0], pair.wire[1], -1, NULL);
    (void)boot_conn_handshake(&pair.server, secret);
    carry(pair.wire[1], pair.wire[0], -1, NULL);
    (void)boot_conn_handshake(&pair.client, other_secret);
    carry(pair.wire[0], pair.wire[1], -1, NULL);
    assert_int_equal(boot_conn_handshake(&pair.server, secret), THRUM_ERR_AUTH);
    carry(pair.wire[1], pair.wire[0], -1, NULL);
    assert_int_equal(boot_conn_handshake(&pair.client, other_secret), THRUM_ERR_AUTH);
    free_pair(&pair);
}

/* Any bit of any message changed on the way: nobody believes it. */
static void every_byte_counts(void **state)
{
    static const int lengths[4] = {BOOT_HELLO_BYTES, BOOT_CHALLENGE_BYTES, BOOT_PROOF_BYTES,
                                   BOOT_VERDICT_BYTES};

    (void)state;
    for (int message = 0; message < 4; message++)
        for (int at = 0; at < lengths[message]; at++) {
            struct pair pair;
            thrum_status_t client, server;

            make_pair(&pair);
            (void)boot_conn_handshake(&pair.client, secret);
            carry(pair.wire[0], pair.wire[1], message == 0 ? at : -1, NULL);
            server = boot_conn_handshake(&pair.server, secret);
            if (server == THRUM_IN_PROGRESS) {
                carry(pair.wire[1], pair.wire[0], message == 1 ? at : -1, NULL);
                client = boot_conn_handshake(&pair.client, secret);
                if (client == THRUM_IN_PROGRESS) {
                    carry(pair.wire[0], pair.wire[1], message == 2 ? at : -1, NULL);
                    server = boot_conn_handshake(&pair.server, secret);
                    if (message < 3)
                        assert_int_equal(server, THRUM_ERR_AUTH);
                    carry(pair.wire[1], pair.wire[0], message == 3 ? at : -1, NULL);
                    client = boot_conn_handshake(&pair.client, secret);
                    /* the last byte of the prefix says nothing */
                    if (message != 3 || at != 7)
                        assert_true(client < 0);
                } else {
                    assert_int_equal(client, THRUM_ERR_PROTOCOL);
                }
            } else {
                assert_int_equal(server, THRUM_ERR_PROTOCOL);
            }
            free_pair(&pair);
        }
}

static void a_recorded_client_is_refused(void **state)
{
    struct pair first, second;
    uint8_t hello_bytes[512], proof[512], drop[512];
    size_t hello_n, proof_n;

    (void)state;
    make_pair(&first);
    (void)boot_conn_handshake(&first.client, secret);
    hello_n = carry(first.wire[0], first.wire[1], -1, hello_bytes);
    (void)boot_conn_handshake(&first.server, secret);
    carry(first.wire[1], first.wire[0], -1, NULL);
    (void)boot_conn_handshake(&first.client, secret);
    proof_n = carry(first.wire[0], first.wire[1], -1, proof);
    assert_int_equal(boot_conn_handshake(&first.server, secret), THRUM_OK);
    free_pair(&first);

    make_pair(&second);
    give(second.wire[1], hello_bytes, hello_n);
    assert_int_equal(boot_conn_handshake(&second.server, secret), THRUM_IN_PROGRESS);
    assert_int_equal(take(second.wire[1], drop, sizeof drop), BOOT_CHALLENGE_BYTES);
    give(second.wire[1], proof, proof_n);
    assert_int_equal(boot_conn_handshake(&second.server, secret), THRUM_ERR_AUTH);
    free_pair(&second);
}

/* Somebody who only sends back what he gets, and a client's proof as the server's. */
static void a_mirror_is_refused(void **state)
{
    uint8_t bytes[512], verdict[BOOT_VERDICT_BYTES];
    struct pair pair;
    size_t n;

    (void)state;
    make_pair(&pair);
    (void)boot_conn_handshake(&pair.client, secret);
    n = take(pair.wire[0], bytes, sizeof bytes);
    give(pair.wire[0], bytes, n); /* the hello, which is longer than a challenge */
    (void)boot_conn_handshake(&pair.client, secret);
    n = take(pair.wire[0], bytes, sizeof bytes);
    assert_int_equal(n, BOOT_PROOF_BYTES);
    memset(verdict, 0, sizeof verdict);
    memcpy(verdict, "THRM\2\0\0\0", 8);
    memcpy(verdict + 8, bytes, BOOT_PROOF_BYTES);
    give(pair.wire[0], verdict, sizeof verdict);
    assert_true(boot_conn_handshake(&pair.client, secret) < 0);
    free_pair(&pair);

    make_pair(&pair);
    (void)boot_conn_handshake(&pair.client, secret);
    (void)take(pair.wire[0], bytes, sizeof bytes);
    memset(bytes, 0, BOOT_CHALLENGE_BYTES);
    memcpy(bytes, "THRM\2\0\0\0", 8);
    give(pair.wire[0], bytes, BOOT_CHALLENGE_BYTES);
    (void)boot_conn_handshake(&pair.client, secret);
    assert_int_equal(take(pair.wire[0], verdict + 8, BOOT_PROOF_BYTES), BOOT_PROOF_BYTES);
    give(pair.wire[0], verdict, sizeof verdict);
    assert_int_equal(boot_conn_handshake(&pair.client, secret), THRUM_ERR_AUTH);
    free_pair(&pair);
}

static void another_version_is_told_so(void **state)
{
    uint8_t bytes[512] = "THRM\3\0\1\0";
    struct pair pair;

    (void)state;
    make_pair(&pair);
    give(pair.wire[1], bytes, 8);
    assert_int_equal(boot_conn_handshake(&pair.server, secret), THRUM_ERR_PROTOCOL);
    assert_int_equal(take(pair.wire[1], bytes, sizeof bytes), BOOT_CHALLENGE_BYTES);
    assert_memory_equal(bytes, "THRM\2\0\1\0", 8);
    (void)boot_conn_handshake(&pair.client, secret);
    bytes[4] = 3;
    give(pair.wire[0], bytes, BOOT_CHALLENGE_BYTES);
    assert_int_equal(boot_conn_handshake(&pair.client, secret), THRUM_ERR_PROTOCOL);
    free_pair(&pair);
}

static void strangers_get_no_answer(void **state)
{
    uint8_t bytes[512] = "GET / HTTP/1.1\r\nHost: example\r\n\r\n";
    struct pair pair;

    (void)state;
    make_pair(&pair);
    give(pair.wire[1], bytes, 30);
    assert_int_equal(boot_conn_handshake(&pair.server, secret), THRUM_ERR_PROTOCOL);
    assert_int_equal(take(pair.wire[1], bytes, sizeof bytes), 0);
    free_pair(&pair);
}

/* ---- frames ---- */

static void frames_cannot_be_changed_or_repeated(void **state)
{
    uint8_t bytes[512], copy[512];
    struct boot_frame frame;
    struct pair pair;
    size_t n;

    (void)state;
    make_pair(&pair);
    shake(&pair);
    assert_int_equal(boot_conn_send(&pair.client, FRAME_DATA, "head", 4, "body", 4), THRUM_OK);
    n = take(pair.wire[0], bytes, sizeof bytes);
    memcpy(copy, bytes, n);
    for (size_t split = 1; split < n; split++) { /* however it arrives */
        struct boot_conn *server = &pair.server;

        give(pair.wire[1], bytes, split);
        boot_conn_io(server);
        assert_int_equal(boot_conn_peek(server, &frame), THRUM_IN_PROGRESS);
        give(pair.wire[1], bytes + split, n - split);
        boot_conn_io(server);
        assert_int_equal(boot_conn_peek(server, &frame), THRUM_OK);
        assert_int_equal(frame.type, FRAME_DATA);
        assert_int_equal(frame.bytes, 8);
        assert_memory_equal(frame.payload, "headbody", 8);
        boot_conn_pop(server);
        assert_int_equal(boot_conn_send(&pair.client, FRAME_DATA, "head", 4, "body", 4), THRUM_OK);
        assert_int_equal(take(pair.wire[0], bytes, sizeof bytes), n);
        assert_memory_not_equal(bytes, copy, n); /* the number is in the MAC */
    }
    give(pair.wire[1], copy, n); /* an old one again */
    boot_conn_io(&pair.server);
    assert_int_equal(boot_conn_peek(&pair.server, &frame), THRUM_ERR_PROTOCOL);
    free_pair(&pair);

    for (size_t flip = 0; flip < n; flip++) {
        make_pair(&pair);
        shake(&pair);
        assert_int_equal(boot_conn_send(&pair.client, FRAME_DATA, "head", 4, "body", 4), THRUM_OK);
        carry(pair.wire[0], pair.wire[1], (int)flip, NULL);
        boot_conn_io(&pair.server);
        assert_int_not_equal(boot_conn_peek(&pair.server, &frame), THRUM_OK);
        free_pair(&pair);
    }
    make_pair(&pair);
    shake(&pair);
    assert_int_equal(boot_conn_send(&pair.client, FRAME_DATA, "head", 4, "body", 4), THRUM_OK);
    carry(pair.wire[0], pair.wire[0], -1, NULL); /* back to its sender */
    boot_conn_io(&pair.client);
    assert_int_equal(boot_conn_peek(&pair.client, &frame), THRUM_ERR_PROTOCOL);
    free_pair(&pair);
}

static void frames_are_bounded(void **state)
{
    uint8_t bytes[8] = {0};
    struct boot_frame frame;
    struct pair pair;

    (void)state;
    make_pair(&pair);
    shake(&pair);
    boot_put_u32(bytes, 1001);
    bytes[4] = FRAME_DATA;
    give(pair.wire[1], bytes, sizeof bytes);
    boot_conn_io(&pair.server);
    assert_int_equal(boot_conn_peek(&pair.server, &frame), THRUM_ERR_PROTOCOL);
    assert_true(pair.server.in.capacity < 4096);
    free_pair(&pair);
}

/* ---- the door ---- */

static void knock(const struct boot_address *address, int *fd_out)
{
    *fd_out = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(*fd_out, &address->sa, boot_address_length(address)), 0);
}

static bool is_closed(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static void strangers_have_little_time_and_room(void **state)
{
    struct boot_address address;
    struct boot_door door;
    int listener, fds[4];
    int64_t now = now_ns();
    bool named;

    (void)state;
    assert_int_equal(boot_address_resolve("127.0.0.1:1", &address, &named), THRUM_OK);
    boot_address_set_port(&address, 0);
    assert_int_equal(boot_listen(&address, false, &listener), THRUM_OK);
    boot_door_open(&door, listener, 2, 1000);
    knock(&address, &fds[0]);
    assert_null(boot_door_next(&door, secret, now));
    assert_int_equal(door.nstrangers, 1);
    knock(&address, &fds[1]);
    knock(&address, &fds[2]);
    assert_null(boot_door_next(&door, secret, now)); /* full: the third waits outside */
    assert_int_equal(door.nstrangers, 2);
    assert_false(is_closed(fds[0]));
    now = now_ns() + 1100 * MS_NS;
    assert_null(boot_door_next(&door, secret, now)); /* the first makes place */
    assert_int_equal(door.nstrangers, 2);
    assert_true(is_closed(fds[0]));
    now = now_ns() + BOOT_SHAKE_TIMEOUT_NS + MS_NS;
    assert_true(boot_door_due(&door) < now);
    assert_null(boot_door_next(&door, secret, now));
    assert_int_equal(door.nstrangers, 0);
    assert_true(is_closed(fds[1]) && is_closed(fds[2]));
    boot_door_close(&door);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
}

/* ---- ids, tree, text ---- */

static void ids_are_checked(void **state)
{
    struct thrum_unique_id bytes = {{0}};
    struct boot_id id;

    (void)state;
    assert_int_equal(boot_id_decode(&bytes, &id), THRUM_ERR_INVALID_ARGUMENT);
    assert_int_equal(bootstrap_id_from("192.0.2.7:4000", "abc", 3, &bytes), THRUM_OK);
    assert_int_equal(boot_id_decode(&bytes, &id), THRUM_OK);
    assert_int_equal(boot_address_port(&id.address), 4000);
    for (int i = 0; i < THRUM_UNIQUE_ID_BYTES; i++) {
        bytes.bytes[i] ^= 1;
        assert_int_not_equal(boot_id_decode(&bytes, &id), THRUM_OK);
        bytes.bytes[i] ^= 1;
    }
    bytes.bytes[4] = 3;
    assert_int_equal(boot_id_decode(&bytes, &id), THRUM_ERR_PROTOCOL);
    assert_int_equal(bootstrap_id_from("[::1]:4000", "abc", 3, &bytes), THRUM_OK);
    assert_int_equal(bootstrap_id_from("::1:4000", "abc", 3, &bytes), THRUM_ERR_INVALID_CONFIG);
    assert_int_equal(bootstrap_id_from("host", "abc", 3, &bytes), THRUM_ERR_INVALID_CONFIG);
    assert_int_equal(bootstrap_id_from("127.0.0.1:0", "abc", 3, &bytes), THRUM_ERR_INVALID_CONFIG);
    assert_int_equal(bootstrap_id_from("127.0.0.1:70000", "abc", 3, &bytes),
                     THRUM_ERR_INVALID_CONFIG);
    assert_int_equal(bootstrap_id_from(":1", "abc", 3, &bytes), THRUM_ERR_INVALID_CONFIG);
}

static void the_tree_holds_every_rank_once(void **state)
{
    (void)state;
    for (int n = 1; n < 700; n += n < 80 ? 1 : 97)
        for (int r = 0; r < n; r++) {
            struct boot_tree tree, parent;
            int next = r + 1;

            boot_tree_make(r, n, &tree);
            assert_int_equal(tree.rank, r);
            for (int i = 0; i < tree.nchildren; i++) { /* contiguous, without gaps */
                assert_int_equal(tree.child[i], next);
                next = tree.child_end[i];
            }
            assert_int_equal(next, tree.end);
            assert_true(tree.depth <= 4);
            if (!r) {
                assert_int_equal(tree.parent, -1);
                continue;
            }
            boot_tree_make(tree.parent, n, &parent);
            assert_int_equal(parent.depth + 1, tree.depth);
            for (int i = 0; i < parent.nchildren; i++)
                if (parent.child[i] == r)
                    assert_int_equal(parent.child_end[i], tree.end);
        }
}

static void sets_of_ranks_are_short(void **state)
{
    bool set[400] = {false};
    char text[100];

    (void)state;
    set[3] = true;
    boot_ranks_text(set, 9, text, sizeof text);
    assert_string_equal(text, "rank 3");
    set[5] = set[6] = set[7] = true;
    boot_ranks_text(set, 9, text, sizeof text);
    assert_string_equal(text, "ranks 3, 5-7");
    set[4] = set[5] = set[7] = false;
    set[4] = true;
    boot_ranks_text(set, 9, text, sizeof text);
    assert_string_equal(text, "ranks 3, 4, 6");
    for (int i = 0; i < 400; i++)
        set[i] = i % 2;
    boot_ranks_text(set, 400, text, sizeof text);
    assert_non_null(strstr(text, "more"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_sides_prove),
        cmocka_unit_test(the_secret_is_never_on_the_wire),
        cmocka_unit_test(a_wrong_secret_is_refused),
        cmocka_unit_test(every_byte_counts),
        cmocka_unit_test(a_recorded_client_is_refused),
        cmocka_unit_test(a_mirror_is_refused),
        cmocka_unit_test(another_version_is_told_so),
        cmocka_unit_test(strangers_get_no_answer),
        cmocka_unit_test(frames_cannot_be_changed_or_repeated),
        cmocka_unit_test(frames_are_bounded),
        cmocka_unit_test(strangers_have_little_time_and_room),
        cmocka_unit_test(ids_are_checked),
        cmocka_unit_test(the_tree_holds_every_rank_once),
        cmocka_unit_test(sets_of_ranks_are_short),
    };
    return cmocka_run_group_tests_name("bootstrap handshake", tests, NULL, NULL);
}
