/*
 * Two sim devices in two processes: export and import, windows, waits that the other satisfies, faults and resets of a
 * peer, exclusive open, a killed owner; the port with a fabric of its own; the fault script. The child is a fresh
 * execution of this program; both talk over a pair of pipes.
 */
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "device/device_internal.h"
#include "device_test.h"

/* ---- two processes ----------------------------------------------------------------------------------------------- */

struct child {
    pid_t pid;
    int to, from;
};

/* What the parent tells: where the child may signal, and its own memory. */
struct hello {
    struct thrum_mem_handle memory, semaphore;
    struct thrum_device_address address;
    uint64_t offset; /* of the memory, from the window's base */
    int index;
};

static struct hello hello_of(thrum_device_t device, char *memory, thrum_semaphore_t semaphore)
{
    struct thrum_device_properties properties = {.size = sizeof properties};
    struct hello hello;

    memset(&hello, 0, sizeof hello);
    assert_ok(thrum_device_get_properties(device, &properties));
    assert_ok(thrum_mem_export(device, memory, &hello.memory));
    assert_ok(thrum_semaphore_export(semaphore, &hello.semaphore));
    assert_ok(device->ops->address(device->impl, &hello.address));
    hello.offset = at(memory) - device->own_base;
    hello.index = properties.index;
    return hello;
}

static void tell(int fd, const void *data, size_t bytes)
{
    assert_int_equal(write(fd, data, bytes), (ssize_t)bytes);
}

static void hear(int fd, void *data, size_t bytes)
{
    assert_int_equal(read(fd, data, bytes), (ssize_t)bytes);
}

static struct child start(const char *role)
{
    struct child child;
    int down[2], up[2];

    assert_int_equal(pipe(down) | pipe(up), 0);
    child.pid = fork();
    assert_true(child.pid >= 0);
    if (!child.pid) {
        dup2(down[0], 3);
        dup2(up[1], 4);
        for (int fd = 5; fd < 32; fd++)
            close(fd);
        execl("/proc/self/exe", "peer_test", role, (char *)NULL);
        _exit(127);
    }
    close(down[0]);
    close(up[1]);
    child.to = down[1];
    child.from = up[0];
    return child;
}

