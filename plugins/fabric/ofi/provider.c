/*
 * What libfabric offers on this host, judged: what the fabric needs is asked for, and what an offer lacks is said.
 * Called by ofi.c for enumerate and open. Asking takes milliseconds, as every provider looks for its devices.
 */
#include "ofi.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEEDED_CAPS \
    (FI_MSG | FI_RMA | FI_SEND | FI_RECV | FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE)
/* Registration modes that region.c and send.c serve; FI_MR_RAW is not among them. */
#define SERVED_MR_MODES \
    (FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_ENDPOINT)
#define SERVED_MODES (FI_CONTEXT | FI_CONTEXT2)
/* Data of earlier puts before that of later ones, and before signals; reads after writes. */
#define NEEDED_ORDER (FI_ORDER_WAW | FI_ORDER_RAW | FI_ORDER_SAW | FI_ORDER_SAS)

/* Providers that serve, but are taken only when they are named. */
static const struct {
    const char *provider, *why;
} only_by_name[] = {
    {"shm", "within a host; 1.17 crashes if closed at work"},
    {"sockets", "superseded by tcp"},
    {"udp", "slow: reliability in user space"},
};

/* ---- asking ---- */

static struct fi_info *make_hints(uint64_t caps, uint64_t order, uint64_t op_flags)
{
    struct fi_info *hints = fi_allocinfo();

    if (!hints)
        return NULL;
    hints->caps = caps;
    hints->mode = SERVED_MODES;
    hints->ep_attr->type = FI_EP_RDM;
    hints->domain_attr->mr_mode = SERVED_MR_MODES;
    hints->domain_attr->threading = FI_THREAD_DOMAIN; /* the endpoint's lock */
    hints->domain_attr->data_progress = FI_PROGRESS_MANUAL; /* any */
    hints->domain_attr->resource_mgmt = FI_RM_ENABLED; /* full queues say EAGAIN */
    hints->tx_attr->msg_order = order;
    hints->rx_attr->msg_order = order;
    hints->tx_attr->op_flags = op_flags;
    return hints;
}

static struct fi_info *ask(uint64_t caps, uint64_t order, uint64_t op_flags)
{
    struct fi_info *hints = make_hints(caps, order, op_flags), *found = NULL;

    if (!hints)
        return NULL;
#ifdef FI_MR_DMABUF
    /* Device memory where the provider can; it is asked for again without. */
    hints->caps |= FI_HMEM;
    hints->domain_attr->mr_mode |= FI_MR_HMEM;
    if (!caps || fi_getinfo(OFI_API, NULL, NULL, 0, hints, &found))
        found = NULL;
    hints->caps = caps;
    hints->domain_attr->mr_mode = SERVED_MR_MODES;
    if (found) {
        struct fi_info *rest = NULL, *last = found;
        if (!fi_getinfo(OFI_API, NULL, NULL, 0, hints, &rest)) {
            while (last->next)
                last = last->next;
            last->next = rest;
        }
        fi_freeinfo(hints);
        return found;
    }
#endif
    if (fi_getinfo(OFI_API, NULL, NULL, 0, hints, &found))
        found = NULL;
    fi_freeinfo(hints);
    return found;
}

/* Everything of the RDM kind, to say why it does not serve. */
static struct fi_info *ask_for_all(void)
{
    struct fi_info *hints = fi_allocinfo(), *found = NULL;

    if (!hints)
        return NULL;
    hints->ep_attr->type = FI_EP_RDM;
    hints->mode = ~0ull;
    hints->domain_attr->mode = ~0ull;
    hints->domain_attr->mr_mode = ~3; /* all bits, but not the two values of old */
    if (fi_getinfo(OFI_API, NULL, NULL, 0, hints, &found))
        found = NULL;
    fi_freeinfo(hints);
    return found;
}

/* ---- judging ---- */

static const char *provider_of(const struct fi_info *info)
{
    return info->fabric_attr && info->fabric_attr->prov_name ? info->fabric_attr->prov_name : "?";
}

