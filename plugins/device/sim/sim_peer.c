/*
 * Peers of sim devices: exclusive open by an abstract unix socket, handing the memory to peers through it, windows,
 * export and import. An abstract name lives in the network namespace and dies with its process: nothing is left on
 * disk, and a namespace behaves as a host of its own. Called through the plugin table and by the engine thread.
 */
#include "sim_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/config.h"

#define ADDRESS_MAGIC 0x73696d41u
#define HANDLE_MAGIC 0x73696d48u
#define HELLO_MAGIC 0x73696d4fu
#define CONNECT_TIMEOUT_MS \
    5000 /* or half of an operation's deadline: it shall still say who was not reached */

/* What thrum_device_address and thrum_mem_handle hold. */
struct address_content {
    uint32_t magic, checksum;
    uint32_t uid, index, memory_generation, reserved;
    uint64_t netns, hbm_bytes;
    uint8_t boot_id[16];
    uint8_t key[SIM_KEY_BYTES];
};
_Static_assert(sizeof(struct address_content) <= sizeof(struct thrum_device_address), "fits");

struct handle_content {
    uint32_t magic, checksum;
    uint64_t offset, bytes, id;
    struct address_content owner;
};
_Static_assert(sizeof(struct handle_content) <= sizeof(struct thrum_mem_handle), "fits");

/* What the owner sends with its descriptor. */
struct hello {
    uint32_t magic, memory_generation;
    uint8_t key[SIM_KEY_BYTES];
};

/* FNV-1a: finds garbage and truncation, is no defence against malice (the owner's socket and uid are). */
static uint32_t checksum(const void *data, size_t bytes)
{
    const uint8_t *byte = data;
    uint32_t sum = 2166136261u;

    for (size_t i = 0; i < bytes; i++)
        sum = (sum ^ byte[i]) * 16777619u;
    return sum;
}

/* ---- host identity --------------------------------------------------------------------------------------------- */

static struct {
    pthread_once_t once;
    uint64_t netns;
    uint8_t boot_id[16];
} host = {.once = PTHREAD_ONCE_INIT};

static void read_host(void)
{
    char text[64] = "";
    struct stat st;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = -1;

    if (fd >= 0) {
        n = read(fd, text, sizeof text - 1);
        close(fd);
    }
    if (n <= 0)
        (void)gethostname(text, sizeof text - 1);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t part;
        text[sizeof text - 1] = (char)('0' + i);
        part = checksum(text, sizeof text);
        memcpy(host.boot_id + 4 * i, &part, 4);
    }
    if (!stat("/proc/self/ns/net", &st))
        host.netns = (uint64_t)st.st_ino;
}

static void fill_address(struct sim_device *device, struct address_content *content)
{
    pthread_once(&host.once, read_host);
    *content = (struct address_content){
        .magic = ADDRESS_MAGIC,
        .uid = getuid(),
        .index = (uint32_t)device->index,
        .memory_generation =
            atomic_load_explicit(&device->shared->memory_generation, memory_order_acquire),
        .netns = host.netns,
        .hbm_bytes = device->shared->hbm_bytes,
    };
    memcpy(content->boot_id, host.boot_id, sizeof content->boot_id);
    memcpy(content->key, device->key, SIM_KEY_BYTES);
    content->checksum = checksum(content, sizeof *content);
}

static bool address_is_sane(const struct address_content *content)
{
    struct address_content copy = *content;

    copy.checksum = 0;
    return content->magic == ADDRESS_MAGIC && checksum(&copy, sizeof copy) == content->checksum;
}

static bool address_read(const struct thrum_device_address *address,
                         struct address_content *content)
{
    memcpy(content, address->bytes, sizeof *content);
    return address_is_sane(content);
}

thrum_status_t sim_address(void *device, struct thrum_device_address *address_out)
{
    struct address_content content;

    fill_address(device, &content);
    memset(address_out, 0, sizeof *address_out);
    memcpy(address_out->bytes, &content, sizeof content);
    return THRUM_OK;
}