static int reap(struct child *child)
{
    int status = 0;

    close(child->to);
    close(child->from);
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* ---- roles of the child ------------------------------------------------------------------------------------------ */

struct side {
    thrum_device_t device;
    thrum_queue_t queue;
    char *memory;
    thrum_semaphore_t semaphore;
};

static struct side side_open(void)
{
    struct side side;

    assert_ok(thrum_device_open(THRUM_DEVICE_ANY, &side.device));
    assert_ok(thrum_queue_create(side.device, 0, &side.queue));
    assert_ok(thrum_mem_alloc(side.device, FIXTURE_BYTES, (void **)&side.memory));
    assert_ok(thrum_semaphore_create(side.device, 0, &side.semaphore));
    return side;
}

static void side_close(struct side *side)
{
    thrum_semaphore_destroy(side->semaphore);
    thrum_queue_destroy(side->queue);
    thrum_device_close(side->device);
}

struct link {
    struct side side;
    struct hello mine, theirs;
    char *memory; /* the peer's */
    thrum_semaphore_t semaphore; /* the peer's */
};

static struct link link_up(int to, int from)
{
    struct link link;

    memset(&link, 0, sizeof link);
    link.side = side_open();
    link.mine = hello_of(link.side.device, link.side.memory, link.side.semaphore);
    tell(to, &link.mine, sizeof link.mine);
    hear(from, &link.theirs, sizeof link.theirs);
    assert_ok(thrum_mem_import(link.side.device, &link.theirs.memory, (void **)&link.memory));
    assert_ok(thrum_semaphore_import(link.side.device, &link.theirs.semaphore, &link.semaphore));
    return link;
}

#define PINGS 2000

/* Reads what the parent wrote, adds to it, writes it back; then ping-pong by semaphores only. */
static void role_exchange(void)
{
    struct link link = link_up(4, 3);
    const void *srcs[2] = {link.memory, link.side.memory};

    assert_ok(thrum_fill(link.side.queue, link.side.memory, 2, 1024));
    assert_ok(thrum_queue_wait(link.side.queue, link.side.semaphore, 1));
    assert_ok(
        thrum_queue_reduce(link.side.queue, link.memory, srcs, 2, 1024, THRUM_UINT8, THRUM_SUM));
    assert_ok(thrum_queue_signal(link.side.queue, link.semaphore, 1));
    assert_ok(finish(link.side.queue));
    for (uint64_t i = 2; i < PINGS + 2; i++) {
        assert_ok(thrum_queue_wait(link.side.queue, link.side.semaphore, i));
        assert_ok(thrum_queue_signal(link.side.queue, link.semaphore, 1));
        assert_ok(finish(link.side.queue));
    }
    thrum_semaphore_destroy(link.semaphore);
    assert_ok(thrum_mem_free(link.side.device, link.memory));
    side_close(&link.side);
}

/* Owns a device and does what single letters tell: f free, r reset, x end without a word. */
static void role_owner(void)
{
    struct side side = side_open();
    struct hello mine = hello_of(side.device, side.memory, side.semaphore);
    char order;

    tell(4, &mine, sizeof mine);
    while (read(3, &order, 1) == 1) {
        if (order == 'f')
            assert_ok(thrum_mem_free(side.device, side.memory));
        if (order == 'r')
            assert_ok(thrum_device_reset(side.device, THRUM_RESET_HARD));
        if (order == 'x')
            _exit(0);
        if (order == 'a') { /* the same place again, another allocation */
            void *memory;
            assert_ok(thrum_mem_alloc(side.device, FIXTURE_BYTES, &memory));
        }
        tell(4, &order, 1);
    }
    side_close(&side);
}

static void role_open(void)
{
    thrum_device_t device;
    int index, status;

    hear(3, &index, sizeof index);
    status = thrum_device_open(index, &device);
    tell(4, &status, sizeof status);
}

/* ---- tests of peers ---------------------------------------------------------------------------------------------- */

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void test_exchange(void **state)
{
    struct child child = start("exchange");
    struct link link = link_up(child.to, child.from);
    unsigned char bytes[1024];
    int64_t start_ns;

    (void)state;
    assert_ok(thrum_fill(link.side.queue, link.side.memory, 40, 1024));
    assert_ok(thrum_queue_signal(link.side.queue, link.semaphore, 1));
    assert_ok(thrum_queue_wait(link.side.queue, link.side.semaphore, 1));
    assert_ok(thrum_copy_to_host(link.side.queue, bytes, link.side.memory, sizeof bytes));
    for (int i = 0; i < 1024; i++)
        assert_int_equal(bytes[i], 42);
    start_ns = now();
    for (uint64_t i = 2; i < PINGS + 2; i++) {
        assert_ok(thrum_queue_signal(link.side.queue, link.semaphore, 1));
        assert_ok(thrum_queue_wait(link.side.queue, link.side.semaphore, i));
        assert_ok(finish(link.side.queue));
    }
    print_message("ping-pong: %.0f ns one way\n", (double)(now() - start_ns) / PINGS / 2);
    assert_int_equal(reap(&child), 0);
    side_close(&link.side);
}

static void order(struct child *child, char what)
{
    char answer = 0;

    tell(child->to, &what, 1);
    hear(child->from, &answer, 1);
    assert_int_equal(answer, what);
}

static void expect_fault_at(struct side *side, const char *address)
{
    thrum_queue_t queue;

    assert_ok(thrum_queue_create(side->device, 0, &queue));
    assert_ok(thrum_copy(queue, side->memory, address, 8));
    assert_status(finish(queue), THRUM_ERR_FAULT);
    thrum_queue_destroy(queue);
}

static void test_peer_frees(void **state)
{
    struct child child = start("owner");
    struct side side = side_open();
    struct hello theirs;
    struct thrum_mem_info info = {.size = sizeof info};
    char *memory, *again, *window;
    uint64_t base;

    (void)state;
    hear(child.from, &theirs, sizeof theirs);
    assert_ok(thrum_mem_import(side.device, &theirs.memory, (void **)&memory));
    assert_ok(thrum_mem_import(side.device, &theirs.memory, (void **)&again));
    assert_ptr_equal(memory, again);
    assert_ok(thrum_mem_query(side.device, memory + 9, &info));
    assert_int_equal(info.kind, THRUM_MEM_PEER);
    assert_int_equal(info.bytes, FIXTURE_BYTES);
    assert_ok(thrum_mem_free(side.device, again)); /* one of two imports */
    assert_ok(thrum_fill(side.queue, memory, 1, FIXTURE_BYTES));
    assert_ok(finish(side.queue));
    expect_fault_at(&side, memory + FIXTURE_BYTES - 7);
    /* its neighbour, the semaphore, was not imported: the import opens one allocation only */
    expect_fault_at(&side, memory + FIXTURE_BYTES);
    assert_ok(side.device->ops->peer_window_open(side.device->impl, &theirs.address, &base));
    window = (char *)(uintptr_t)(base + theirs.offset);
    assert_ok(thrum_fill(side.queue, window + FIXTURE_BYTES, 0, 8)); /* through the window it is */
    assert_ok(finish(side.queue));
    order(&child, 'f');
    expect_fault_at(&side, memory);
    expect_fault_at(&side, window);
    assert_status(thrum_mem_import(side.device, &theirs.memory, (void **)&again), THRUM_ERR_RESET);
    side.device->ops->peer_window_close(side.device->impl, base);
    order(&child, 'a');
    expect_fault_at(&side, memory); /* what is there now is not what was imported */
    assert_ok(thrum_mem_free(side.device, memory));
    assert_status(thrum_mem_free(side.device, memory), THRUM_ERR_INVALID_POINTER);
    assert_int_equal(reap(&child), 0);
    side_close(&side);
}

static void test_peer_resets(void **state)
{
    struct child child = start("owner");
    struct side side = side_open();
    struct hello theirs;
    char *memory;
    uint64_t base;

    (void)state;
    hear(child.from, &theirs, sizeof theirs);
    assert_ok(thrum_mem_import(side.device, &theirs.memory, (void **)&memory));
    assert_ok(side.device->ops->peer_window_open(side.device->impl, &theirs.address, &base));
    assert_ok(thrum_fill(side.queue, memory, 1, 8));
    assert_ok(finish(side.queue));
    order(&child, 'r');
    order(&child, 'a'); /* at the same offset */
    expect_fault_at(&side, memory);
    expect_fault_at(&side, (char *)(uintptr_t)(base + theirs.offset));
    assert_status(side.device->ops->peer_window_open(side.device->impl, &theirs.address, &base),
                  THRUM_ERR_RESET);
    assert_int_equal(reap(&child), 0);
    side_close(&side);
}

static void test_peer_dies(void **state)
{
    struct child child = start("owner");
    struct side side = side_open();
    struct hello theirs;
    thrum_device_t taken;
    char *memory;

    (void)state;
    hear(child.from, &theirs, sizeof theirs);
    assert_status(thrum_device_open(theirs.index, &taken), THRUM_ERR_BUSY);
    assert_ok(thrum_mem_import(side.device, &theirs.memory, (void **)&memory));
    kill(child.pid, SIGKILL);
    assert_int_equal(reap(&child), 1000 + SIGKILL);
    /* the memory is there as long as somebody maps it; a new import finds nobody */
    assert_ok(thrum_fill(side.queue, memory, 1, 8));
    assert_ok(finish(side.queue));
    assert_ok(thrum_mem_free(side.device, memory));
    assert_status(thrum_mem_import(side.device, &theirs.memory, (void **)&memory),
                  THRUM_ERR_PEER_DEAD);
    assert_ok(thrum_device_open(theirs.index, &taken)); /* nothing was left behind */
    /* the same name, another device: it must not be taken for the dead one */
    assert_status(thrum_mem_import(side.device, &theirs.memory, (void **)&memory),
                  THRUM_ERR_PEER_DEAD);
    thrum_device_close(taken);
    side_close(&side);
}

static void test_exclusive(void **state)
{
    struct side side = side_open();
    struct hello mine = hello_of(side.device, side.memory, side.semaphore);
    int expected[] = {THRUM_ERR_BUSY, THRUM_OK}, status;

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct child child = start("open");
        if (i)
            side_close(&side);
        tell(child.to, &mine.index, sizeof mine.index);
        hear(child.from, &status, sizeof status);
        assert_int_equal(status, expected[i]);
        assert_int_equal(reap(&child), 0);
    }
}

