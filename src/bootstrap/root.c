/*
 * The root service: a thread in the process that made the id. It tells every rank where its parent in the tree listens,
 * says "go" when all are connected, and until then is the one who decides that the communicator cannot come about.
 * Started by bootstrap_make_id and bootstrap_serve, and by meeting.c.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bootstrap/internal.h"

#define FLUSH_NS (2000 * MS_NS) /* how long the last words to the ranks may take */
#define WATCH_AFTER_NS (100 * MS_NS) /* who has not come by then is looked for at its place */

struct member {
    struct boot_conn *conn; /* NULL: not there (yet, or any more) */
    struct boot_caller *watch; /* at its place, while it has not come; NULL: none */
    bool registered, ready, parent_sent, told;
    struct boot_address listens;
};

/* Owned by the service's thread, but for what stands in the registry. */
struct root {
    struct boot_id id;
    struct boot_door door;
    struct boot_conn **conns; /* proved the secret, not registered yet */
    int nconns;
    struct member *members; /* nranks of them, once the first rank has registered */
    int nranks, nregistered, nready, ntold;
    int first_rank; /* the one that said nranks */
    int64_t deadline; /* of the rank that gives up first */
    int64_t linger; /* of the rank that gives up last */
    int64_t waited_ms; /* what the first to give up had granted */
    struct boot_failure failure;
    int accept_error; /* errno of the last accept that met a limit; under registry.lock */
    uint8_t *places; /* of the first ranks; NULL: none are known */
    int nplaces;
    int64_t watch_from;
    bool is_notice; /* it only tells who comes too late, to calls up to `number` */
    uint64_t number;
    bool withdrawn; /* end without waiting for those who have not come */
    _Atomic bool is_cleared; /* its place is wanted: once it has failed, it ends. Any thread */
    struct pollfd *fds;
    int nfds_room;
    int wake; /* eventfd: something has been asked */
    /* under registry.lock */
    bool ending;
    struct boot_giving_up asked; /* status 0: nothing */
    struct root *next;
};

/* The services of this process, so that a rank of the same process can see its own service end. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct root *first;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};
static pthread_once_t registry_once = PTHREAD_ONCE_INIT;

static void init_locks(void)
{
    pthread_condattr_t attributes;

    pthread_mutex_init(&registry.lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&registry.changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* A child of fork does not serve, so it must not hold the port when its parent's service has ended. */
static void forget_in_child(void)
{
    for (const struct root *root = registry.first; root; root = root->next)
        if (root->door.fd >= 0)
            close(root->door.fd);
    registry.first = NULL;
    init_locks();
}

static void registry_init(void)
{
    init_locks();
    (void)pthread_atfork(NULL, NULL, forget_in_child);
}

/* ---- failing ---- */

static void tell(struct root *root, int rank)
{
    struct member *member = &root->members[rank];

    if (!member->told)
        root->ntold++;
    member->told = true;
    boot_send_failure(member->conn, &root->failure);
}

/* The communicator cannot come about; root->failure says why. Everybody there is told, who comes later will be. */
static void fail_all(struct root *root)
{
    for (int r = 0; r < root->nranks; r++)
        if (root->members[r].conn)
            tell(root, r);
    thrum_log(LOG_INFO, "bootstrap: %s", root->failure.message);
}

static void fail_missing(struct root *root)
{
    bool *set = calloc((size_t)root->nranks, sizeof *set);
    char text[300];
    int missing = 0, first = -1;

    if (!set) {
        boot_failure_set(&root->failure, THRUM_ERR_TIMEOUT, -1,
                         "not all ranks joined within %lld ms", (long long)root->waited_ms);
        fail_all(root);
        return;
    }
    for (int pass = 0; pass < 2 && !missing; pass++)
        for (int r = 0; r < root->nranks; r++) {
            set[r] = pass ? !root->members[r].ready : !root->members[r].registered;
            missing += set[r];
            if (set[r] && first < 0)
                first = r;
        }
    boot_ranks_text(set, root->nranks, text, sizeof text);
    boot_failure_set(&root->failure, THRUM_ERR_TIMEOUT, missing == 1 ? first : -1,
                     root->nregistered < root->nranks
                         ? "%s did not join within %lld ms (%d of %d ranks did)"
                         : "%s joined but did not reach the ranks next to it within %lld ms (%d of "
                           "%d ranks joined)",
                     text, (long long)root->waited_ms, root->nregistered, root->nranks);
    free(set);
    fail_all(root);
}

