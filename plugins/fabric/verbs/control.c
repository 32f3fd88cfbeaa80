/*
 * Control messages, over one UD queue pair for each port, and the service thread: it answers whoever wants to connect,
 * whatever the process computes, hands answers to the connections that wait for them, and takes the events of devices.
 * Called by verbs.c, peer.c and failover.c. Datagrams may be lost or come twice: who asks repeats, and what is asked
 * twice is answered twice.
 */
#include "verbs.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define CONTROL_QKEY 0x54485255u
#define HEADER_BYTES 40 /* in front of each datagram: the GRH */
#define SENT UINT64_MAX /* the id of a work request that is no receive */

/* ---- sending ---- */

struct ibv_ah_attr verbs_way_attr(const struct verbs_endpoint *endpoint, unsigned index,
                                  const uint8_t gid[16], uint16_t lid)
{
    const struct verbs_port *port = &endpoint->ports[index];
    struct ibv_ah_attr attr = {.dlid = lid, .port_num = port->number};

    /* RoCE has nothing but the GID; on InfiniBand it is needed only beyond the subnet. */
    if (port->link_layer == IBV_LINK_LAYER_ETHERNET || memcmp(gid, port->gid.raw, 8) != 0) {
        attr.is_global = 1;
        memcpy(attr.grh.dgid.raw, gid, 16);
        attr.grh.sgid_index = port->gid_index;
        attr.grh.hop_limit = 64;
        attr.grh.traffic_class = endpoint->settings.traffic_class;
    }
    return attr;
}

struct ibv_ah *verbs_way(struct verbs_endpoint *endpoint, unsigned port, const uint8_t gid[16],
                         uint16_t lid)
{
    struct ibv_ah_attr attr = verbs_way_attr(endpoint, port, gid, lid);

    return ibv_create_ah(endpoint->ports[port].device->pd, &attr);
}

bool verbs_control_send(struct verbs_endpoint *endpoint, unsigned index, struct ibv_ah *ah,
                        uint32_t qpn, const struct verbs_message *message)
{
    const struct verbs_port *port = &endpoint->ports[index];
    struct ibv_sge part = {.length = sizeof *message, .lkey = port->device->arena_mr->lkey};
    struct ibv_send_wr request = {
        .wr_id = SENT,
        .sg_list = &part,
        .num_sge = 1,
        .opcode = IBV_WR_SEND,
        .send_flags = IBV_SEND_SIGNALED,
        .wr.ud = {.ah = ah, .remote_qpn = qpn, .remote_qkey = CONTROL_QKEY}};
    struct ibv_send_wr *bad;
    void *buffer;

    if (!ah)
        return false;
    buffer = verbs_control_buffer(endpoint, VERBS_PORTS * VERBS_CONTROL_RECEIVES +
                                                atomic_fetch_add(&endpoint->control_send, 1) %
                                                    VERBS_CONTROL_SENDS);
    memcpy(buffer, message, sizeof *message);
    part.addr = (uint64_t)(uintptr_t)buffer;
    return !ibv_post_send(port->ud, &request, &bad);
}

static void post_receive(struct verbs_endpoint *endpoint, unsigned port, uint64_t slot)
{
    unsigned index = port * VERBS_CONTROL_RECEIVES + (unsigned)slot;
    struct ibv_sge part = {.addr = (uint64_t)(uintptr_t)verbs_control_buffer(endpoint, index),
                           .length = HEADER_BYTES + sizeof(struct verbs_message),
                           .lkey = endpoint->ports[port].device->arena_mr->lkey};
    struct ibv_recv_wr request = {.wr_id = slot, .sg_list = &part, .num_sge = 1}, *bad;

    (void)ibv_post_recv(endpoint->ports[port].ud, &request, &bad);
}