/* A waiter that fell asleep long ago is woken by the other process's signal. */
static void test_two_devices_here(void **state)
{
    struct side a = side_open(), b = side_open();
    struct thrum_mem_handle handle;
    thrum_semaphore_t imported;
    char *memory;

    (void)state;
    assert_ptr_not_equal(a.device, b.device);
    assert_ok(thrum_semaphore_export(a.semaphore, &handle));
    assert_ok(thrum_semaphore_import(b.device, &handle, &imported));
    assert_status(thrum_queue_signal(a.queue, imported, 1), THRUM_ERR_INVALID_QUEUE);
    /* b's work waits for a's, which this thread only reaches by helping while it waits for b */
    assert_ok(thrum_queue_wait(b.queue, imported, 1));
    assert_ok(thrum_queue_wait(a.queue, a.semaphore, 0));
    assert_ok(thrum_queue_signal(a.queue, a.semaphore, 1));
    assert_ok(finish(b.queue));
    assert_ok(thrum_mem_export(a.device, a.memory, &handle));
    assert_ok(thrum_copy(b.queue, b.memory, a.memory, 8)); /* not imported: no rights */
    assert_status(finish(b.queue), THRUM_ERR_FAULT);
    assert_ok(thrum_mem_import(b.device, &handle, (void **)&memory));
    thrum_queue_destroy(b.queue);
    assert_ok(thrum_queue_create(b.device, 0, &b.queue));
    assert_ok(thrum_copy(b.queue, b.memory, memory, 8));
    assert_ok(finish(b.queue));
    side_close(&a); /* while b has its memory */
    expect_fault_at(&b, memory);
    side_close(&b);
}