/* ---- ranks ---- */

static void send_parent(struct root *root, int rank)
{
    struct member *member = &root->members[rank];
    uint8_t wire[BOOT_ADDRESS_WIRE] = {0};
    struct boot_tree tree;

    boot_tree_make(rank, root->nranks, &tree);
    if (!member->conn || member->parent_sent ||
        (tree.parent >= 0 && !root->members[tree.parent].registered))
        return;
    member->parent_sent = true;
    if (tree.parent >= 0)
        boot_address_put(&root->members[tree.parent].listens, wire);
    (void)boot_conn_send(member->conn, FRAME_PARENT, wire, sizeof wire, NULL, 0);
}

void boot_refuse(struct boot_conn *conn, const struct boot_failure *failure)
{
    boot_send_failure(conn, failure);
    boot_conns_linger(conn, 1);
    free(conn);
}

static bool first_to_register(struct root *root, const struct boot_hello *hello)
{
    if (root->members)
        return true;
    root->members = calloc((size_t)hello->nranks, sizeof *root->members);
    if (!root->members)
        return false;
    root->nranks = hello->nranks;
    root->first_rank = hello->rank;
    root->watch_from = now_ns() + WATCH_AFTER_NS;
    return true;
}

/* Whether what a rank says fits to what others have said; else root->failure is set. */
static bool fits(struct root *root, const struct boot_conn *conn)
{
    const struct boot_hello *hello = &conn->hello;
    char a[BOOT_ADDRESS_TEXT], b[BOOT_ADDRESS_TEXT];

    if (hello->nranks != root->nranks) {
        boot_failure_set(&root->failure, THRUM_ERR_MISMATCH, hello->rank,
                         "rank %d says nranks is %d, rank %d says %d", hello->rank, hello->nranks,
                         root->first_rank, root->nranks);
        return false;
    }
    if (root->members[hello->rank].registered) {
        const struct boot_conn *other = root->members[hello->rank].conn;

        boot_failure_set(&root->failure, THRUM_ERR_INVALID_RANK, hello->rank,
                         "rank %d is claimed twice: from %s and from %s", hello->rank,
                         other ? boot_address_text(&other->peer, a) : "a process that has ended",
                         boot_address_text(&conn->peer, b));
        return false;
    }
    return true;
}