/* From its reset state. 0, or what errno says. */
static int start_ud(struct verbs_endpoint *endpoint, unsigned index)
{
    const struct verbs_port *port = &endpoint->ports[index];
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_INIT, .port_num = port->number, .qkey = CONTROL_QKEY};

    if (ibv_modify_qp(port->ud, &attr,
                      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY))
        return errno;
    for (unsigned i = 0; i < VERBS_CONTROL_RECEIVES; i++)
        post_receive(endpoint, index, i);
    attr.qp_state = IBV_QPS_RTR;
    if (ibv_modify_qp(port->ud, &attr, IBV_QP_STATE))
        return errno;
    attr.qp_state = IBV_QPS_RTS;
    attr.sq_psn = 0;
    return ibv_modify_qp(port->ud, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN) ? errno : 0;
}

/* ---- the receiving side of connections, in the service thread ---- */

int verbs_qp_init(struct ibv_qp *qp, const struct verbs_port *port, int access)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_INIT, .port_num = port->number, .qp_access_flags = (unsigned)access};

    return ibv_modify_qp(qp, &attr,
                         IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

static void close_inbound_lane(struct verbs_endpoint *endpoint, struct verbs_inbound_lane *lane)
{
    verbs_close_later(endpoint, lane->qp, NULL, lane->ah);
    lane->qp = NULL;
    lane->ah = NULL;
}

static void free_inbound(struct verbs_endpoint *endpoint, struct verbs_inbound *inbound)
{
    for (unsigned i = 0; i < VERBS_LANES; i++)
        close_inbound_lane(endpoint, &inbound->lanes[i]);
    endpoint->word_used[inbound->word] = 0;
    free(inbound);
}

static struct verbs_inbound *find_inbound(struct verbs_endpoint *endpoint, uint64_t connection)
{
    struct verbs_inbound *inbound = endpoint->inbound;

    while (inbound && inbound->connection != connection)
        inbound = inbound->next;
    return inbound;
}

static struct verbs_inbound *make_inbound(struct verbs_endpoint *endpoint, uint64_t connection)
{
    struct verbs_inbound *inbound;
    uint32_t word = 0;

    while (word < VERBS_INBOUND && endpoint->word_used[word])
        word++;
    inbound = word < VERBS_INBOUND ? calloc(1, sizeof *inbound) : NULL;
    if (!inbound)
        return NULL;
    endpoint->word_used[word] = 1;
    endpoint->words[word] = 0;
    inbound->word = word;
    inbound->connection = connection;
    inbound->next = endpoint->inbound;
    endpoint->inbound = inbound;
    return inbound;
}

/* Ready to take what the sender's queue pair writes. 0, or errno. */
static int open_inbound_lane(struct verbs_endpoint *endpoint, struct verbs_inbound_lane *lane,
                             const struct verbs_message *hello, enum ibv_mtu mtu, uint8_t reads)
{
    const struct verbs_port *port = &endpoint->ports[hello->port];
    struct ibv_qp_init_attr init = {
        .send_cq = port->device->passive_cq,
        .recv_cq = port->device->passive_cq,
        .cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
        .qp_type = IBV_QPT_RC};
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTR,
                               .path_mtu = mtu,
                               .dest_qp_num = hello->qpn,
                               .rq_psn = hello->psn,
                               .max_dest_rd_atomic = reads,
                               .min_rnr_timer = 12};

    lane->ah = verbs_way(endpoint, hello->port, hello->gid, hello->lid);
    if (!lane->ah)
        return errno;
    lane->qp = ibv_create_qp(port->device->pd, &init);
    if (!lane->qp)
        return errno;
    attr.ah_attr = verbs_way_attr(endpoint, hello->port, hello->gid, hello->lid);
    if (verbs_qp_init(lane->qp, port, IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ))
        return errno;
    if (ibv_modify_qp(lane->qp, &attr,
                      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                          IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER))
        return errno;
    return 0;
}

static void fill_welcome(const struct verbs_endpoint *endpoint, const struct verbs_inbound *inbound,
                         const struct verbs_inbound_lane *lane, struct verbs_message *answer)
{
    answer->kind = VERBS_WELCOME;
    answer->qpn = lane->qp->qp_num;
    answer->directory = (uint64_t)(uintptr_t)endpoint->directory;
    answer->words = (uint64_t)(uintptr_t)&endpoint->words[inbound->word];
    for (unsigned i = 0; i < endpoint->nports; i++)
        answer->arena_rkey[i] = endpoint->ports[i].device->arena_mr->rkey;
}