static const char *domain_of(const struct fi_info *info)
{
    return info->domain_attr && info->domain_attr->name ? info->domain_attr->name : "?";
}

/* "tcp" names "tcp;ofi_rxm", too. */
static bool names_provider(const char *name, const char *provider)
{
    size_t length = strlen(name);

    return !strncmp(provider, name, length) && (!provider[length] || provider[length] == ';');
}

static void address_text(const struct fi_info *info, char text[64])
{
    *text = 0;
    if (!info->src_addr)
        return;
    if (info->addr_format == FI_SOCKADDR_IN)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)info->src_addr)->sin_addr, text, 64);
    else if (info->addr_format == FI_SOCKADDR_IN6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)info->src_addr)->sin6_addr, text, 64);
}

static bool is_link_local(const struct fi_info *info)
{
    const struct sockaddr_in6 *address = info->src_addr;

    return address && info->addr_format == FI_SOCKADDR_IN6 &&
           IN6_IS_ADDR_LINKLOCAL(&address->sin6_addr);
}

static bool is_loopback(const struct ofi_offer *offer)
{
    return !strncmp(offer->address, "127.", 4) || !strcmp(offer->address, "::1");
}

static bool is_on(const struct ofi_offer *offer, const char *interface)
{
    return !strcmp(domain_of(offer->info), interface) ||
           (*offer->address && !strcmp(offer->address, interface));
}

/* What stands in the way of an offer that the questions did not bring up. */
static void say_what_lacks(struct ofi_offer *offer)
{
    const struct fi_info *info = offer->info;
    const char *what = "it does not offer what this fabric asks for all at once";

    if (!(info->caps & FI_RMA))
        what = "no RMA (FI_RMA)";
    else if (!(info->caps & FI_MSG))
        what = "no messages (FI_MSG)";
    else if (info->mode & ~(uint64_t)SERVED_MODES)
        what = "wants a mode other than FI_CONTEXT";
    else if (info->domain_attr->mr_mode & FI_MR_RAW)
        what = "wants raw keys (FI_MR_RAW)";
    snprintf(offer->why, sizeof offer->why, "%s", what);
}

/* Limits that come with the answer, and are not asked for. */
static void judge_limits(struct ofi_offer *offer)
{
    const struct fi_info *info = offer->info;
    const int both = FI_MR_LOCAL | FI_MR_ENDPOINT;

    if ((info->domain_attr->mr_mode & both) == both)
        snprintf(offer->why, sizeof offer->why,
                 "wants local buffers registered for each endpoint (FI_MR_LOCAL, FI_MR_ENDPOINT)");
    else if (info->domain_attr->mr_mode & FI_MR_RAW)
        snprintf(offer->why, sizeof offer->why, "wants raw keys (FI_MR_RAW)");
    else if (info->ep_attr->max_msg_size < sizeof(struct ofi_entry))
        snprintf(offer->why, sizeof offer->why, "messages of %zu bytes at most",
                 info->ep_attr->max_msg_size);
    else if (!info->tx_attr->iov_limit || !info->tx_attr->rma_iov_limit)
        snprintf(offer->why, sizeof offer->why, "no buffer vectors (iov_limit 0)");
    else if (is_link_local(info))
        snprintf(offer->why, sizeof offer->why, "a link-local address means nothing elsewhere");
    else
        offer->usable = true;
}