/* Takes conn over. */
static void register_rank(struct root *root, struct boot_conn *conn, const struct boot_frame *frame)
{
    const struct boot_hello hello = conn->hello;
    struct boot_address listens;
    struct boot_tree tree;
    struct member *member;
    int64_t patience, due;
    bool already_failed;

    if (hello.role != BOOT_ROLE_ROOT || hello.target != -1 || hello.nranks < 1 ||
        hello.nranks > BOOT_MAX_RANKS || hello.rank < 0 || hello.rank >= hello.nranks ||
        frame->bytes != BOOT_ADDRESS_WIRE + 16 || !boot_address_get(frame->payload, &listens) ||
        !first_to_register(root, &hello)) {
        boot_conn_close(conn);
        free(conn);
        return;
    }
    patience = (int64_t)min_u64(boot_get_u64(frame->payload + BOOT_ADDRESS_WIRE), 1ull << 40);
    boot_conn_pop(conn);
    due = now_ns() + patience * MS_NS;
    already_failed = root->failure.status != THRUM_OK;
    if (already_failed || !fits(root, conn)) {
        if (hello.nranks == root->nranks && !root->members[hello.rank].told) {
            root->members[hello.rank].told = true;
            root->ntold++;
        }
        /* Who is refused may be of this process, and end it: it comes last. */
        if (!already_failed)
            fail_all(root);
        boot_refuse(conn, &root->failure);
        return;
    }
    member = &root->members[hello.rank];
    member->conn = conn;
    member->registered = true;
    member->listens = listens;
    root->nregistered++;
    /* A little before the rank itself gives up, so that it hears who is missing. */
    if (due - (int64_t)min_u64((uint64_t)(patience * MS_NS / 10), 100 * MS_NS) < root->deadline) {
        root->deadline = due - (int64_t)min_u64((uint64_t)(patience * MS_NS / 10), 100 * MS_NS);
        root->waited_ms =
            (int64_t)min_u64(boot_get_u64(frame->payload + BOOT_ADDRESS_WIRE + 8), 1ull << 40);
    }
    if (due > root->linger)
        root->linger = due;
    send_parent(root, hello.rank);
    boot_tree_make(hello.rank, root->nranks, &tree);
    for (int i = 0; i < tree.nchildren; i++)
        send_parent(root, tree.child[i]);
}

/* Who calls again, after the one that the notice is about, comes back until his own meeting is there. */
static void take_latecomer(const struct root *root, struct boot_conn *conn,
                           const struct boot_frame *frame)
{
    if (frame->type == FRAME_MEET && frame->bytes == BOOT_MEET_BYTES &&
        boot_get_u64(frame->payload) <= root->number) {
        boot_conn_pop(conn);
        boot_refuse(conn, &root->failure);
    } else {
        boot_conn_close(conn);
        free(conn);
    }
}

/* Connections that proved the secret but have not registered. */
static void serve_newcomers(struct root *root, int64_t now)
{
    struct boot_frame frame;

    for (int i = 0; i < root->nconns; i++) {
        struct boot_conn *conn = root->conns[i];
        thrum_status_t status;

        boot_conn_io(conn);
        status = boot_conn_peek(conn, &frame);
        if (status == THRUM_IN_PROGRESS && !conn->ended &&
            now - conn->since_ns < 2 * BOOT_SHAKE_TIMEOUT_NS)
            continue;
        root->conns[i--] = root->conns[--root->nconns];
        if (status == THRUM_OK && root->is_notice) {
            take_latecomer(root, conn, &frame);
        } else if (status == THRUM_OK && frame.type == FRAME_REGISTER) {
            register_rank(root, conn, &frame);
        } else {
            boot_conn_close(conn);
            free(conn);
        }
    }
}

static void member_frame(struct root *root, int rank, const struct boot_frame *frame)
{
    struct member *member = &root->members[rank];
    struct boot_failure failure;

    if (frame->type == FRAME_READY && !member->ready) {
        member->ready = true;
        root->nready++;
    } else if (frame->type == FRAME_FAIL && boot_get_failure(frame, &failure) &&
               !root->failure.status) {
        boot_failure_set(&root->failure, failure.status, rank, "rank %d could not join: %.400s",
                         rank, failure.message);
        fail_all(root);
    }
}

static void serve_member(struct root *root, int rank)
{
    struct member *member = &root->members[rank];
    struct boot_frame frame;
    thrum_status_t status;

    boot_conn_io(member->conn);
    while (!(status = boot_conn_peek(member->conn, &frame))) {
        member_frame(root, rank, &frame);
        boot_conn_pop(member->conn);
    }
    if (status == THRUM_IN_PROGRESS && !member->conn->ended)
        return;
    boot_conn_close(member->conn);
    free(member->conn);
    member->conn = NULL;
    if (root->failure.status) {
        if (!member->told)
            root->ntold++;
        member->told = true;
        return;
    }
    boot_failure_set(&root->failure, THRUM_ERR_PEER_DEAD, rank,
                     "rank %d ended while the ranks were joining", rank);
    member->told = true;
    root->ntold++;
    fail_all(root);
}