/* One submission: the line at `address` is written, by a command that contains faults in a peer's memory or not. */
static thrum_status_t write_line(struct side *side, char *address, unsigned flags)
{
    const uint64_t payload = 1;
    struct thrum_operand operand = {.base = (uint64_t)(uintptr_t)address};
    struct thrum_command command = {.opcode = THRUM_CMD_WRITE_LINE,
                                    .flags = (uint8_t)flags,
                                    .ndst = 1,
                                    .bytes = sizeof payload,
                                    .value = 1,
                                    .operands = &operand,
                                    .payload = &payload};

    assert_ok(thrum_queue_submit(side->queue, &command, 1, NULL));
    return finish(side->queue);
}

static thrum_status_t signal_word(struct side *side, char *address, unsigned flags)
{
    struct thrum_operand operand = {.base = (uint64_t)(uintptr_t)address};
    struct thrum_command command = {.opcode = THRUM_CMD_SIGNAL,
                                    .flags = (uint8_t)(THRUM_CMD_FLAG_SET | flags),
                                    .ndst = 1,
                                    .value = 1,
                                    .operands = &operand};

    assert_ok(thrum_queue_submit(side->queue, &command, 1, NULL));
    return finish(side->queue);
}

static void test_contained_fault(void **state)
{
    struct side a = side_open(), b = side_open();
    struct thrum_mem_handle handle;
    char *memory;

    (void)state;
    assert_ok(thrum_mem_export(a.device, a.memory, &handle));
    assert_ok(thrum_mem_import(b.device, &handle, (void **)&memory));
    assert_ok(write_line(&b, memory, THRUM_CMD_FLAG_CONTAIN));
    side_close(&a);
    assert_status(write_line(&b, memory, THRUM_CMD_FLAG_CONTAIN), THRUM_ERR_FAULT);
    assert_status(signal_word(&b, memory, THRUM_CMD_FLAG_CONTAIN), THRUM_ERR_FAULT);
    assert_ok(signal_word(&b, memory, THRUM_CMD_FLAG_LENIENT)); /* nobody is there to miss it */
    assert_ok(thrum_fill(b.queue, b.memory, 1, 8)); /* the queue goes on */
    assert_ok(finish(b.queue));
    assert_status(write_line(&b, memory, 0), THRUM_ERR_FAULT);
    assert_status(thrum_fill(b.queue, b.memory, 1, 8), THRUM_ERR_FAULT); /* now it has stopped */
    side_close(&b);
}