static bool same_host(const struct address_content *content)
{
    pthread_once(&host.once, read_host);
    return content->netns == host.netns &&
           !memcmp(content->boot_id, host.boot_id, sizeof host.boot_id);
}

enum thrum_peer_access sim_peer_access(void *device, const struct thrum_device_address *peer)
{
    struct address_content content;

    (void)device;
    if (!address_read(peer, &content) || !same_host(&content) || content.uid != getuid())
        return THRUM_PEER_NONE;
    return THRUM_PEER_LOAD_STORE;
}

/* ---- the socket ------------------------------------------------------------------------------------------------ */

static socklen_t socket_name(uint32_t uid, uint32_t index, struct sockaddr_un *name)
{
    int n;

    memset(name, 0, sizeof *name);
    name->sun_family = AF_UNIX;
    n = snprintf(name->sun_path + 1, sizeof name->sun_path - 1, "thrum-sim-%u-%u", uid, index);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static thrum_status_t new_socket(int type, int *fd_out)
{
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return thrum_fail_errno(errno == EMFILE || errno == ENFILE ? THRUM_ERR_LIMIT
                                                                   : THRUM_ERR_SYSTEM,
                                "sim: socket%s", errno == EMFILE ? " (raise RLIMIT_NOFILE)" : "");
    *fd_out = fd;
    return THRUM_OK;
}

thrum_status_t sim_listen(int index, int *fd_out)
{
    struct sockaddr_un name;
    socklen_t length = socket_name(getuid(), (uint32_t)index, &name);
    int fd = -1;
    thrum_status_t status = new_socket(SOCK_SEQPACKET | SOCK_NONBLOCK, &fd);

    if (status)
        return status;
    if (bind(fd, (struct sockaddr *)&name, length)) {
        if (errno == EADDRINUSE)
            status = thrum_fail(THRUM_ERR_BUSY, "sim%d: another process has it open", index);
        else
            status = thrum_fail_errno(THRUM_ERR_SYSTEM, "sim%d: bind", index);
    } else if (listen(fd, 4096)) {
        status = thrum_fail_errno(THRUM_ERR_SYSTEM, "sim%d: listen", index);
    }
    if (status)
        close(fd);
    else
        *fd_out = fd;
    return status;
}

static bool peer_is_us(int fd)
{
    struct ucred who;
    socklen_t length = sizeof who;

    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) && who.uid == getuid();
}

static void answer(struct sim_device *device, int fd)
{
    struct hello hello = {.magic = HELLO_MAGIC};
    struct iovec part = {&hello, sizeof hello};
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.space,
                             .msg_controllen = sizeof control.space};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    hello.memory_generation =
        atomic_load_explicit(&device->shared->memory_generation, memory_order_acquire);
    memcpy(hello.key, device->key, SIM_KEY_BYTES);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &device->memory_fd, sizeof(int));
    if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        thrum_log(LOG_DEBUG, "sim%d: a peer left before it was answered", device->index);
}