static void take_hello(struct verbs_endpoint *endpoint, const struct verbs_message *hello)
{
    struct verbs_inbound *inbound = find_inbound(endpoint, hello->connection);
    struct verbs_message answer = {.magic = VERBS_MAGIC,
                                   .token = hello->from_token,
                                   .connection = hello->connection,
                                   .lane = hello->lane,
                                   .attempt = hello->attempt};
    const struct verbs_port *port;
    struct verbs_inbound_lane *lane;
    int error = ENOMEM;

    if (hello->lane >= VERBS_LANES || hello->port >= endpoint->nports)
        return;
    if (!inbound)
        inbound = make_inbound(endpoint, hello->connection);
    if (!inbound)
        return; /* no answer: whoever asks fails by its time, and there is nothing to hold an answer */
    lane = &inbound->lanes[hello->lane];
    if (hello->attempt <= lane->fenced || hello->attempt < lane->attempt)
        return;
    if (hello->attempt > lane->attempt) {
        port = &endpoint->ports[hello->port];
        close_inbound_lane(endpoint, lane);
        answer.mtu = (uint8_t)(hello->mtu < port->mtu ? hello->mtu : port->mtu);
        answer.reads = (uint8_t)min_u64(hello->reads, port->device->served_reads);
        error = open_inbound_lane(endpoint, lane, hello, answer.mtu, answer.reads);
        lane->attempt = hello->attempt;
        lane->ud_qpn = hello->ud_qpn;
        lane->port = hello->port;
        if (error) {
            answer.kind = VERBS_REFUSED;
            snprintf(answer.text, sizeof answer.text, "%s: %.36s", port->name, strerror(error));
        } else {
            fill_welcome(endpoint, inbound, lane, &answer);
        }
        lane->answer = answer;
    }
    verbs_control_send(endpoint, lane->port, lane->ah, lane->ud_qpn, &lane->answer);
}

/* When the queue pair is reset, nothing that was sent to it can arrive any more; and then the word stands still. */
static void take_fence(struct verbs_endpoint *endpoint, const struct verbs_message *fence)
{
    struct verbs_inbound *inbound = find_inbound(endpoint, fence->connection);
    struct verbs_message answer = {.magic = VERBS_MAGIC,
                                   .token = fence->from_token,
                                   .kind = VERBS_FENCED,
                                   .connection = fence->connection,
                                   .lane = fence->lane,
                                   .attempt = fence->attempt};
    struct verbs_inbound_lane *lane, *by;

    if (!inbound || fence->lane >= VERBS_LANES || fence->by >= VERBS_LANES)
        return;
    lane = &inbound->lanes[fence->lane];
    by = &inbound->lanes[fence->by];
    if (fence->attempt >= lane->attempt) {
        verbs_close_later(endpoint, lane->qp, NULL, NULL);
        lane->qp = NULL;
    }
    if (fence->attempt > lane->fenced)
        lane->fenced = fence->attempt;
    answer.number = atomic_load_explicit((_Atomic uint64_t *)&endpoint->words[inbound->word],
                                         memory_order_acquire);
    verbs_control_send(endpoint, by->port, by->ah, by->ud_qpn, &answer);
}

static void take_bye(struct verbs_endpoint *endpoint, uint64_t connection)
{
    struct verbs_inbound **link = &endpoint->inbound, *inbound;

    while (*link && (*link)->connection != connection)
        link = &(*link)->next;
    inbound = *link;
    if (!inbound)
        return;
    *link = inbound->next;
    free_inbound(endpoint, inbound);
}

/* ---- receiving ---- */