/* ---- the port ----------------------------------------------------------------------------------------------------- */

static char remote[256];
static _Atomic int refusals, progressed, in_flight;

static thrum_status_t fake_put(void *peer, const struct thrum_fabric_put *put)
{
    if (refusals-- > 0)
        return THRUM_IN_PROGRESS;
    assert_ptr_equal(peer, remote);
    assert_int_equal(put->remote_key, 7);
    if (put->bytes)
        memcpy(remote + put->remote_offset, put->local, put->bytes);
    if (put->signal_key)
        memcpy(remote + put->signal_offset, &put->signal_value, 8);
    assert_int_equal(!put->local_region, put->bytes == 0 || put->flags == THRUM_PUT_INLINE);
    in_flight++;
    return THRUM_OK;
}

static thrum_status_t fake_flush(void *peer)
{
    (void)peer;
    return in_flight ? THRUM_IN_PROGRESS : THRUM_OK;
}

static thrum_status_t fake_progress(void *endpoint)
{
    (void)endpoint;
    progressed++;
    if (!in_flight)
        return THRUM_IN_PROGRESS;
    in_flight--;
    return THRUM_OK;
}

static int fake_wait_fd(void *endpoint)
{
    (void)endpoint;
    return -1;
}

static atomic_bool link_went; /* get_events shall say so, once; to whichever thread asks */

/* A port that went down on the fabric's side is a RAS event of the device. */
static void expect_link_down(const struct side *side)
{
    struct thrum_ras_event event = {0};
    size_t n = 0;

    for (int tries = 0; !n && tries < 10000; tries++) { /* the engine thread may be about to tell */
        assert_ok(thrum_ras_get_events(side->device, &event, 1, &n));
        if (!n)
            poll(NULL, 0, 1);
    }
    assert_int_equal(n, 1);
    assert_int_equal(event.kind, THRUM_RAS_LINK_DOWN);
    assert_int_equal(event.engine, THRUM_ENGINE_PORT);
    assert_int_equal(event.address, 1);
}

static size_t fake_get_events(void *endpoint, struct thrum_fabric_event *events_out, size_t max)
{
    (void)endpoint;
    if (!max || !atomic_exchange(&link_went, false))
        return 0;
    *events_out = (struct thrum_fabric_event){.kind = THRUM_FABRIC_LINK_DOWN, .port = 1};
    return 1;
}

static const struct thrum_fabric_ops fake_fabric = {
    .size = sizeof fake_fabric,
    .abi_version = THRUM_FABRIC_ABI_VERSION,
    .name = "fake",
    .put_signal = fake_put,
    .flush = fake_flush,
    .progress = fake_progress,
    .wait_fd = fake_wait_fd,
    .get_events = fake_get_events,
};

static void test_port(void **state)
{
    struct side side = side_open();
    int endpoint;
    uint64_t signal;
    struct thrum_operand operands[] = {{.base = 16}, {.base = at(side.memory)}};
    struct thrum_command commands[3] = {
        {.opcode = THRUM_CMD_PUT,
         .ndst = 1,
         .nsrc = 1,
         .bytes = 100,
         .value = 5,
         .operands = operands,
         .put = {.peer = remote, .local_region = &endpoint, .remote_key = 7, .signal_key = 7}},
        {.opcode = THRUM_CMD_PUT,
         .ndst = 1,
         .bytes = 4,
         .payload = "abc",
         .operands = operands,
         .put = {.peer = remote, .remote_key = 7}},
        {.opcode = THRUM_CMD_PUT, .flags = THRUM_CMD_FLAG_FLUSH, .put = {.peer = remote}}};

    (void)state;
    assert_status(thrum_queue_submit(side.queue, commands, 3, NULL), THRUM_ERR_INVALID_COMMAND);
    assert_ok(side.device->ops->port_attach(side.device->impl, &fake_fabric, &endpoint));
    assert_ok(thrum_fill(side.queue, side.memory, 'x', 100));
    refusals = 3;
    atomic_store(&link_went, true);
    assert_ok(thrum_queue_submit(side.queue, commands, 3, NULL));
    assert_ok(finish(side.queue));
    assert_true(progressed > 0);
    expect_link_down(&side);
    assert_memory_equal(remote + 16, "abc", 4);
    assert_int_equal(remote[20], 'x');
    assert_int_equal(remote[115], 'x');
    memcpy(&signal, remote, 8);
    assert_int_equal(signal, 5);
    operands[1].base += FIXTURE_BYTES - 50;
    assert_ok(thrum_queue_submit(side.queue, commands, 1, NULL));
    assert_status(finish(side.queue), THRUM_ERR_FAULT);
    assert_ok(side.device->ops->port_detach(side.device->impl, &endpoint));
    assert_status(side.device->ops->port_detach(side.device->impl, &endpoint),
                  THRUM_ERR_INVALID_ARGUMENT);
    side_close(&side);
}

