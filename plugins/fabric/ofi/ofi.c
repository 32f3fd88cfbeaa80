/* The ofi fabric's table, endpoints and progress. Called by the fabric loader; its table by exec and port engines. */
#include "ofi.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define COMPLETIONS 32 /* read at once */

thrum_status_t ofi_fail(int error, const char *format, ...)
{
    struct rlimit limit = {0};
    thrum_status_t status = THRUM_ERR_SYSTEM;
    char text[OFI_TEXT_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (error == EMFILE || error == ENFILE) {
        getrlimit(RLIMIT_NOFILE, &limit);
        return thrum_plugin_fail(THRUM_ERR_LIMIT,
                                 "%s: %s: RLIMIT_NOFILE (ulimit -n) is %llu; raise it", text,
                                 fi_strerror(error), (unsigned long long)limit.rlim_cur);
    }
    if (error == FI_ENOMEM)
        status = THRUM_ERR_NO_MEMORY;
    else if (error == FI_ENODATA || error == FI_ENODEV || error == FI_EADDRNOTAVAIL)
        status = THRUM_ERR_NO_DEVICE;
    return thrum_plugin_fail(status, "%s: %s", text, fi_strerror(error));
}

/* ---- opening ---- */

/* Where the endpoint listens, as the others will read it. */
static thrum_status_t fill_address(struct ofi_endpoint *endpoint)
{
    struct ofi_address *address = &endpoint->address;
    size_t bytes = sizeof address->name;
    char host[65] = "";
    int error = fi_getname(&endpoint->ep->fid, address->name, &bytes);

    if (error == -FI_ETOOSMALL)
        return thrum_plugin_fail(
            THRUM_ERR_UNSUPPORTED, "ofi: provider %s has addresses of %zu bytes, at most %zu are",
            endpoint->info->fabric_attr->prov_name, bytes, sizeof address->name);
    if (error)
        return ofi_fail(-error, "ofi: the endpoint's address");
    address->magic = OFI_MAGIC;
    address->version = OFI_VERSION;
    address->name_bytes = (uint16_t)bytes;
    address->format = endpoint->info->addr_format;
    address->pid = getpid();
    address->boot = process_boot_hash();
    gethostname(host, sizeof host - 1);
    snprintf(address->host, sizeof address->host, "%.15s", host);
    snprintf(address->provider, sizeof address->provider, "%.23s",
             endpoint->info->fabric_attr->prov_name);
    return THRUM_OK;
}

static thrum_status_t open_libfabric(struct ofi_endpoint *endpoint)
{
    struct fi_info *info = endpoint->info;
    struct fi_cq_attr cq_attr = {.size = 2 * OFI_RECEIVES, .format = FI_CQ_FORMAT_MSG};
    struct fi_av_attr av_attr = {.type = info->domain_attr->av_type, .count = 1};
    const char *doing = "opening the fabric";
    int error = fi_fabric(info->fabric_attr, &endpoint->fabric, NULL);

    if (!error) {
        doing = "opening the domain";
        error = fi_domain(endpoint->fabric, info, &endpoint->domain, NULL);
    }
    if (!error) {
        doing = "opening an endpoint";
        error = fi_endpoint(endpoint->domain, info, &endpoint->ep, NULL);
    }
    if (!error)
        error = fi_cq_open(endpoint->domain, &cq_attr, &endpoint->cq, NULL);
    if (!error)
        error = fi_av_open(endpoint->domain, &av_attr, &endpoint->av, NULL);
    if (!error)
        error = fi_ep_bind(endpoint->ep, &endpoint->cq->fid, FI_TRANSMIT | FI_RECV);
    if (!error)
        error = fi_ep_bind(endpoint->ep, &endpoint->av->fid, 0);
    if (!error) {
        doing = "enabling the endpoint";
        error = fi_enable(endpoint->ep);
    }
    if (error)
        return ofi_fail(-error, "ofi: %s/%s: %s", info->fabric_attr->prov_name,
                        info->domain_attr->name, doing);
    return THRUM_OK;
}

static void close_libfabric(struct ofi_endpoint *endpoint)
{
    if (endpoint->ep)
        fi_close(&endpoint->ep->fid);
    ofi_arena_destroy(endpoint);
    if (endpoint->cq)
        fi_close(&endpoint->cq->fid);
    if (endpoint->av)
        fi_close(&endpoint->av->fid);
    if (endpoint->domain)
        fi_close(&endpoint->domain->fid);
    if (endpoint->fabric)
        fi_close(&endpoint->fabric->fid);
}

/* False: libfabric has no room for it now. */
static bool post_receive(struct ofi_endpoint *endpoint, struct ofi_op *receive)
{
    return !fi_recv(endpoint->ep, receive->slot, endpoint->receive_bytes, endpoint->arena_desc,
                    FI_ADDR_UNSPEC, &receive->context);
}

static void post_receives(struct ofi_endpoint *endpoint)
{
    size_t most = endpoint->is_stream ? OFI_STREAM_RECEIVES : OFI_RECEIVES;
    size_t n = min_u64(most, endpoint->info->rx_attr->size);

    for (size_t i = 0; i < n; i++)
        if (!post_receive(endpoint, &endpoint->receives[i]))
            return;
}

static void set_limits(struct ofi_endpoint *endpoint)
{
    const struct fi_info *info = endpoint->info;

    endpoint->is_stream = endpoint->ordered && (!strcmp(info->fabric_attr->prov_name, "net") ||
                                                !strcmp(info->fabric_attr->prov_name, "tcp"));
    endpoint->inject_bytes = info->tx_attr->inject_size;
    endpoint->inline_bytes = endpoint->is_stream ? OFI_SMALL_BYTES : OFI_INLINE_BYTES;
    endpoint->piece_bytes = info->ep_attr->max_msg_size;
    if (endpoint->ordered && info->ep_attr->max_order_waw_size)
        endpoint->piece_bytes = min_u64(endpoint->piece_bytes, info->ep_attr->max_order_waw_size);
}

static void destroy(struct ofi_endpoint *endpoint)
{
    close_libfabric(endpoint);
    fi_freeinfo(endpoint->info);
    pthread_mutex_destroy(&endpoint->lock);
    free(endpoint);
}

static thrum_status_t open_endpoint(const char *device, void **endpoint_out,
                                    struct thrum_fabric_address *address_out)
{
    struct ofi_endpoint *endpoint = calloc(1, sizeof *endpoint);
    thrum_status_t status;

    if (!endpoint)
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "ofi: no memory for an endpoint");
    pthread_mutex_init(&endpoint->lock, NULL);
    status = ofi_choose(device && *device ? device : NULL, &endpoint->info, &endpoint->ordered);
    if (!status) {
        set_limits(endpoint);
        status = open_libfabric(endpoint);
    }
    if (!status)
        status = fill_address(endpoint);
    if (!status)
        status = ofi_arena_create(endpoint);
    if (status) {
        destroy(endpoint);
        return status;
    }
    post_receives(endpoint);
    for (int i = 0; i < OFI_SLOTS; i++) {
        endpoint->shared_ops[i].shared = true;
        endpoint->shared_ops[i].next = endpoint->free_shared;
        endpoint->free_shared = &endpoint->shared_ops[i];
    }
    process_endpoint_add(&endpoint->open, endpoint->address.token);
    memset(address_out, 0, sizeof *address_out);
    memcpy(address_out->bytes, &endpoint->address, sizeof endpoint->address);
    *endpoint_out = endpoint;
    return THRUM_OK;
}

