/* The unique id: 128 bytes that say where to meet and hold the secret. Called by bootstrap's other files and comm. */
#include <sodium.h>
#include <string.h>

#include "base/config.h"
#include "bootstrap/internal.h"

/*
 * 0 magic "THRM", 4 version, 6 flags (little endian), 8 address (20 bytes), 28 zero, 32 secret, 64 zero, 112 check:
 * BLAKE2b-128 of what stands before it, which tells a damaged or foreign id from a good one.
 */
static const uint8_t magic[4] = {'T', 'H', 'R', 'M'};
enum {
    VERSION_AT = 4,
    FLAGS_AT = 6,
    ADDRESS_AT = 8,
    SECRET_AT = 32,
    CHECK_AT = 112,
    CHECK_BYTES = 16
};

static thrum_status_t load_sodium(void)
{
    if (sodium_init() < 0)
        return thrum_fail(THRUM_ERR_SYSTEM, "libsodium cannot be initialised: no random numbers");
    return THRUM_OK;
}

void boot_id_encode(const struct boot_id *id, struct thrum_unique_id *out)
{
    uint8_t *bytes = out->bytes;

    memset(bytes, 0, THRUM_UNIQUE_ID_BYTES);
    memcpy(bytes, magic, sizeof magic);
    bytes[VERSION_AT] = BOOT_VERSION & 0xff;
    bytes[VERSION_AT + 1] = BOOT_VERSION >> 8;
    bytes[FLAGS_AT] = (uint8_t)id->flags;
    boot_address_put(&id->address, bytes + ADDRESS_AT);
    memcpy(bytes + SECRET_AT, id->secret, BOOT_SECRET_BYTES);
    crypto_generichash(bytes + CHECK_AT, CHECK_BYTES, bytes, CHECK_AT, NULL, 0);
}

thrum_status_t boot_id_decode(const struct thrum_unique_id *in, struct boot_id *out)
{
    const uint8_t *bytes = in->bytes;
    uint8_t check[CHECK_BYTES];
    struct boot_id id = {.flags = bytes[FLAGS_AT]};
    thrum_status_t status = load_sodium();

    if (status)
        return status;
    if (memcmp(bytes, magic, sizeof magic))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "id: these bytes were not made by thrum_get_unique_id");
    if (bytes[VERSION_AT] + 256 * bytes[VERSION_AT + 1] != BOOT_VERSION)
        return thrum_fail(THRUM_ERR_PROTOCOL,
                          "id: made by protocol version %d, this library speaks %d",
                          bytes[VERSION_AT] + 256 * bytes[VERSION_AT + 1], BOOT_VERSION);
    crypto_generichash(check, CHECK_BYTES, bytes, CHECK_AT, NULL, 0);
    if (memcmp(check, bytes + CHECK_AT, CHECK_BYTES) ||
        !boot_address_get(bytes + ADDRESS_AT, &id.address))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                          "id: damaged; all %d bytes must be passed on unchanged",
                          THRUM_UNIQUE_ID_BYTES);
    memcpy(id.secret, bytes + SECRET_AT, BOOT_SECRET_BYTES);
    *out = id;
    return THRUM_OK;
}

static thrum_status_t make_id(int64_t port, struct thrum_unique_id *id_out)
{
    struct boot_id id = {0};
    thrum_status_t status;
    int fd;

    if ((status = load_sodium()) || (status = boot_address_choose(&id.address)))
        return status;
    boot_address_set_port(&id.address, (uint16_t)port);
    randombytes_buf(id.secret, sizeof id.secret);
    if ((status = boot_listen(&id.address, false, &fd)))
        return status;
    if ((status = boot_root_start(&id, fd)))
        return status;
    boot_id_encode(&id, id_out);
    sodium_memzero(&id, sizeof id);
    return THRUM_OK;
}

thrum_status_t bootstrap_make_id(struct thrum_unique_id *id_out)
{
    thrum_status_t status = thrum_config_load();

    if (!id_out)
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "id_out is NULL");
    return status ? status : make_id(thrum_config_int(CFG_BOOTSTRAP_PORT), id_out);
}

thrum_status_t bootstrap_make_id_of_part(struct thrum_unique_id *id_out)
{
    thrum_status_t status = bootstrap_make_id(id_out);

    return status == THRUM_ERR_BUSY ? make_id(0, id_out) : status;
}

thrum_status_t bootstrap_id_from(const char *host_port, const void *secret, size_t secret_bytes,
                                 struct thrum_unique_id *id_out)
{
    static const uint8_t label[] = "thrum bootstrap: secret of the job";
    struct boot_id id = {.flags = BOOT_ID_DERIVED};
    thrum_status_t status;
    bool named;

    if (!host_port || !secret || !secret_bytes || !id_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "host_port, secret or id_out is missing");
    if ((status = load_sodium()) || (status = boot_address_resolve(host_port, &id.address, &named)))
        return status;
    if (named)
        id.flags |= BOOT_ID_NAMED;
    crypto_generichash(id.secret, sizeof id.secret, secret, secret_bytes, label, sizeof label);
    boot_id_encode(&id, id_out);
    sodium_memzero(&id, sizeof id);
    return THRUM_OK;
}

thrum_status_t bootstrap_serve(const struct thrum_unique_id *id_bytes)
{
    struct boot_id id;
    thrum_status_t status;
    bool any_interface;
    int fd;

    if (!id_bytes)
        return thrum_fail(THRUM_ERR_INVALID_POINTER, "id is NULL");
    if ((status = thrum_config_load()) || (status = boot_id_decode(id_bytes, &id)))
        return status;
    /* A host's own name often resolves to loopback on that host, where no other host could reach it. */
    any_interface = id.flags & BOOT_ID_NAMED;
    if ((status = boot_listen(&id.address, any_interface, &fd)))
        return status;
    return boot_root_start(&id, fd);
}