/* A port that cannot wake the engine is looked at, but as seldom as the engine may: every 2 ms; and soon again at work. */
static void test_port_without_work(void **state)
{
    struct side side = side_open();
    int endpoint, before;
    int64_t since_ns;

    (void)state;
    assert_ok(side.device->ops->port_attach(side.device->impl, &fake_fabric, &endpoint));
    poll(NULL, 0, 50);
    since_ns = now_ns();
    before = progressed;
    poll(NULL, 0, 400);
    assert_in_range(progressed - before, 1, (now_ns() - since_ns) / 2000000 + 10);
    in_flight = 1;
    for (int tries = 0; in_flight && tries < 10000; tries++)
        poll(NULL, 0, 1);
    assert_int_equal(in_flight, 0);
    assert_ok(
        thrum_fill(side.queue, side.memory, 1, 8)); /* the engine hears of it, or is not asleep */
    assert_ok(finish(side.queue));
    assert_ok(side.device->ops->port_detach(side.device->impl, &endpoint));
    side_close(&side);
}

/* ---- the fault script ---------------------------------------------------------------------------------------------- */

struct replay {
    size_t n;
    struct thrum_ras_event events[16];
    thrum_status_t statuses[20];
};

static void play(struct replay *replay, uint64_t seed)
{
    struct side side = side_open();
    uint64_t first = thrum_queue_id(side.queue);

    memset(replay, 0, sizeof *replay);
    assert_ok(thrum_ras_inject(side.device,
                               "ecc-corrected@c3:0x77; page-fault@c4-9:0x1000;link-down@c12:1; "
                               "throttling@c13:1;ecc-uncorrected@c14-18;bad-packet@c20",
                               seed));
    for (int i = 0; i < 20; i++) {
        thrum_queue_t queue;
        assert_ok(thrum_queue_create(side.device, 0, &queue));
        assert_ok(thrum_fill(queue, side.memory, 1, 64));
        replay->statuses[i] = finish(queue);
        thrum_queue_destroy(queue);
    }
    assert_ok(thrum_ras_get_events(side.device, replay->events, 16, &replay->n));
    for (size_t i = 0; i < replay->n; i++) {
        replay->events[i].timestamp_ns = 0;
        if (replay->events[i].queue_id)
            replay->events[i].queue_id -= first;
        if (side.device->ops->address_is_device(replay->events[i].address))
            replay->events[i].address -= at(side.memory); /* the slot may differ */
    }
    side_close(&side);
}

static void test_script_replays(void **state)
{
    static struct replay one, two, other;
    int differ = 0;

    (void)state;
    play(&one, 42);
    play(&two, 42);
    assert_int_equal(one.n, 6);
    assert_memory_equal(&one, &two, sizeof one);
    assert_int_equal(one.events[0].kind, THRUM_RAS_ECC_CORRECTED);
    assert_int_equal(one.events[0].address, 0x77);
    assert_int_equal(one.statuses[2], THRUM_OK);
    assert_int_equal(one.events[1].kind, THRUM_RAS_PAGE_FAULT);
    assert_int_equal(one.statuses[19], THRUM_ERR_BAD_PACKET);
    for (uint64_t seed = 1; seed < 9; seed++) {
        play(&other, seed);
        differ += memcmp(&one, &other, sizeof one) != 0;
    }
    assert_true(differ > 0);
}