/* One that finds no room is lost, as datagrams may be. */
static void keep_answer(struct verbs_endpoint *endpoint, const struct verbs_message *answer)
{
    pthread_mutex_lock(&endpoint->mail_lock);
    if (endpoint->nanswers < VERBS_ANSWERS) {
        endpoint->answers[endpoint->nanswers++] = *answer;
        atomic_store_explicit(&endpoint->has_answers, true, memory_order_release);
        pthread_cond_broadcast(&endpoint->answered);
    }
    pthread_mutex_unlock(&endpoint->mail_lock);
}

unsigned verbs_answers_take(struct verbs_endpoint *endpoint, struct verbs_message *out,
                            unsigned max)
{
    unsigned n;

    if (!atomic_load_explicit(&endpoint->has_answers, memory_order_acquire))
        return 0;
    pthread_mutex_lock(&endpoint->mail_lock);
    n = (unsigned)min_u64(max, endpoint->nanswers);
    memcpy(out, endpoint->answers, n * sizeof *out);
    endpoint->nanswers -= n;
    memmove(endpoint->answers, endpoint->answers + n, endpoint->nanswers * sizeof *out);
    atomic_store_explicit(&endpoint->has_answers, endpoint->nanswers > 0, memory_order_release);
    pthread_mutex_unlock(&endpoint->mail_lock);
    return n;
}

void verbs_answers_wait(struct verbs_endpoint *endpoint, int64_t wait_ns)
{
    struct timespec until;
    int error = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += wait_ns;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&endpoint->mail_lock);
    while (!endpoint->nanswers && !error)
        error = pthread_cond_timedwait(&endpoint->answered, &endpoint->mail_lock, &until);
    pthread_mutex_unlock(&endpoint->mail_lock);
}

static void take_message(struct verbs_endpoint *endpoint, const struct verbs_message *message)
{
    if (message->magic != VERBS_MAGIC || message->token != endpoint->address.token) {
        if (!endpoint->warned)
            thrum_plugin_log(THRUM_LOG_WARN, "verbs: a control message of a stranger, or of a "
                                             "closed endpoint, was dropped (said once)");
        endpoint->warned = true;
        return;
    }
    switch (message->kind) {
    case VERBS_WELCOME:
    case VERBS_REFUSED:
    case VERBS_FENCED:
        keep_answer(endpoint, message);
        return;
    case VERBS_HELLO:
        take_hello(endpoint, message);
        return;
    case VERBS_FENCE:
        take_fence(endpoint, message);
        return;
    case VERBS_BYE:
        take_bye(endpoint, message->connection);
        return;
    default:
        return;
    }
}

/* A datagram that found no way out may have stopped the queue pair (Soft-RoCE). What was under way is lost. */
static void mend_ud(struct verbs_endpoint *endpoint, unsigned index)
{
    struct verbs_port *port = &endpoint->ports[index];
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};
    struct ibv_qp_init_attr init;

    if (ibv_query_qp(port->ud, &attr, IBV_QP_STATE, &init) || attr.qp_state == IBV_QPS_RTS)
        return;
    attr.qp_state = IBV_QPS_RESET;
    if (ibv_modify_qp(port->ud, &attr, IBV_QP_STATE) || start_ud(endpoint, index))
        thrum_plugin_log(THRUM_LOG_WARN, "verbs: %s: its queue pair for control messages is broken",
                         port->name);
}

static void take_datagrams(struct verbs_endpoint *endpoint, unsigned index)
{
    struct verbs_port *port = &endpoint->ports[index];
    struct verbs_message message;
    bool broken = false;
    struct ibv_cq *cq;
    struct ibv_wc wc;
    void *context;

    if (ibv_get_cq_event(port->channel, &cq, &context))
        return;
    ibv_ack_cq_events(cq, 1);
    if (ibv_req_notify_cq(cq, 0))
        return;
    while (ibv_poll_cq(cq, 1, &wc) > 0) {
        const char *buffer;

        broken |= wc.status != IBV_WC_SUCCESS;
        if (wc.wr_id == SENT || wc.status == IBV_WC_WR_FLUSH_ERR)
            continue;
        buffer =
            verbs_control_buffer(endpoint, index * VERBS_CONTROL_RECEIVES + (unsigned)wc.wr_id);
        if (wc.status == IBV_WC_SUCCESS && wc.byte_len == HEADER_BYTES + sizeof message) {
            memcpy(&message, buffer + HEADER_BYTES, sizeof message);
            take_message(endpoint, &message);
        }
        post_receive(endpoint, index, wc.wr_id);
    }
    if (broken)
        mend_ud(endpoint, index);
}