static void judge(struct ofi_offer *offer, int position)
{
    const char *provider = provider_of(offer->info);

    offer->rank = position;
    offer->automatic = true;
    offer->same_host = names_provider("shm", provider);
    for (size_t i = 0; offer->usable && i < sizeof only_by_name / sizeof *only_by_name; i++) {
        if (!names_provider(only_by_name[i].provider, provider))
            continue;
        offer->automatic = false;
        snprintf(offer->why, sizeof offer->why, "only by THRUM_OFI_PROVIDER: %s",
                 only_by_name[i].why);
    }
    /*
     * Each of ofi_rxm's endpoints takes 70 MB and 60 ms (libfabric 1.17), so over tcp it stands behind tcp's own reliable
     * datagrams, called `net` up to 1.17 and `tcp` since.
     */
    if (!strcmp(provider, "tcp;ofi_rxm") || !strcmp(provider, "net;ofi_rxm"))
        offer->rank += 100;
    if (is_on(offer, thrum_plugin_config("THRUM_BOOTSTRAP_INTERFACE")))
        offer->rank -= 50; /* where the ranks met, others can be reached */
    if (is_loopback(offer)) { /* better than nothing: a host without a network */
        offer->rank += 1000000;
        offer->same_host = true;
    }
    if (offer->info->addr_format == FI_SOCKADDR_IN6)
        offer->rank += 1000; /* of one domain, IPv4 before IPv6 */
    if (!offer->ordered)
        offer->rank += 10000;
}

/* ---- the list ---- */

static bool is_known(const struct ofi_offers *offers, const struct fi_info *info, bool by_address)
{
    char address[64];

    address_text(info, address);
    for (size_t i = 0; i < offers->n; i++) {
        const struct ofi_offer *offer = &offers->list[i];
        if (!strcmp(provider_of(offer->info), provider_of(info)) &&
            !strcmp(domain_of(offer->info), domain_of(info)) &&
            (!by_address || !strcmp(offer->address, address)))
            return true;
    }
    return false;
}

/* Takes what of `found` is new; frees `found`. False: no memory. */
static bool collect(struct ofi_offers *offers, struct fi_info *found, bool serves, bool ordered)
{
    bool good = true;

    for (const struct fi_info *info = found; info && good; info = info->next) {
        struct ofi_offer *list, *offer;

        if (is_known(offers, info, serves))
            continue;
        list = realloc(offers->list, (offers->n + 1) * sizeof *list);
        if (list)
            offers->list = list;
        offer = list ? &list[offers->n] : NULL;
        if (offer) {
            memset(offer, 0, sizeof *offer);
            offer->info = fi_dupinfo(info);
        }
        good = offer && offer->info;
        if (!good)
            break;
        snprintf(offer->name, sizeof offer->name, "%s/%s", provider_of(info), domain_of(info));
        address_text(info, offer->address);
        offer->ordered = ordered;
        if (serves)
            judge_limits(offer);
        else
            say_what_lacks(offer);
        judge(offer, (int)offers->n);
        offers->n++;
    }
    fi_freeinfo(found);
    return good;
}

thrum_status_t ofi_offers_find(struct ofi_offers *out)
{
    struct ofi_offers offers = {0};
    bool may_order = strcmp(thrum_plugin_config("THRUM_OFI_ORDER"), "wait") != 0;
    bool good = true;

    ofi_start();
    if (may_order)
        good = collect(&offers, ask(NEEDED_CAPS, NEEDED_ORDER, 0), true, true);
    good =
        good && collect(&offers, ask(NEEDED_CAPS, FI_ORDER_SAS, FI_DELIVERY_COMPLETE), true, false);
    good = good && collect(&offers, ask_for_all(), false, false);
    if (!good) {
        ofi_offers_free(&offers);
        return thrum_plugin_fail(THRUM_ERR_NO_MEMORY, "ofi: no memory for libfabric's offers");
    }
    *out = offers;
    return THRUM_OK;
}

void ofi_offers_free(struct ofi_offers *offers)
{
    for (size_t i = 0; i < offers->n; i++)
        fi_freeinfo(offers->list[i].info);
    free(offers->list);
    *offers = (struct ofi_offers){0};
}

static double gigabytes_per_second(const struct fi_info *info)
{
    if (info->nic && info->nic->link_attr)
        return (double)info->nic->link_attr->speed / 8e9;
    return 0;
}

