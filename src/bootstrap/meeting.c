/*
 * Meeting again without a control plane: each rank keeps a port for the time that its communicator lives, and all know
 * the ports. The ranks that are to meet derive one id from the communicator's secret, and one of them serves it.
 * Called by comm (meet.c, grow.c).
 */
#include <errno.h>
#include <sodium.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bootstrap/control.h"
#include "bootstrap/internal.h"

_Static_assert(BOOTSTRAP_PLACE_BYTES == BOOT_ADDRESS_WIRE, "a place is an address");

thrum_status_t bootstrap_keep_place(uint8_t *place_out, int *fd_out)
{
    struct boot_address address;
    socklen_t length = sizeof address;
    thrum_status_t status = boot_address_choose(&address);
    int one = 1, fd;

    if (status)
        return status;
    fd = socket(address.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return boot_fail_descriptor(errno, "a port for later");
    /* So that the service can listen on it while it is kept. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, &address.sa, boot_address_length(&address)) ||
        getsockname(fd, &address.sa, &length)) {
        status = thrum_fail_errno(THRUM_ERR_SYSTEM, "a port for later");
        close(fd);
        return status;
    }
    boot_address_put(&address, place_out);
    *fd_out = fd;
    return THRUM_OK;
}

thrum_status_t control_meeting_id(const struct control *control, const uint8_t *place,
                                  const void *purpose, size_t bytes, bool early,
                                  struct thrum_unique_id *id_out)
{
    struct boot_id id = {.flags = BOOT_ID_DERIVED | (early ? BOOT_ID_EARLY : 0)};

    if (!boot_address_get(place, &id.address))
        return thrum_fail(THRUM_ERR_INTERNAL, "the place to meet at is no address");
    crypto_generichash(id.secret, sizeof id.secret, purpose, bytes, control->seal_key,
                       sizeof control->seal_key);
    boot_id_encode(&id, id_out);
    sodium_memzero(&id, sizeof id);
    return THRUM_OK;
}

void bootstrap_clear_place(const uint8_t *place)
{
    struct boot_address address;

    if (boot_address_get(place, &address))
        boot_root_clear(&address);
}