/* ---- ranks that do not come ---- */

static void stop_watching(struct member *member)
{
    if (!member->watch)
        return;
    boot_conn_close(&member->watch->conn);
    free(member->watch);
    member->watch = NULL;
}

static struct boot_caller *watch(const struct root *root, int rank)
{
    struct boot_caller *watch = calloc(1, sizeof *watch);

    if (!watch)
        return NULL;
    boot_conn_init(&watch->conn);
    watch->hello = (struct boot_hello){BOOT_ROLE_ROOT, rank, rank, root->nranks};
    watch->frame_max = BOOT_ROOT_FRAME_MAX;
    watch->is_patient = true;
    watch->wanted =
        boot_address_get(root->places + (size_t)rank * BOOT_ADDRESS_WIRE, &watch->address);
    return watch;
}

static bool watches(const struct root *root)
{
    return root->places && root->members && !root->failure.status;
}

/* As long as a rank lives its place lets connections in, though nobody answers. */
static void watch_missing(struct root *root, int64_t now)
{
    int n = root->nplaces < root->nranks ? root->nplaces : root->nranks;

    for (int r = 0; r < n && now >= root->watch_from; r++) {
        struct member *member = &root->members[r];

        if (member->registered) {
            stop_watching(member);
            continue;
        }
        if (!member->watch && !(member->watch = watch(root, r)))
            continue;
        (void)boot_caller_step(member->watch, root->id.secret, now);
        if (!member->watch->deserted)
            continue;
        boot_failure_set(&root->failure, THRUM_ERR_PEER_DEAD, r,
                         "rank %d did not join: its process has ended, or has destroyed the "
                         "communicator",
                         r);
        fail_all(root);
        return;
    }
}

/* ---- the thread ---- */

static bool room_for_polls(struct root *root)
{
    int needed = BOOT_STRANGERS + 2 + root->nconns + 2 * root->nranks;
    struct pollfd *fds;

    if (needed <= root->nfds_room)
        return true;
    fds = realloc(root->fds, (size_t)needed * 2 * sizeof *fds);
    if (!fds)
        return false;
    root->fds = fds;
    root->nfds_room = needed * 2;
    return true;
}

static void wait_for_events(struct root *root)
{
    int64_t now = now_ns(), due = boot_door_due(&root->door), own;
    int n;

    if (!room_for_polls(root)) {
        poll(NULL, 0, 10);
        return;
    }
    n = boot_door_poll(&root->door, root->fds, now);
    root->fds[n++] = (struct pollfd){.fd = root->wake, .events = POLLIN};
    for (int i = 0; i < root->nconns; i++)
        root->fds[n++] =
            (struct pollfd){.fd = root->conns[i]->fd, .events = boot_conn_events(root->conns[i])};
    for (int r = 0; r < root->nranks; r++)
        if (root->members[r].conn)
            root->fds[n++] = (struct pollfd){.fd = root->members[r].conn->fd,
                                             .events = boot_conn_events(root->members[r].conn)};
    if (root->nconns)
        due = due < now + 100 * MS_NS ? due : now + 100 * MS_NS;
    own = root->failure.status ? root->linger : root->deadline;
    if (root->members && own < due)
        due = own;
    if (watches(root) && now < root->watch_from && root->watch_from < due)
        due = root->watch_from;
    for (int r = 0; r < root->nranks && watches(root); r++)
        if (root->members[r].watch)
            boot_caller_poll(root->members[r].watch, root->fds, &n, &due);
    poll(root->fds, (nfds_t)n, due == INT64_MAX ? -1 : boot_poll_ms(due, now));
}