/* Peers and regions that the caller left go with it. */
static void close_endpoint(void *handle)
{
    struct ofi_endpoint *endpoint = handle;

    if (!endpoint)
        return;
    process_endpoint_remove(&endpoint->open);
    while (endpoint->peers)
        ofi_disconnect(endpoint->peers);
    destroy(endpoint);
}

/* ---- progress ---- */

static void take_signal(struct ofi_endpoint *endpoint, struct ofi_op *receive, size_t bytes)
{
    const struct ofi_signal *signal = receive->slot;

    if (bytes >= OFI_SIGNAL_HEAD && bytes == OFI_SIGNAL_HEAD + signal->bytes &&
        signal->magic == OFI_MAGIC && signal->version == OFI_VERSION &&
        signal->token == endpoint->address.token && ofi_signal_apply(endpoint, signal))
        return;
    if (!endpoint->warned)
        thrum_plugin_log(THRUM_LOG_WARN, "ofi: a signal was refused: it is not for memory that is "
                                         "registered here (said once)");
    endpoint->warned = true;
}

static void repost(struct ofi_endpoint *endpoint, struct ofi_op *receive)
{
    if (post_receive(endpoint, receive))
        return;
    receive->next = endpoint->unposted;
    endpoint->unposted = receive;
}

/* Of connections to us the ends matter to those who made them; on a shared route it is one of ours that broke. */
static void take_error(struct ofi_endpoint *endpoint)
{
    struct fi_cq_err_entry error = {0};
    struct ofi_op *op;

    if (fi_cq_readerr(endpoint->cq, &error, 0) < 0 || !error.op_context)
        return;
    op = error.op_context;
    if (error.flags & FI_RECV) {
        repost(endpoint, op);
        return;
    }
    if (op->peer)
        ofi_peer_lost(op->peer, error.err);
    ofi_op_done(endpoint, op);
}