static void test_script_resets_and_times(void **state)
{
    struct side side = side_open();
    struct thrum_ras_event event;
    size_t n = 0;

    (void)state;
    assert_status(thrum_ras_inject(side.device, "page-fault@x3", 1), THRUM_ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(thrum_last_error(), "page-fault@x3"));
    assert_status(thrum_ras_inject(side.device, "nothing@c3", 1), THRUM_ERR_INVALID_ARGUMENT);
    assert_status(thrum_ras_inject(side.device, "link-up@c5-3", 1), THRUM_ERR_INVALID_ARGUMENT);
    assert_ok(thrum_ras_inject(side.device, "heartbeat-lost@t5ms", 1));
    while (!n)
        assert_ok(thrum_ras_get_events(side.device, &event, 1, &n));
    assert_int_equal(event.kind, THRUM_RAS_HEARTBEAT_LOST);
    assert_ok(thrum_ras_inject(side.device, "reset-hard@c2", 1));
    assert_ok(thrum_fill(side.queue, side.memory, 1, 8));
    assert_ok(finish(side.queue));
    assert_ok(thrum_fill(side.queue, side.memory, 1, 8));
    assert_status(finish(side.queue), THRUM_ERR_RESET);
    side_close(&side);
}

/* ---- holding a destroyed queue, cancel ------------------------------------------------------------------------------ */

static void test_cancel_and_hold(void **state)
{
    struct side side = side_open();
    const struct thrum_device_ops *ops = side.device->ops;
    struct thrum_command nop = {.opcode = THRUM_CMD_NOP};
    uint64_t first, second, ticket;

    (void)state;
    assert_ok(thrum_queue_wait(side.queue, side.semaphore, 1));
    assert_ok(thrum_queue_submit(side.queue, &nop, 1, &first));
    assert_ok(thrum_queue_submit(side.queue, &nop, 1, &second));
    ops->cancel(side.queue->impl, 1, first, THRUM_ERR_ABORTED);
    assert_status(ops->wait(side.queue->impl, second, TEST_TIMEOUT_NS), THRUM_OK);
    assert_status(ops->poll(side.queue->impl, first), THRUM_ERR_ABORTED);
    assert_status(finish(side.queue), THRUM_ERR_ABORTED);
    queue_fail(side.queue, THRUM_ERR_PEER_DEAD, "rank 3 has died");
    queue_fail(side.queue, THRUM_ERR_TIMEOUT, "later");
    assert_status(finish(side.queue), THRUM_ERR_PEER_DEAD);
    assert_string_equal(thrum_last_error(), "rank 3 has died");
    assert_ok(finish(side.queue));

    assert_ok(thrum_queue_wait(side.queue, side.semaphore, 1));
    assert_ok(thrum_queue_submit(side.queue, &nop, 1, &ticket));
    queue_hold(side.queue);
    thrum_queue_destroy(side.queue);
    assert_false(queue_is_valid(side.queue));
    assert_status(ops->poll(side.queue->impl, ticket), THRUM_ERR_ABORTED);
    assert_status(ops->submit(side.queue->impl, &nop, 1, NULL), THRUM_ERR_ABORTED);
    ops->cancel(side.queue->impl, 1, ticket, THRUM_ERR_TIMEOUT);
    queue_release(side.queue);
    thrum_semaphore_destroy(side.semaphore);
    thrum_device_close(side.device);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exchange),
        cmocka_unit_test(test_peer_frees),
        cmocka_unit_test(test_peer_resets),
        cmocka_unit_test(test_peer_dies),
        cmocka_unit_test(test_exclusive),
        cmocka_unit_test(test_two_devices_here),
        cmocka_unit_test(test_contained_fault),
        cmocka_unit_test(test_port),
        cmocka_unit_test(test_port_without_work),
        cmocka_unit_test(test_script_replays),
        cmocka_unit_test(test_script_resets_and_times),
        cmocka_unit_test(test_cancel_and_hold),
    };

    signal(SIGPIPE, SIG_IGN);
    setenv("THRUM_SIM_HBM_BYTES", "64M", 1);
    if (argc > 1) {
        alarm(60);
        if (!strcmp(argv[1], "exchange"))
            role_exchange();
        else if (!strcmp(argv[1], "owner"))
            role_owner();
        else
            role_open();
        return 0;
    }
    return cmocka_run_group_tests_name("peer", tests, NULL, NULL);
}