/* Nothing is read from the peer, so nobody can make the engine thread wait; strangers get nothing. */
void sim_serve_peers(struct sim_device *device)
{
    for (int i = 0; i < 64; i++) {
        int fd = accept4(device->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        if (peer_is_us(fd))
            answer(device, fd);
        else
            thrum_log(LOG_WARN, "sim%d: refused a process of another user", device->index);
        close(fd);
    }
}

/* ---- asking an owner ------------------------------------------------------------------------------------------- */

static thrum_status_t receive_memory(int fd, const struct address_content *owner, int *memory_out)
{
    struct hello hello = {0};
    struct iovec part = {&hello, sizeof hello};
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.space,
                             .msg_controllen = sizeof control.space};
    struct cmsghdr *header;
    int memory = -1;
    ssize_t n;

    do
        n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return thrum_fail(THRUM_ERR_TIMEOUT, "sim%u: its owner does not answer", owner->index);
    if (n <= 0)
        return thrum_fail(THRUM_ERR_PEER_DEAD, "sim%u: its owner closed it", owner->index);
    header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&memory, CMSG_DATA(header), sizeof(int));
    if (memory < 0)
        return thrum_fail(message.msg_flags & MSG_CTRUNC ? THRUM_ERR_LIMIT : THRUM_ERR_PROTOCOL,
                          "sim%u: no descriptor came (raise RLIMIT_NOFILE)", owner->index);
    if (n != (ssize_t)sizeof hello || hello.magic != HELLO_MAGIC) {
        close(memory);
        return thrum_fail(THRUM_ERR_PROTOCOL, "sim%u: its owner speaks another version",
                          owner->index);
    }
    if (memcmp(hello.key, owner->key, SIM_KEY_BYTES)) {
        close(memory);
        return thrum_fail(THRUM_ERR_PEER_DEAD, "sim%u: the process that had it is gone",
                          owner->index);
    }
    *memory_out = memory;
    return THRUM_OK;
}

static thrum_status_t ask_owner(const struct address_content *owner, int *memory_out)
{
    uint64_t ms = min_u64(CONNECT_TIMEOUT_MS, (uint64_t)thrum_config_int(CFG_DEADLINE_MS) / 2);
    struct timeval limit = {.tv_sec = (time_t)(ms / 1000),
                            .tv_usec = (suseconds_t)(ms % 1000) * 1000};
    struct sockaddr_un name;
    socklen_t length = socket_name(owner->uid, owner->index, &name);
    int fd = -1, rc;
    thrum_status_t status = new_socket(SOCK_SEQPACKET, &fd);

    if (status)
        return status;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    do
        rc = connect(fd, (struct sockaddr *)&name, length);
    while (rc && errno == EINTR);
    if (rc)
        status =
            errno == ECONNREFUSED
                ? thrum_fail(THRUM_ERR_PEER_DEAD, "sim%u: no process has it open", owner->index)
                : thrum_fail_errno(errno == EAGAIN ? THRUM_ERR_TIMEOUT : THRUM_ERR_SYSTEM,
                                   "sim%u: connect", owner->index);
    else if (!peer_is_us(fd))
        status =
            thrum_fail(THRUM_ERR_AUTH, "sim%u: its name is held by another user", owner->index);
    else
        status = receive_memory(fd, owner, memory_out);
    close(fd);
    return status;
}

/* ---- windows --------------------------------------------------------------------------------------------------- */

/* Under the slots lock: a second generation of a device that is mapped already needs no second mapping. */
static struct sim_mapping *mapping_find(const uint8_t *key)
{
    for (unsigned i = 0; i < SIM_SLOTS; i++)
        if (sim_slots[i].references && !memcmp(sim_slots[i].shared->key, key, SIM_KEY_BYTES))
            return sim_slots[i].mapping;
    return NULL;
}

/* One reference to a slot on the peer's memory as it was when the address was made. */
static thrum_status_t slot_open(const struct address_content *owner, unsigned *slot_out)
{
    struct sim_mapping *mapping;
    thrum_status_t status = THRUM_OK;
    int memory = -1, found;

    sim_slots_lock();
    found = sim_slot_find(owner->key, owner->memory_generation);
    if (found >= 0) {
        if (atomic_load_explicit(&sim_slots[found].shared->memory_generation,
                                 memory_order_acquire) != owner->memory_generation) {
            status = thrum_fail(THRUM_ERR_RESET, "sim%u: it was reset since the address was made",
                                owner->index);
            goto out;
        }
        sim_slot_get((unsigned)found);
        *slot_out = (unsigned)found;
        goto out;
    }
    mapping = mapping_find(owner->key);
    if (!mapping) {
        /* asks with the lock held: two threads would map the device twice; the owner needs no lock of ours unless
         * it is this process, and then it was found */
        status = ask_owner(owner, &memory);
        if (status)
            goto out;
        status = sim_mapping_create(memory, &mapping);
        close(memory);
        if (status)
            goto out;
        mapping->references = 1;
    } else {
        mapping->references++;
    }
    if (memcmp(mapping->shared->key, owner->key, SIM_KEY_BYTES))
        status = thrum_fail(THRUM_ERR_PROTOCOL, "sim%u: its owner sent other memory", owner->index);
    else if (atomic_load_explicit(&mapping->shared->memory_generation, memory_order_acquire) !=
             owner->memory_generation)
        status = thrum_fail(THRUM_ERR_RESET, "sim%u: it was reset since the address was made",
                            owner->index);
    else
        status = sim_slot_fill(mapping, owner->memory_generation, slot_out);
    sim_mapping_put(mapping);
out:
    sim_slots_unlock();
    return status;
}