static void welcome(struct root *root, int64_t now)
{
    struct boot_conn *conn, **conns;

    while ((conn = boot_door_next(&root->door, root->id.secret, now))) {
        conns = realloc(root->conns, ((size_t)root->nconns + 1) * sizeof *conns);
        if (!conns) {
            boot_conn_close(conn);
            free(conn);
            continue;
        }
        root->conns = conns;
        root->conns[root->nconns++] = conn;
    }
    if (root->door.error && root->members && !root->failure.status) {
        (void)boot_fail_descriptor(root->door.error, "the process that made the id cannot accept");
        boot_failure_set(&root->failure, THRUM_ERR_LIMIT, -1, "%s (%d of %d ranks have joined)",
                         thrum_last_error(), root->nregistered, root->nranks);
        fail_all(root);
    }
    if (root->door.error) {
        pthread_mutex_lock(&registry.lock);
        root->accept_error = root->door.error;
        pthread_mutex_unlock(&registry.lock);
    }
    root->door.error = 0;
}

/* A rank of this process cannot join, or nobody here is going to. */
static void take_asked(struct root *root)
{
    struct boot_giving_up asked;
    struct boot_hello hello;
    uint64_t count;

    if (read(root->wake, &count, sizeof count) < 0)
        return;
    pthread_mutex_lock(&registry.lock);
    asked = root->asked;
    pthread_mutex_unlock(&registry.lock);
    if (!asked.failure.status || root->failure.status)
        return;
    hello = (struct boot_hello){.rank = asked.failure.rank, .nranks = asked.nranks};
    root->failure = asked.failure;
    root->withdrawn = !asked.nranks || !first_to_register(root, &hello);
    if (asked.until > root->linger)
        root->linger = asked.until;
    if (!root->withdrawn && hello.rank < root->nranks && !root->members[hello.rank].told) {
        root->members[hello.rank].told = true;
        root->ntold++;
    }
    fail_all(root);
}

/* Done: all ready, or all have been told why not, or nobody waits any more. */
static bool finished(const struct root *root, int64_t now)
{
    if (root->withdrawn)
        return true;
    if (root->is_notice)
        return atomic_load(&root->is_cleared);
    if (!root->members)
        return false;
    if (root->failure.status)
        return root->ntold == root->nranks || now >= root->linger || atomic_load(&root->is_cleared);
    return root->nready == root->nranks;
}

/* Last words go out, then the ranks close; who is stopped is not waited for. */
static void see_off(struct root *root)
{
    int64_t due = now_ns() + FLUSH_NS;
    bool open = room_for_polls(root);

    while (open && now_ns() < due) {
        int n = 0;

        open = false;
        for (int r = 0; r < root->nranks; r++) {
            struct boot_conn *conn = root->members[r].conn;

            if (!conn || conn->ended)
                continue;
            boot_conn_io(conn);
            conn->in.begin = conn->in.end = 0;
            if (conn->ended)
                continue;
            open = true;
            root->fds[n++] = (struct pollfd){.fd = conn->fd, .events = boot_conn_events(conn)};
        }
        if (open)
            poll(root->fds, (nfds_t)n, boot_poll_ms(due, now_ns()));
    }
}

static void set_ending(struct root *root)
{
    pthread_mutex_lock(&registry.lock);
    root->ending = true;
    pthread_cond_broadcast(&registry.changed);
    pthread_mutex_unlock(&registry.lock);
}

static void destroy(struct root *root)
{
    boot_door_close(&root->door);
    close(root->wake);
    for (int i = 0; i < root->nconns; i++) {
        boot_conn_close(root->conns[i]);
        free(root->conns[i]);
    }
    for (int r = 0; r < root->nranks; r++) {
        stop_watching(&root->members[r]);
        if (root->members[r].conn) {
            boot_conn_close(root->members[r].conn);
            free(root->members[r].conn);
        }
    }
    free(root->places);
    free(root->conns);
    free(root->members);
    free(root->fds);
    pthread_mutex_lock(&registry.lock);
    for (struct root **link = &registry.first; *link; link = &(*link)->next)
        if (*link == root) {
            *link = root->next;
            break;
        }
    pthread_cond_broadcast(&registry.changed);
    pthread_mutex_unlock(&registry.lock);
    sodium_memzero(&root->id, sizeof root->id);
    free(root);
}

