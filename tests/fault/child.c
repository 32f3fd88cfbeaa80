/* A rank's side of harness.h. */
#include "harness.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void say(const char *format, ...)
{
    char text[CREW_LINE];
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(text, sizeof text - 1, format, args);
    va_end(args);
    if (length > (int)sizeof text - 2)
        length = (int)sizeof text - 2;
    for (int i = 0; i < length; i++)
        if (text[i] == '\n')
            text[i] = ' ';
    text[length] = '\n';
    if (write(1, text, (size_t)length + 1) < 0)
        _exit(3);
}

const char *hear(void)
{
    static char line[CREW_LINE];
    size_t n = 0;

    while (n < sizeof line - 1) {
        struct pollfd fd = {.fd = 0, .events = POLLIN};

        if (poll(&fd, 1, 60000) <= 0 || read(0, line + n, 1) != 1) {
            fprintf(stderr, "# the test says nothing\n");
            exit(4);
        }
        if (line[n] == '\n')
            break;
        n++;
    }
    line[n] = 0;
    return line;
}

void say_result(thrum_status_t status)
{
    say("result %s %s", thrum_status_name(status), status ? thrum_last_error() : "-");
}

void child_must(thrum_status_t status, const char *call)
{
    if (status == THRUM_OK)
        return;
    fprintf(stderr, "# %s: %s: %s\n", call, thrum_status_name(status), thrum_last_error());
    say("failed: %s: %s: %s", call, thrum_status_name(status), thrum_last_error());
    exit(5);
}

static void *nothing(void *argument)
{
    return argument;
}

/* A sanitizer keeps a thread of its own from the first one on; let it, before threads are counted. */
static void start_a_thread(void)
{
    pthread_t thread;

    if (!pthread_create(&thread, NULL, nothing, NULL))
        pthread_join(thread, NULL);
    /* A thread that was joined may be listed for a moment still. ".", ".." and the first one make 3. */
    for (int wait = 0; wait < 100 && count_threads() > 3; wait++)
        poll(NULL, 0, 1);
}

void child_main(int argc, char **argv, const struct role *roles, size_t nroles)
{
    struct child child = {.rank = -1};
    int descriptors, threads;

    if (argc < 5 || strcmp(argv[1], "--child") != 0)
        return;
    child.rank = atoi(argv[3]);
    child.nranks = atoi(argv[4]);
    start_a_thread();
    descriptors = count_descriptors();
    threads = count_threads();
    for (size_t i = 0; i < nroles; i++) {
        if (strcmp(roles[i].name, argv[2]) != 0)
            continue;
        roles[i].run(&child);
        child_close(&child);
        for (int wait = 0;
             wait < 300 && (count_descriptors() > descriptors || count_threads() > threads); wait++)
            poll(NULL, 0, 10); /* threads that were told to end */
        if (count_descriptors() != descriptors || count_threads() != threads) {
            fprintf(stderr, "# rank %d: %d descriptors and %d threads before, %d and %d after\n",
                    child.rank, descriptors, threads, count_descriptors(), count_threads());
            exit(6);
        }
        exit(0);
    }
    fprintf(stderr, "# no such role: %s\n", argv[2]);
    exit(7);
}

void child_open(struct child *child)
{
    MUST(thrum_device_open(THRUM_DEVICE_ANY, &child->device));
    MUST(thrum_queue_create(child->device, THRUM_QUEUE_DEFAULT, &child->queue));
}

void child_join(struct child *child)
{
    child_open(child);
    MUST(thrum_comm_init(child->device, NULL, &child->comm));
}

void child_close(struct child *child)
{
    thrum_comm_destroy(child->comm);
    thrum_queue_destroy(child->queue);
    thrum_device_close(child->device);
    child->comm = NULL;
    child->queue = NULL;
    child->device = NULL;
}

void say_id(const struct thrum_unique_id *id)
{
    char text[2 * THRUM_UNIQUE_ID_BYTES + 1];

    for (size_t i = 0; i < sizeof id->bytes; i++)
        snprintf(text + 2 * i, 3, "%02x", id->bytes[i]);
    say("id %s", text);
}

struct thrum_unique_id hear_id(void)
{
    const char *line = hear();
    struct thrum_unique_id id;

    if (strncmp(line, "id ", 3) != 0)
        exit(8);
    for (size_t i = 0; i < sizeof id.bytes; i++) {
        unsigned byte = 0;
        if (sscanf(line + 3 + 2 * i, "%2x", &byte) != 1)
            exit(8);
        id.bytes[i] = (uint8_t)byte;
    }
    return id;
}

thrum_comm_t child_join_by_relay(struct child *child, int nranks)
{
    struct thrum_unique_id id;
    thrum_comm_t comm;

    if (child->rank == 0) {
        MUST(thrum_get_unique_id(&id));
        say_id(&id);
    } else {
        id = hear_id();
    }
    MUST(thrum_comm_init_rank(&id, nranks, child->rank, child->device, NULL, &comm));
    return comm;
}

thrum_status_t child_sum(struct child *child, thrum_comm_t comm, size_t count, bool *right_out)
{
    size_t bytes = count * sizeof(int32_t);
    int32_t *values = malloc(bytes + 1);
    thrum_status_t status;
    void *buffer;
    int nranks;
    bool right = true;

    if (!values)
        exit(9);
    for (size_t i = 0; i < count; i++)
        values[i] = 1;
    MUST(thrum_comm_size(comm, &nranks));
    MUST(thrum_mem_alloc(child->device, bytes ? bytes : 1, &buffer));
    MUST(thrum_copy_to_device(child->queue, buffer, values, bytes));
    status = thrum_allreduce(buffer, buffer, count, THRUM_INT32, THRUM_SUM, comm, child->queue);
    if (status == THRUM_OK)
        status = thrum_queue_synchronize(child->queue);
    if (status == THRUM_OK) {
        MUST(thrum_copy_to_host(child->queue, values, buffer, bytes));
        for (size_t i = 0; i < count; i++)
            right = right && values[i] == nranks;
        *right_out = right;
    }
    free(values);
    if (status == THRUM_OK)
        MUST(thrum_mem_free(child->device, buffer));
    return status; /* after a failure the buffer stays until close: freeing must not hide the message */
}