/* Under memory_lock. */
static void set_rights(struct sim_device *device, unsigned slot)
{
    uint8_t rights = slot == device->slot || device->slot_opens[slot] ? SIM_RIGHT_ALL
                     : device->slot_imports[slot]                     ? SIM_RIGHT_IMPORTS
                                                                      : SIM_RIGHT_NONE;
    atomic_store_explicit(&device->rights[slot], rights, memory_order_release);
}

static thrum_status_t check_peer(struct sim_device *device, const struct address_content *owner)
{
    if (!same_host(owner))
        return thrum_fail(THRUM_ERR_UNSUPPORTED, "sim%d: sim%u is on another host", device->index,
                          owner->index);
    if (owner->uid != getuid())
        return thrum_fail(THRUM_ERR_AUTH, "sim%d: sim%u belongs to user %u", device->index,
                          owner->index, owner->uid);
    return THRUM_OK;
}

thrum_status_t sim_peer_window_open(void *handle, const struct thrum_device_address *peer,
                                    uint64_t *window_base_out)
{
    struct sim_device *device = handle;
    struct address_content owner;
    unsigned slot;
    thrum_status_t status;

    if (!address_read(peer, &owner))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "sim%d: peer is no device address",
                          device->index);
    status = check_peer(device, &owner);
    if (!status)
        status = slot_open(&owner, &slot);
    if (status)
        return status;
    pthread_mutex_lock(&device->memory_lock);
    device->slot_opens[slot]++;
    set_rights(device, slot);
    pthread_mutex_unlock(&device->memory_lock);
    *window_base_out = sim_slot_base(slot);
    return THRUM_OK;
}

void sim_peer_window_close(void *handle, uint64_t window_base)
{
    struct sim_device *device = handle;
    unsigned slot = sim_address_slot(window_base);
    bool open = false;

    if (!sim_is_device_address(window_base))
        return;
    pthread_mutex_lock(&device->memory_lock);
    if (device->slot_opens[slot]) {
        device->slot_opens[slot]--;
        set_rights(device, slot);
        open = true;
    }
    pthread_mutex_unlock(&device->memory_lock);
    if (!open)
        return;
    sim_quiesce(device);
    sim_slot_put(slot);
}

/* ---- export and import ----------------------------------------------------------------------------------------- */

thrum_status_t sim_mem_export(void *handle, uint64_t address, struct thrum_mem_handle *handle_out)
{
    struct sim_device *device = handle;
    struct thrum_mem_info info = {.size = sizeof info};
    struct handle_content content = {.magic = HANDLE_MAGIC};

    (void)sim_mem_query(device, address, &info);
    if (info.kind != THRUM_MEM_DEVICE || (uint64_t)(uintptr_t)info.base != address)
        return thrum_fail(THRUM_ERR_INVALID_POINTER,
                          "sim%d: address=0x%llx is not the start of a live allocation",
                          device->index, (unsigned long long)address);
    content.offset = address & SIM_OFFSET_MASK;
    content.bytes = info.bytes;
    content.id = info.id;
    fill_address(device, &content.owner);
    content.checksum = checksum(&content, sizeof content);
    memset(handle_out, 0, sizeof *handle_out);
    memcpy(handle_out->bytes, &content, sizeof content);
    return THRUM_OK;
}