/* ---- events of devices ---- */

static void keep_event(struct verbs_endpoint *endpoint, enum thrum_fabric_event_kind kind,
                       unsigned port, const char *text)
{
    char name[sizeof endpoint->ports[port].name];

    memcpy(name, endpoint->ports[port].name, sizeof name);
    pthread_mutex_lock(&endpoint->mail_lock);
    if (endpoint->nevents < VERBS_EVENTS) {
        struct thrum_fabric_event *event = &endpoint->events[endpoint->nevents++];
        *event = (struct thrum_fabric_event){.kind = kind, .port = port};
        snprintf(event->text, sizeof event->text, "%s: %s", name, text);
        atomic_store_explicit(&endpoint->has_events, true, memory_order_release);
    }
    pthread_mutex_unlock(&endpoint->mail_lock);
}

size_t verbs_get_events(void *handle, struct thrum_fabric_event *events_out, size_t max)
{
    struct verbs_endpoint *endpoint = handle;
    size_t n;

    if (!atomic_load_explicit(&endpoint->has_events, memory_order_acquire))
        return 0;
    pthread_mutex_lock(&endpoint->mail_lock);
    n = min_u64(max, endpoint->nevents);
    memcpy(events_out, endpoint->events, n * sizeof *events_out);
    endpoint->nevents -= (unsigned)n;
    memmove(endpoint->events, endpoint->events + n, endpoint->nevents * sizeof *events_out);
    atomic_store_explicit(&endpoint->has_events, endpoint->nevents > 0, memory_order_release);
    pthread_mutex_unlock(&endpoint->mail_lock);
    return n;
}

static void set_port(struct verbs_endpoint *endpoint, unsigned index, bool up, const char *why)
{
    struct verbs_port *port = &endpoint->ports[index];

    if (atomic_exchange(&port->up, up) == up)
        return;
    thrum_plugin_log(THRUM_LOG_WARN, "verbs: port %s is %s (%s)", port->name, up ? "up" : "down",
                     why);
    keep_event(endpoint, up ? THRUM_FABRIC_LINK_UP : THRUM_FABRIC_LINK_DOWN, index, why);
    atomic_fetch_add(&endpoint->changes, 1);
}

static void take_event(struct verbs_endpoint *endpoint, const struct verbs_device *device,
                       const struct ibv_async_event *event)
{
    const char *text = ibv_event_type_str(event->event_type);

    for (unsigned i = 0; i < endpoint->nports; i++) {
        if (endpoint->ports[i].device != device)
            continue;
        switch (event->event_type) {
        case IBV_EVENT_PORT_ACTIVE:
        case IBV_EVENT_PORT_ERR:
            if (event->element.port_num == endpoint->ports[i].number)
                set_port(endpoint, i, event->event_type == IBV_EVENT_PORT_ACTIVE, text);
            break;
        case IBV_EVENT_DEVICE_FATAL:
            set_port(endpoint, i, false, text);
            break;
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
        case IBV_EVENT_PATH_MIG_ERR:
        case IBV_EVENT_CQ_ERR:
            thrum_plugin_log(THRUM_LOG_WARN, "verbs: %s: %s", endpoint->ports[i].name, text);
            keep_event(endpoint, THRUM_FABRIC_FATAL, i, text);
            return; /* it belongs to the device, not to each of its ports */
        default:
            break;
        }
    }
}

static void take_events(struct verbs_endpoint *endpoint, const struct verbs_device *device)
{
    struct ibv_async_event event;

    while (!ibv_get_async_event(device->context, &event)) {
        take_event(endpoint, device, &event);
        ibv_ack_async_event(&event);
    }
}