static void *serve(void *argument)
{
    struct root *root = argument;
    int64_t now = now_ns();

    while (!finished(root, now)) {
        wait_for_events(root);
        now = now_ns();
        take_asked(root);
        welcome(root, now);
        serve_newcomers(root, now);
        for (int r = 0; r < root->nranks; r++)
            if (root->members[r].conn)
                serve_member(root, r);
        if (watches(root))
            watch_missing(root, now);
        if (root->members && !root->failure.status && root->nready < root->nranks &&
            now >= root->deadline)
            fail_missing(root);
    }
    boot_door_close(&root->door); /* first, so that the port is free when ranks go on */
    set_ending(root);
    if (!root->failure.status)
        for (int r = 0; r < root->nranks; r++)
            (void)boot_conn_send(root->members[r].conn, FRAME_GO, NULL, 0, NULL, 0);
    see_off(root);
    destroy(root);
    return NULL;
}

int boot_thread_start(void *(*main)(void *), void *argument, bool detached, uint64_t *thread_out)
{
    pthread_attr_t attributes;
    sigset_t all, old;
    pthread_t thread;
    int rc;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes,
                                detached ? PTHREAD_CREATE_DETACHED : PTHREAD_CREATE_JOINABLE);
    sigfillset(&all); /* the application's signals are the application's threads' */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&thread, &attributes, main, argument);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    if (!rc && thread_out)
        *thread_out = (uint64_t)thread;
    return rc;
}

/* Takes listen_fd over. */
static thrum_status_t make(const struct boot_id *id, int listen_fd, struct root **root_out)
{
    struct root *root = calloc(1, sizeof *root);
    int error;

    pthread_once(&registry_once, registry_init);
    if (!root) {
        close(listen_fd);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for the root service");
    }
    root->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (root->wake < 0) {
        error = errno;
        free(root);
        close(listen_fd);
        return boot_fail_descriptor(error, "starting the root service");
    }
    root->id = *id;
    root->deadline = INT64_MAX;
    boot_door_open(&root->door, listen_fd, BOOT_STRANGERS, BOOT_ROOT_FRAME_MAX);
    *root_out = root;
    return THRUM_OK;
}

static thrum_status_t start(struct root *root)
{
    int rc;

    pthread_mutex_lock(&registry.lock);
    root->next = registry.first;
    registry.first = root;
    pthread_mutex_unlock(&registry.lock);
    rc = boot_thread_start(serve, root, true, NULL);
    if (rc) {
        set_ending(root); /* nobody wakes it any more */
        destroy(root);
        errno = rc;
        return thrum_fail_errno(THRUM_ERR_LIMIT, "the root service's thread cannot be started");
    }
    return THRUM_OK;
}

thrum_status_t boot_root_start(const struct boot_id *id, int listen_fd)
{
    return boot_root_start_watching(id, listen_fd, NULL, 0);
}

thrum_status_t boot_root_start_watching(const struct boot_id *id, int listen_fd,
                                        const uint8_t *places, int nplaces)
{
    size_t bytes = (size_t)nplaces * BOOT_ADDRESS_WIRE;
    struct root *root;
    thrum_status_t status = make(id, listen_fd, &root);

    if (status)
        return status;
    if (bytes && (root->places = malloc(bytes))) { /* without it they are waited for */
        memcpy(root->places, places, bytes);
        root->nplaces = nplaces;
    }
    return start(root);
}

thrum_status_t boot_root_start_notice(const struct boot_id *id, int listen_fd, uint64_t number,
                                      const struct boot_failure *failure)
{
    struct root *root;
    thrum_status_t status = make(id, listen_fd, &root);

    if (status)
        return status;
    root->is_notice = true;
    root->door.is_discreet = true;
    root->number = number;
    root->failure = *failure;
    return start(root);
}

