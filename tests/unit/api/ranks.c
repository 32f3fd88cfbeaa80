/* See ranks.h. */
#include "ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

thrum_device_t devices[RANKS_MAX];
thrum_queue_t queues[RANKS_MAX];
thrum_comm_t comms[RANKS_MAX];

void ok_at(thrum_status_t status, const char *call, const char *file, int line)
{
    if (status != THRUM_OK)
        fail_msg("%s:%d: %s: %s: %s", file, line, call, thrum_status_name(status),
                 thrum_last_error());
}

void refused_at(thrum_status_t got, const char *call, thrum_status_t status, const char *text,
                const char *other, const char *file, int line)
{
    if (got != status)
        fail_msg("%s:%d: %s: %s instead of %s (%s)", file, line, call, thrum_status_name(got),
                 thrum_status_name(status), thrum_last_error());
    if (!strstr(thrum_last_error(), text) || !strstr(thrum_last_error(), other))
        fail_msg("%s:%d: %s: \"%s\" does not name \"%s\" and \"%s\"", file, line, call,
                 thrum_last_error(), text, other);
}

void ranks_open(int n)
{
    for (int r = 0; r < n; r++) {
        ok(thrum_device_open(THRUM_DEVICE_ANY, &devices[r]));
        ok(thrum_queue_create(devices[r], THRUM_QUEUE_DEFAULT, &queues[r]));
    }
}

void ranks_close(int n)
{
    for (int r = 0; r < n; r++) {
        thrum_queue_destroy(queues[r]);
        thrum_device_close(devices[r]);
    }
}

void ranks_join(int n, const struct thrum_comm_config *config)
{
    ok(thrum_comm_init_all(devices, n, config, comms));
}

void ranks_leave(int n)
{
    for (int r = 0; r < n; r++)
        thrum_comm_destroy(comms[r]);
}

void ranks_synchronize(int n)
{
    for (int r = 0; r < n; r++)
        ok(thrum_queue_synchronize(queues[r]));
}

void buffer_make(struct buffer *buffer, int rank, enum memory memory, size_t bytes)
{
    void *address = NULL;

    bytes = bytes ? (bytes + 4095) / 4096 * 4096 : 4096;
    if (memory == MEMORY_DEVICE) {
        ok(thrum_mem_alloc(devices[rank], bytes, &address));
    } else {
        address = aligned_alloc(4096, bytes);
        assert_non_null(address);
        memset(address, 0, bytes);
    }
    if (memory == MEMORY_REGISTERED)
        ok(thrum_mem_register_host(devices[rank], address, bytes));
    *buffer = (struct buffer){memory, rank, address, bytes};
}

void buffer_free(struct buffer *buffer)
{
    if (buffer->memory == MEMORY_DEVICE) {
        ok(thrum_mem_free(devices[buffer->rank], buffer->address));
        return;
    }
    if (buffer->memory == MEMORY_REGISTERED)
        ok(thrum_mem_unregister_host(devices[buffer->rank], buffer->address));
    free(buffer->address);
}

void buffer_write(const struct buffer *buffer, const void *from, size_t bytes)
{
    if (buffer->memory == MEMORY_DEVICE)
        ok(thrum_copy_to_device(queues[buffer->rank], buffer->address, from, bytes));
    else
        memcpy(buffer->address, from, bytes);
}

void buffer_read(const struct buffer *buffer, void *to, size_t bytes)
{
    if (buffer->memory == MEMORY_DEVICE)
        ok(thrum_copy_to_host(queues[buffer->rank], to, buffer->address, bytes));
    else
        memcpy(to, buffer->address, bytes);
}

/* In the child: the settings into the environment, and the program once more. */
static void run_again(char *program, const char *settings)
{
    char text[512], child[] = "child", *save = NULL;
    char *const arguments[] = {program, child, NULL};

    snprintf(text, sizeof text, "%s", settings);
    for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        char *equals = strchr(word, '=');
        if (!equals)
            _exit(2);
        *equals = 0;
        setenv(word, equals + 1, 1);
    }
    execv("/proc/self/exe", arguments);
    _exit(3);
}

void run_with_each(int argc, char **argv, const char *const *settings, size_t n)
{
    bool failed = false;

    if (argc > 1)
        return;
    for (size_t i = 0; i < n; i++) {
        int status = 0;
        pid_t pid;

        fprintf(stderr, "# with %s\n", settings[i]);
        fflush(NULL);
        pid = fork();
        if (pid == 0)
            run_again(argv[0], settings[i]);
        failed |= pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
    }
    exit(failed);
}