static void describe(const struct ofi_offer *offer, struct thrum_fabric_info *out)
{
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "%s", offer->name);
    out->usable = offer->usable;
    out->same_host_only = offer->same_host;
    out->bandwidth_gbps = gigabytes_per_second(offer->info);
    out->max_inline_bytes = OFI_INLINE_BYTES;
    text_append(out->detail, sizeof out->detail, "%s%s", offer->address,
                *offer->address ? ": " : "");
    if (!offer->usable || !offer->automatic)
        text_append(out->detail, sizeof out->detail, "%s", offer->why);
    else
        text_append(out->detail, sizeof out->detail, "data before signal by %s",
                    offer->ordered ? "the provider's order of writes" : "waiting for the data");
}

thrum_status_t ofi_enumerate(struct thrum_fabric_info *info_out, size_t max, size_t *n_out)
{
    struct ofi_offers offers;
    thrum_status_t status = ofi_offers_find(&offers);

    if (status)
        return status;
    for (size_t i = 0; i < offers.n && i < max; i++)
        describe(&offers.list[i], &info_out[i]);
    *n_out = offers.n;
    ofi_offers_free(&offers);
    return THRUM_OK;
}

/* ---- choosing ---- */

/* How the user may call an offer: name, provider, domain (an interface, for tcp) or address. */
static bool is_called(const struct ofi_offer *offer, const char *name)
{
    return !strcmp(offer->name, name) || names_provider(name, provider_of(offer->info)) ||
           !strcmp(domain_of(offer->info), name) ||
           (*offer->address && !strcmp(offer->address, name));
}

/* Nothing fits: what there was, and why not, each provider with a reason once. */
static thrum_status_t fail_choice(const struct ofi_offers *offers, const char *device,
                                  const char *provider, const char *interface)
{
    char wish[200] = "", list[280] = "";
    const char *last = "";

    if (device)
        text_append(wish, sizeof wish, " called \"%.60s\" (THRUM_FABRIC_DEVICE)", device);
    if (*provider)
        text_append(wish, sizeof wish, " of provider \"%.40s\" (THRUM_OFI_PROVIDER)", provider);
    if (*interface)
        text_append(wish, sizeof wish, " on interface or address \"%.40s\" (THRUM_OFI_INTERFACE)",
                    interface);
    for (size_t i = 0; i < offers->n && strlen(list) < 200; i++) {
        const struct ofi_offer *offer = &offers->list[i];
        if (!strcmp(last, offer->name))
            continue;
        last = offer->name;
        text_append(list, sizeof list, "%s%s", *list ? ", " : "", offer->name);
        if (!offer->usable)
            text_append(list, sizeof list, " (%s)", offer->why);
    }
    return thrum_plugin_fail(THRUM_ERR_NO_DEVICE,
                             "fabric ofi: libfabric %u.%u has nothing usable%s; it has: %s. "
                             "thrum-info --fabrics lists all",
                             FI_MAJOR(fi_version()), FI_MINOR(fi_version()), wish,
                             *list ? list : "nothing");
}

thrum_status_t ofi_choose(const char *device, struct fi_info **info_out, bool *ordered_out)
{
    const char *provider = thrum_plugin_config("THRUM_OFI_PROVIDER");
    const char *interface = thrum_plugin_config("THRUM_OFI_INTERFACE");
    struct ofi_offer *best = NULL;
    struct ofi_offers offers;
    thrum_status_t status = ofi_offers_find(&offers);

    if (status)
        return status;
    for (size_t i = 0; i < offers.n; i++) {
        struct ofi_offer *offer = &offers.list[i];
        bool named = *provider || (device && (!strcmp(offer->name, device) ||
                                              names_provider(device, provider_of(offer->info))));
        if (offer->usable && (offer->automatic || named) && (!device || is_called(offer, device)) &&
            (!*provider || names_provider(provider, provider_of(offer->info))) &&
            (!*interface || is_on(offer, interface)) && (!best || offer->rank < best->rank))
            best = offer;
    }
    if (best) {
        *info_out = best->info;
        *ordered_out = best->ordered;
        best->info = NULL; /* fi_freeinfo takes it */
    } else {
        status = fail_choice(&offers, device, provider, interface);
    }
    ofi_offers_free(&offers);
    return status;
}