int boot_root_accept_error(const struct boot_id *id)
{
    int error = 0;

    pthread_once(&registry_once, registry_init);
    pthread_mutex_lock(&registry.lock);
    for (const struct root *root = registry.first; root; root = root->next)
        if (!sodium_memcmp(root->id.secret, id->secret, sizeof id->secret))
            error = root->accept_error;
    pthread_mutex_unlock(&registry.lock);
    return error;
}

static bool is_ending(const struct boot_id *id)
{
    for (const struct root *root = registry.first; root; root = root->next)
        if (root->ending && !sodium_memcmp(root->id.secret, id->secret, sizeof id->secret))
            return true;
    return false;
}

void boot_root_settle(const struct boot_id *id)
{
    struct timespec until;
    int64_t due = now_ns() + 200 * MS_NS;

    pthread_once(&registry_once, registry_init);
    until = (struct timespec){.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};
    pthread_mutex_lock(&registry.lock);
    while (is_ending(id))
        if (pthread_cond_timedwait(&registry.changed, &registry.lock, &until))
            break;
    pthread_mutex_unlock(&registry.lock);
}

static void wake(const struct root *root)
{
    uint64_t one = 1;

    while (write(root->wake, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

void boot_root_give_up(const struct boot_id *id, const struct boot_giving_up *what)
{
    pthread_mutex_lock(&registry.lock);
    for (struct root *root = registry.first; root; root = root->next)
        if (!root->ending && !root->asked.failure.status &&
            !sodium_memcmp(root->id.secret, id->secret, sizeof id->secret)) {
            root->asked = *what;
            wake(root);
        }
    pthread_mutex_unlock(&registry.lock);
}

/* Under registry.lock. */
static bool is_at(const struct root *root, const struct boot_address *address)
{
    uint8_t wanted[BOOT_ADDRESS_WIRE], held[BOOT_ADDRESS_WIRE];

    boot_address_put(address, wanted);
    boot_address_put(&root->id.address, held);
    return !root->ending && !memcmp(held, wanted, sizeof held);
}

void boot_root_clear(const struct boot_address *address, bool notices)
{
    pthread_once(&registry_once, registry_init);
    pthread_mutex_lock(&registry.lock);
    for (struct root *root = registry.first; root; root = root->next) {
        if (!is_at(root, address) || (root->is_notice && !notices))
            continue;
        atomic_store(&root->is_cleared, true);
        wake(root);
    }
    pthread_mutex_unlock(&registry.lock);
}

void boot_root_end_notice(const struct boot_address *address, uint64_t number)
{
    pthread_mutex_lock(&registry.lock);
    for (struct root *root = registry.first; root; root = root->next) {
        if (!is_at(root, address) || !root->is_notice || root->number != number)
            continue;
        atomic_store(&root->is_cleared, true);
        wake(root);
    }
    pthread_mutex_unlock(&registry.lock);
}

static bool is_served(const struct boot_address *address)
{
    for (const struct root *root = registry.first; root; root = root->next)
        if (is_at(root, address))
            return true;
    return false;
}

void boot_root_await_clear(const struct boot_address *address, int64_t until)
{
    struct timespec due = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};

    pthread_mutex_lock(&registry.lock);
    while (is_served(address))
        if (pthread_cond_timedwait(&registry.changed, &registry.lock, &due))
            break;
    pthread_mutex_unlock(&registry.lock);
}

void boot_withdraw(const struct thrum_unique_id *id_bytes, thrum_status_t status, const char *why)
{
    struct boot_giving_up what = {.until = 0};
    struct boot_id id;

    if (!id_bytes || boot_id_decode(id_bytes, &id))
        return;
    boot_failure_set(&what.failure, status, -1, "%s", why);
    boot_root_give_up(&id, &what);
}

void bootstrap_withdraw(const struct thrum_unique_id *id)
{
    boot_withdraw(id, THRUM_ERR_ABORTED, "the process that made the id has withdrawn it");
}
