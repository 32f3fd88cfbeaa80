/* See device_side.h. Called by the device conformance suite. */
#include "device_side.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

#define SIDE_LIMIT_S 60
#define PEEK_BYTES 4096

const struct thrum_device_ops *side_ops;
int side_device = -1;
int64_t side_wait_ns = 20000000000;

void side_expect(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s (last error: %s)\n", what, thrum_last_error());
    _exit(1);
}

void side_expect_ok(thrum_status_t status, const char *what)
{
    if (!status)
        return;
    fprintf(stderr, "%s: %s\n", what, thrum_status_name(status));
    side_expect(false, what);
}

/* ---- devices --------------------------------------------------------------------------------------------------- */

/* Of a device that another process may have: BUSY. */
static thrum_status_t open_first(const struct side *side, void **device_out)
{
    thrum_status_t status = THRUM_ERR_NO_DEVICE;
    int n = 0;

    side_expect_ok(side->ops->enumerate(&n), "enumerate");
    for (int i = 0; i < n && status; i++)
        status = side->ops->open(i, device_out);
    return status;
}

void side_open(struct side *side)
{
    thrum_status_t status = THRUM_ERR_BUSY;

    if (side_device >= 0)
        status = side->ops->open(side_device, &side->device);
    if (status)
        status = open_first(side, &side->device);
    side_expect_ok(status, "open");
    side->about = (struct thrum_device_properties){.size = sizeof side->about};
    side_expect_ok(side->ops->properties(side->device, &side->about), "properties");
    side->a = side_alloc(side, SIDE_BYTES);
    side->b = side_alloc(side, SIDE_BYTES);
    side->queue = side_new_queue(side, THRUM_QUEUE_DEFAULT);
}

void side_close(struct side *side)
{
    side->ops->queue_destroy(side->queue);
    side->ops->close(side->device);
}

bool side_can(const struct side *side, uint64_t capability)
{
    return (side->about.capabilities & capability) == capability;
}

uint64_t side_alloc(const struct side *side, size_t bytes)
{
    uint64_t address = 0;

    side_expect_ok(side->ops->mem_alloc(side->device, bytes, &address), "mem_alloc");
    return address;
}

void *side_new_queue(const struct side *side, unsigned flags)
{
    void *queue = NULL;

    side_expect_ok(side->ops->queue_create(side->device, flags, &queue), "queue_create");
    return queue;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

void side_read(const struct side *side, uint64_t address, void *host_out, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PEEK_BYTES)
        side_expect_ok(side->ops->mem_peek(side->device, address + at, (char *)host_out + at,
                                           min_u64(bytes - at, PEEK_BYTES)),
                       "mem_peek");
}

void side_write(const struct side *side, uint64_t address, const void *host, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PEEK_BYTES)
        side_expect_ok(side->ops->mem_poke(side->device, address + at, (const char *)host + at,
                                           min_u64(bytes - at, PEEK_BYTES)),
                       "mem_poke");
}

bool side_is_zero(const struct side *side, uint64_t address, size_t bytes)
{
    char page[4096];

    for (size_t at = 0; at < bytes; at += sizeof page) {
        size_t part = min_u64(bytes - at, sizeof page);

        side_read(side, address + at, page, part);
        for (size_t i = 0; i < part; i++)
            if (page[i])
                return false;
    }
    return true;
}

uint64_t side_word(const struct side *side, uint64_t address)
{
    uint64_t word = 0;

    side_read(side, address, &word, sizeof word);
    return word;
}

/* ---- commands -------------------------------------------------------------------------------------------------- */

uint64_t side_submit(const struct side *side, void *queue, const struct thrum_command *commands,
                     size_t n)
{
    uint64_t ticket = 0;

    side_expect_ok(side->ops->submit(queue, commands, n, &ticket), "submit");
    side_expect(ticket > 0, "a ticket");
    return ticket;
}

thrum_status_t side_finish(const struct side *side, void *queue, uint64_t ticket)
{
    thrum_status_t status = side->ops->wait(queue, ticket, side_wait_ns);

    side_expect(status != THRUM_ERR_TIMEOUT, "a submission that does not end");
    side_expect(side->ops->poll(queue, ticket) == status, "poll says the same as wait");
    return status;
}

void side_do(const struct side *side, void *queue, const struct thrum_command *command)
{
    side_expect_ok(side_finish(side, queue, side_submit(side, queue, command, 1)), "a command");
}

uint64_t side_copy(const struct side *side, void *queue, uint64_t dst, uint64_t src, uint64_t bytes)
{
    struct thrum_operand operands[] = {{.base = dst}, {.base = src}};
    struct thrum_command command = {
        .opcode = THRUM_CMD_COPY, .ndst = 1, .nsrc = 1, .bytes = bytes, .operands = operands};

    return side_submit(side, queue, &command, 1);
}

uint64_t side_fill(const struct side *side, void *queue, uint64_t dst, uint8_t byte, uint64_t bytes)
{
    struct thrum_operand operand = {.base = dst};
    struct thrum_command command = {
        .opcode = THRUM_CMD_FILL, .ndst = 1, .bytes = bytes, .value = byte, .operands = &operand};

    return side_submit(side, queue, &command, 1);
}

uint64_t side_wait(const struct side *side, void *queue, uint64_t semaphore, uint64_t value)
{
    struct thrum_operand operand = {.base = semaphore};
    struct thrum_command command = {
        .opcode = THRUM_CMD_WAIT, .nsrc = 1, .value = value, .operands = &operand};

    return side_submit(side, queue, &command, 1);
}

uint64_t side_signal(const struct side *side, void *queue, uint64_t semaphore, uint64_t value,
                     unsigned flags)
{
    struct thrum_operand operand = {.base = semaphore};
    struct thrum_command command = {.opcode = THRUM_CMD_SIGNAL,
                                    .flags = (uint8_t)flags,
                                    .ndst = 1,
                                    .value = value,
                                    .operands = &operand};

    return side_submit(side, queue, &command, 1);
}

/* ---- processes ------------------------------------------------------------------------------------------------- */

void side_await_stage(const struct side *side, int stage)
{
    while (atomic_load(&side->board->stage) < stage)
        sched_yield();
}

static void run_side(struct side_board *board, int index, void (*body)(struct side *side))
{
    struct side side = {.ops = side_ops, .board = board, .index = index};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(SIDE_LIMIT_S);
    side_open(&side);
    body(&side);
    side_close(&side);
    _exit(0);
}

static bool ended_well(int status, bool expect_killed)
{
    if (expect_killed)
        return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (WIFSIGNALED(status))
        fprintf(stderr, WTERMSIG(status) == SIGALRM ? "the test's time is over\n" : "killed: %s\n",
                strsignal(WTERMSIG(status)));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool side_run(int n, int killed, void (*body)(struct side *side))
{
    struct side_board *board =
        mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[2];
    bool good = true;

    if (board == MAP_FAILED)
        return false;
    for (int i = 0; i < n; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            run_side(board, i, body);
    }
    for (int left = n; left; left--) { /* the first that fails ends the other, which would wait */
        int status = 0, i;
        pid_t pid = waitpid(-1, &status, 0);

        i = n > 1 && pid == pids[1];
        if (ended_well(status, i == killed) || !good)
            continue;
        good = false;
        if (left > 1)
            kill(pids[!i], SIGKILL);
    }
    munmap(board, sizeof *board);
    return good;
}

bool side_has_two(void)
{
    int status = 0, n = 0;
    pid_t pid = fork();

    if (!pid)
        _exit(side_ops->enumerate(&n) == THRUM_OK && n >= 2);
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status);
}
