/*
 * Meeting again without a control plane: each rank keeps a port for the time that its communicator lives, and all know
 * the ports. The ranks that are to meet derive one id from the communicator's secret, and one of them serves it.
 * Called by comm (meet.c, grow.c, shrink.c).
 *
 * The port listens all the time, though mostly nobody accepts: the kernel lets connections in as long as the process lives,
 * and refuses them once it is dead, or has destroyed the communicator. So ranks that wait for each other see who is gone.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bootstrap/control.h"
#include "bootstrap/internal.h"

_Static_assert(BOOTSTRAP_PLACE_BYTES == BOOT_ADDRESS_WIRE, "a place is an address");

/* The ports that this process keeps. */
struct kept {
    int fd;
    struct kept *next;
};
static struct {
    pthread_mutex_t lock;
    struct kept *first;
} places = {.lock = PTHREAD_MUTEX_INITIALIZER};
static pthread_once_t places_once = PTHREAD_ONCE_INIT;

/* A child of fork closes them: else its parent would seem to live on. */
static void forget_in_child(void)
{
    pthread_mutex_init(&places.lock, NULL);
    while (places.first) {
        struct kept *kept = places.first;

        places.first = kept->next;
        close(kept->fd);
        free(kept);
    }
}

static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, forget_in_child);
}

thrum_status_t bootstrap_keep_place(uint8_t *place_out, int *fd_out)
{
    struct boot_address address;
    struct kept *kept;
    thrum_status_t status = boot_address_choose(&address);

    if (status)
        return status;
    kept = malloc(sizeof *kept);
    if (!kept)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a port for later");
    pthread_once(&places_once, watch_forks);
    if ((status = boot_listen(&address, false, &kept->fd))) {
        free(kept);
        return status;
    }
    *fd_out = kept->fd;
    boot_address_put(&address, place_out);
    pthread_mutex_lock(&places.lock);
    kept->next = places.first;
    places.first = kept;
    pthread_mutex_unlock(&places.lock);
    return THRUM_OK;
}

void bootstrap_leave_place(const uint8_t *place, int fd)
{
    struct boot_address address;
    struct kept *kept = NULL;

    if (fd < 0)
        return;
    pthread_mutex_lock(&places.lock);
    for (struct kept **link = &places.first; *link; link = &(*link)->next)
        if ((*link)->fd == fd) {
            kept = *link;
            *link = kept->next;
            break;
        }
    pthread_mutex_unlock(&places.lock);
    if (!kept) /* the parent's */
        return;
    free(kept);
    close(fd);
    if (boot_address_get(place, &address))
        boot_root_clear(&address, false);
}

thrum_status_t boot_share_place(int fd, int *fd_out)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy < 0)
        return boot_fail_descriptor(errno, "listening for ranks");
    *fd_out = copy;
    return THRUM_OK;
}

thrum_status_t bootstrap_serve_place(const struct thrum_unique_id *id_bytes, int place_fd,
                                     const uint8_t *known, int nknown)
{
    struct boot_id id;
    thrum_status_t status = boot_id_decode(id_bytes, &id);
    int fd = -1;

    if (status || (status = boot_share_place(place_fd, &fd)))
        return status;
    return boot_root_start_watching(&id, fd, known, nknown);
}

thrum_status_t control_meeting_id(const struct control *control, const uint8_t *place,
                                  const void *purpose, size_t bytes, enum bootstrap_early early,
                                  struct thrum_unique_id *id_out)
{
    static const unsigned flags[] = {
        [BOOTSTRAP_EARLY] = BOOT_ID_EARLY, [BOOTSTRAP_NOT_EARLY] = BOOT_ID_AWAITED};
    struct boot_id id = {.flags = BOOT_ID_DERIVED | BOOT_ID_KEPT | flags[early]};

    if (!boot_address_get(place, &id.address))
        return thrum_fail(THRUM_ERR_INTERNAL, "the place to meet at is no address");
    crypto_generichash(id.secret, sizeof id.secret, purpose, bytes, control->seal_key,
                       sizeof control->seal_key);
    boot_id_encode(&id, id_out);
    sodium_memzero(&id, sizeof id);
    return THRUM_OK;
}

void bootstrap_clear_place(const uint8_t *place, int64_t until_ns)
{
    struct boot_address address;

    if (!boot_address_get(place, &address))
        return;
    boot_root_clear(&address, true);
    boot_root_await_clear(&address, until_ns);
}

void bootstrap_drop_notice(const uint8_t *place, uint64_t number)
{
    struct boot_address address;

    if (boot_address_get(place, &address))
        boot_root_end_notice(&address, number);
}