/* ---- the service thread ---- */

static void *serve(void *argument)
{
    struct verbs_endpoint *endpoint = argument;
    struct pollfd fds[1 + 2 * VERBS_PORTS];
    nfds_t n = 0;

    fds[n++] = (struct pollfd){.fd = endpoint->stop_fd, .events = POLLIN};
    for (unsigned i = 0; i < endpoint->nports; i++)
        fds[n++] = (struct pollfd){.fd = endpoint->ports[i].channel->fd, .events = POLLIN};
    for (unsigned i = 0; i < endpoint->ndevices; i++)
        fds[n++] = (struct pollfd){.fd = endpoint->devices[i].context->async_fd, .events = POLLIN};
    while (poll(fds, n, -1) >= 0 || errno == EINTR) {
        if (fds[0].revents)
            break;
        for (unsigned i = 0; i < endpoint->nports; i++)
            if (fds[1 + i].revents)
                take_datagrams(endpoint, i);
        for (unsigned i = 0; i < endpoint->ndevices; i++)
            if (fds[1 + endpoint->nports + i].revents)
                take_events(endpoint, &endpoint->devices[i]);
    }
    return NULL;
}

static thrum_status_t open_ud(struct verbs_endpoint *endpoint, unsigned index)
{
    struct verbs_port *port = &endpoint->ports[index];
    struct ibv_qp_init_attr init = {.cap = {.max_send_wr = VERBS_CONTROL_SENDS,
                                            .max_recv_wr = VERBS_CONTROL_RECEIVES,
                                            .max_send_sge = 1,
                                            .max_recv_sge = 1},
                                    .qp_type = IBV_QPT_UD};

    port->channel = ibv_create_comp_channel(port->device->context);
    if (!port->channel)
        return verbs_fail(errno, "verbs: %s: no completion channel", port->name);
    port->cq = ibv_create_cq(port->device->context, VERBS_CONTROL_SENDS + VERBS_CONTROL_RECEIVES,
                             NULL, port->channel, 0);
    if (!port->cq)
        return verbs_fail(errno, "verbs: %s: no completion queue", port->name);
    init.send_cq = init.recv_cq = port->cq;
    port->ud = ibv_create_qp(port->device->pd, &init);
    if (!port->ud)
        return verbs_fail(errno, "verbs: %s: no queue pair for control messages", port->name);
    if (ibv_req_notify_cq(port->cq, 0) || start_ud(endpoint, index))
        return verbs_fail(errno, "verbs: %s: cannot exchange control messages", port->name);
    return THRUM_OK;
}

thrum_status_t verbs_control_open(struct verbs_endpoint *endpoint)
{
    thrum_status_t status = THRUM_OK;
    int error;

    for (unsigned i = 0; i < endpoint->nports && !status; i++)
        status = open_ud(endpoint, i);
    if (status)
        return status;
    endpoint->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (endpoint->stop_fd < 0)
        return verbs_fail(errno, "verbs: no descriptor for the service thread");
    error = pthread_create(&endpoint->thread, NULL, serve, endpoint);
    if (error)
        return verbs_fail(error, "verbs: no service thread");
    endpoint->has_thread = true;
    return THRUM_OK;
}

void verbs_control_close(struct verbs_endpoint *endpoint)
{
    if (endpoint->has_thread) {
        uint64_t one = 1;
        while (write(endpoint->stop_fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_join(endpoint->thread, NULL);
    }
    if (endpoint->stop_fd >= 0)
        close(endpoint->stop_fd);
    while (endpoint->inbound) {
        struct verbs_inbound *inbound = endpoint->inbound;
        endpoint->inbound = inbound->next;
        free_inbound(endpoint, inbound);
    }
    for (unsigned i = 0; i < endpoint->nports; i++) {
        struct verbs_port *port = &endpoint->ports[i];
        if (port->ud)
            ibv_destroy_qp(port->ud);
        if (port->cq)
            ibv_destroy_cq(port->cq);
        if (port->channel)
            ibv_destroy_comp_channel(port->channel);
    }
}