static bool receive_signals(struct ofi_endpoint *endpoint)
{
    struct fi_cq_msg_entry entries[COMPLETIONS];
    ssize_t n;

    while (endpoint->unposted && post_receive(endpoint, endpoint->unposted))
        endpoint->unposted = endpoint->unposted->next;
    n = fi_cq_read(endpoint->cq, entries, COMPLETIONS);
    if (n == -FI_EAVAIL)
        take_error(endpoint);
    for (ssize_t i = 0; i < n; i++) {
        struct ofi_op *op = entries[i].op_context;
        if (!op)
            continue;
        if (entries[i].flags & FI_RECV) {
            take_signal(endpoint, op, entries[i].len);
            repost(endpoint, op);
        } else {
            ofi_op_done(endpoint, op);
        }
    }
    return n > 0;
}

bool ofi_progress_locked(struct ofi_endpoint *endpoint)
{
    bool moved = receive_signals(endpoint);

    for (struct ofi_peer *peer = endpoint->peers; peer; peer = peer->next)
        moved |= ofi_send_locked(peer);
    return moved;
}

/* One thread at a time; a second one has nothing to do meanwhile. */
static thrum_status_t progress(void *handle)
{
    struct ofi_endpoint *endpoint = handle;
    bool moved;

    if (pthread_mutex_trylock(&endpoint->lock))
        return THRUM_IN_PROGRESS;
    moved = ofi_progress_locked(endpoint);
    pthread_mutex_unlock(&endpoint->lock);
    return moved ? THRUM_OK : THRUM_IN_PROGRESS;
}

static int wait_fd(void *endpoint)
{
    (void)endpoint;
    return -1;
}

static size_t max_inline(void *handle)
{
    const struct ofi_endpoint *endpoint = handle;

    return endpoint->inline_bytes;
}

static const struct thrum_fabric_ops ops = {
    .size = sizeof ops,
    .abi_version = THRUM_FABRIC_ABI_VERSION,
    .name = "ofi",
    .enumerate = ofi_enumerate,
    .open = open_endpoint,
    .close = close_endpoint,
    .connect = ofi_connect,
    .disconnect = ofi_disconnect,
    .region_register = ofi_region_register,
    .region_register_dmabuf = ofi_region_register_dmabuf,
    .region_deregister = ofi_region_deregister,
    .put_signal = ofi_put_signal,
    .get = ofi_get,
    .flush = ofi_flush,
    .progress = progress,
    .wait_fd = wait_fd,
    .peer_error = ofi_peer_error,
    .max_inline = max_inline,
};

__attribute__((visibility("default"))) const struct thrum_fabric_ops *
thrum_fabric_plugin(uint32_t library_abi_version);

const struct thrum_fabric_ops *thrum_fabric_plugin(uint32_t library_abi_version)
{
    return library_abi_version == THRUM_FABRIC_ABI_VERSION ? &ops : NULL;
}
