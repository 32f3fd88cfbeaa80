/* The test's side of harness.h: starting ranks, talking with them, and looking for what they leave behind. */
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 60000

int64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int free_port(void)
{
    static unsigned salt;

    for (int attempt = 0; attempt < 1000; attempt++) {
        int port =
            15000 +
            (int)(((unsigned)getpid() * 7919u + (unsigned)clock_ms() + salt++ * 37u) % 15000u);
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((uint16_t)port),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), bound;

        assert_true(fd >= 0);
        bound = bind(fd, (struct sockaddr *)&address, sizeof address);
        close(fd);
        if (!bound)
            return port;
    }
    fail_msg("no free port");
    return -1;
}

/* ---- starting ---- */

static void set_for_rank(const char *setting, int rank)
{
    const char *equals = strchr(setting, '='), *at = strchr(setting, '@');
    char name[64], value[512];

    snprintf(name, sizeof name, "%.*s", (int)(equals - setting), setting);
    if (at)
        snprintf(value, sizeof value, "%.*s%d%s", (int)(at - equals - 1), equals + 1, rank, at + 1);
    else
        snprintf(value, sizeof value, "%s", equals + 1);
    if (*value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

/* In the new process. */
static void become(const struct crew *crew, const char *role, int rank, const char *const *env,
                   int in, int out)
{
    char number[16], size[16], root[32];

    /* A rank does not outlive the test. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(in, 0);
    dup2(out, 1);
    snprintf(number, sizeof number, "%d", rank);
    snprintf(size, sizeof size, "%d", crew->nranks);
    snprintf(root, sizeof root, "127.0.0.1:%d", crew->port);
    setenv("THRUM_RANK", number, 1);
    setenv("THRUM_SIZE", size, 1);
    setenv("THRUM_ROOT", root, 1);
    for (; env && *env; env++)
        set_for_rank(*env, rank);
    execl("/proc/self/exe", "rank", "--child", role, number, size, (char *)NULL);
    _exit(127);
}

void crew_start(struct crew *crew, const char *role, int nranks, const char *const *env)
{
    memset(crew, 0, sizeof *crew);
    crew->nranks = nranks;
    crew->port = free_port();
    for (int r = 0; r < nranks; r++) {
        int to[2], from[2];

        assert_int_equal(pipe2(to, O_CLOEXEC), 0);
        assert_int_equal(pipe2(from, O_CLOEXEC), 0);
        fflush(NULL);
        crew->pids[r] = fork();
        assert_true(crew->pids[r] >= 0);
        if (crew->pids[r] == 0)
            become(crew, role, r, env, to[0], from[1]);
        close(to[0]);
        close(from[1]);
        crew->to[r] = to[1];
        crew->from[r] = from[0];
    }
}

/* ---- talking ---- */

/* Hands out the first whole line that is held; NULL if there is none. */
static const char *take_line(struct crew *crew, int rank)
{
    static char line[CREW_LINE];
    char *held = crew->lines[rank], *end = memchr(held, '\n', crew->held[rank]);
    size_t length;

    if (!end)
        return NULL;
    length = (size_t)(end - held);
    memcpy(line, held, length);
    line[length] = 0;
    crew->held[rank] -= length + 1;
    memmove(held, end + 1, crew->held[rank]);
    return line;
}

const char *crew_hear(struct crew *crew, int rank, int timeout_ms)
{
    int64_t end = clock_ms() + timeout_ms;
    const char *line;

    while (!(line = take_line(crew, rank))) {
        struct pollfd fd = {.fd = crew->from[rank], .events = POLLIN};
        int64_t left = end - clock_ms();
        ssize_t n;

        if (left <= 0 || poll(&fd, 1, (int)left) == 0)
            fail_msg("rank %d said nothing within %d ms", rank, timeout_ms);
        n = read(crew->from[rank], crew->lines[rank] + crew->held[rank],
                 CREW_LINE - crew->held[rank]);
        if (n <= 0)
            fail_msg("rank %d is gone, and had more to say", rank);
        crew->held[rank] += (size_t)n;
    }
    return line;
}

const char *crew_expect(struct crew *crew, int rank, const char *start)
{
    const char *line = crew_hear(crew, rank, PATIENCE_MS);

    if (strncmp(line, start, strlen(start)) != 0)
        fail_msg("rank %d said \"%s\", not \"%s\"", rank, line, start);
    return line;
}

void crew_expect_all(struct crew *crew, const char *start)
{
    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r])
            crew_expect(crew, r, start);
}

void crew_expect_result(struct crew *crew, int rank, thrum_status_t status, ...)
{
    const char *line = crew_hear(crew, rank, PATIENCE_MS), *text;
    char start[80];
    va_list args;

    snprintf(start, sizeof start, "result %s ", thrum_status_name(status));
    if (strncmp(line, start, strlen(start)) != 0)
        fail_msg("rank %d: \"%s\" instead of %s", rank, line, start);
    va_start(args, status);
    while ((text = va_arg(args, const char *)) != NULL)
        if (!strstr(line, text))
            fail_msg("rank %d: \"%s\" does not say \"%s\"", rank, line, text);
    va_end(args);
}

void crew_say(struct crew *crew, int rank, const char *text)
{
    dprintf(crew->to[rank], "%s\n", text);
}

void crew_say_all(struct crew *crew, const char *text)
{
    for (int r = 0; r < crew->nranks; r++)
        if (crew->pids[r])
            crew_say(crew, r, text);
}

void crew_relay_id(struct crew *crew, int from, int nranks)
{
    char id[CREW_LINE];

    snprintf(id, sizeof id, "%s", crew_expect(crew, from, "id "));
    for (int r = 0; r < nranks; r++)
        if (r != from)
            crew_say(crew, r, id);
}

/* ---- ending ---- */

static void forget(struct crew *crew, int rank)
{
    close(crew->to[rank]);
    close(crew->from[rank]);
    crew->pids[rank] = 0;
}

void crew_kill(struct crew *crew, int rank, int signal)
{
    assert_int_equal(kill(crew->pids[rank], signal), 0);
    if (signal == SIGKILL) {
        assert_int_equal(waitpid(crew->pids[rank], &crew->status[rank], 0), crew->pids[rank]);
        forget(crew, rank);
    }
}

void crew_wait(struct crew *crew, int rank)
{
    int64_t end = clock_ms() + PATIENCE_MS;

    while (waitpid(crew->pids[rank], NULL, WNOHANG) == 0) {
        if (clock_ms() > end)
            fail_msg("rank %d does not end", rank);
        poll(NULL, 0, 5);
    }
    forget(crew, rank);
}

/* Until end of file: what is still said is shown, since it was not expected. */
static void drain(struct crew *crew, int rank, int64_t end)
{
    for (;;) {
        struct pollfd fd = {.fd = crew->from[rank], .events = POLLIN};
        int64_t left = end - clock_ms();
        char text[CREW_LINE];
        ssize_t n;

        if (left <= 0 || poll(&fd, 1, (int)left) <= 0)
            return;
        n = read(crew->from[rank], text, sizeof text);
        if (n <= 0)
            return;
        print_message("# rank %d also said: %.*s", rank, (int)n, text);
    }
}

void crew_finish(struct crew *crew)
{
    int64_t end = clock_ms() + PATIENCE_MS;

    for (int r = 0; r < crew->nranks; r++) {
        if (!crew->pids[r])
            continue;
        drain(crew, r, end);
        while (waitpid(crew->pids[r], &crew->status[r], WNOHANG) == 0) {
            if (clock_ms() > end)
                fail_msg("rank %d does not end", r);
            poll(NULL, 0, 5);
        }
        forget(crew, r);
    }
    for (int r = 0; r < crew->nranks; r++) {
        bool killed = WIFSIGNALED(crew->status[r]) && WTERMSIG(crew->status[r]) == SIGKILL;
        if (crew->status[r] && !killed)
            fail_msg("rank %d ended with status 0x%x", r, (unsigned)crew->status[r]);
    }
}

/* ---- leftovers ---- */

struct leftovers {
    int descriptors;
    int files;
};

/* Entries of the places for temporary files whose names are ours. */
static int count_files(bool show)
{
    static const char *const places[] = {"/dev/shm", "/tmp", "/var/tmp", "/run", "."};
    int n = 0;

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        DIR *place = opendir(places[i]);
        struct dirent *entry;

        if (!place)
            continue;
        while ((entry = readdir(place)))
            if (!strncmp(entry->d_name, "thrum", 5) || !strncmp(entry->d_name, ".thrum", 6)) {
                n++;
                if (show)
                    print_message("# %s/%s\n", places[i], entry->d_name);
            }
        closedir(place);
    }
    return n;
}