static bool handle_read(const struct thrum_mem_handle *handle, struct handle_content *content)
{
    struct handle_content copy;

    memcpy(content, handle->bytes, sizeof *content);
    copy = *content;
    copy.checksum = 0;
    return content->magic == HANDLE_MAGIC && checksum(&copy, sizeof copy) == content->checksum &&
           address_is_sane(&content->owner);
}

static bool is_live(const struct sim_slot *slot, const struct handle_content *content)
{
    const struct sim_allocation *allocation;

    if (content->offset >= slot->hbm_bytes ||
        atomic_load_explicit(&slot->shared->memory_generation, memory_order_acquire) !=
            slot->memory_generation)
        return false;
    allocation = &slot->allocations[content->offset >> SIM_PAGE_SHIFT];
    return atomic_load_explicit(&allocation->bytes, memory_order_acquire) == content->bytes &&
           atomic_load_explicit(&allocation->id, memory_order_acquire) == content->id;
}

/* Under memory_lock: entries of allocations that the peer has freed since, where a new one is now. */
static void drop_leftovers(struct sim_device *device, uint64_t start, uint64_t end)
{
    for (uint64_t at = start; at < end; at += SIM_PAGE_BYTES) {
        uint64_t first, last, id;
        if (!sim_ranges_find(&device->imports, at, &first, &last, &id))
            continue;
        sim_ranges_at(&device->imports, first)->count = 1;
        /* the caller holds a reference to the slot, so it stays mapped */
        if (sim_import_drop(device, first) >= 0)
            sim_slot_put(sim_address_slot(first));
    }
}

/* Under memory_lock. */
static thrum_status_t import_add(struct sim_device *device, unsigned slot,
                                 const struct handle_content *content)
{
    uint64_t start = sim_slot_base(slot) + content->offset;
    struct sim_range *range = sim_ranges_at(&device->imports, start);

    if (range && atomic_load_explicit(&range->id, memory_order_relaxed) == content->id) {
        range->count++;
    } else {
        drop_leftovers(device, start, start + content->bytes);
        if (!sim_ranges_insert(&device->imports, start, start + content->bytes, content->id))
            return thrum_fail(THRUM_ERR_NO_MEMORY, "sim%d: no memory for the range table",
                              device->index);
    }
    device->slot_imports[slot]++;
    set_rights(device, slot);
    return THRUM_OK;
}

thrum_status_t sim_mem_import(void *handle, const struct thrum_mem_handle *mem,
                              uint64_t *address_out)
{
    struct sim_device *device = handle;
    struct handle_content content;
    unsigned slot;
    thrum_status_t status;

    if (!handle_read(mem, &content))
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "sim%d: handle is no memory handle",
                          device->index);
    status = check_peer(device, &content.owner);
    if (!status)
        status = slot_open(&content.owner, &slot);
    if (status)
        return status;
    if (!is_live(&sim_slots[slot], &content)) {
        status = thrum_fail(THRUM_ERR_RESET, "sim%d: allocation %llu of sim%u is gone",
                            device->index, (unsigned long long)content.id, content.owner.index);
    } else if (slot != device->slot) {
        pthread_mutex_lock(&device->memory_lock);
        status = import_add(device, slot, &content);
        pthread_mutex_unlock(&device->memory_lock);
    } else {
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                            "sim%d: handle names this device's own memory", device->index);
    }
    if (status)
        sim_slot_put(slot);
    else
        *address_out = sim_slot_base(slot) + content.offset;
    return status;
}

int sim_import_drop(struct sim_device *device, uint64_t start)
{
    unsigned slot = sim_address_slot(start);
    struct sim_range *range = sim_ranges_at(&device->imports, start);
    bool last;

    if (!range)
        return -1;
    last = --range->count == 0;
    if (last)
        sim_ranges_remove(&device->imports, start);
    device->slot_imports[slot]--;
    set_rights(device, slot);
    return last;
}