static struct leftovers before;

int leftovers_before(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* processes that lose their parent come to us */
    before.descriptors = count_descriptors();
    before.files = count_files(false);
    return 0;
}

/* Ends what is still there; true if there was something. */
static bool stray_processes(void)
{
    char path[64], text[4096] = "";
    bool found = false;
    FILE *file;

    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    file = fopen(path, "r");
    if (file) {
        size_t n = fread(text, 1, sizeof text - 1, file);
        text[n] = 0;
        fclose(file);
    }
    for (char *at = text, *end; *at; at = end) {
        long pid = strtol(at, &end, 10);
        if (end == at)
            break;
        print_message("# process %ld is still there\n", pid);
        kill((pid_t)pid, SIGKILL);
        found = true;
    }
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ;
    return found;
}

int leftovers_after(void **state)
{
    bool processes = stray_processes();
    int descriptors = count_descriptors();
    int64_t end = clock_ms() + 3000;

    (void)state;
    /* Another job on this host may have files for a moment. */
    while (count_files(false) > before.files && clock_ms() < end)
        poll(NULL, 0, 50);
    if (count_files(false) > before.files) {
        print_message("# files of ours: %d before, %d after\n", before.files, count_files(true));
        return -1;
    }
    if (descriptors != before.descriptors)
        print_message("# descriptors: %d before, %d after\n", before.descriptors, descriptors);
    return processes || descriptors != before.descriptors ? -1 : 0;
}
