/*
 * How the ranks of a lane meet: an id of Thrum's, made by the first and handed on by torch's store. Without torchrun the
 * store itself has to be found first, with the help of the launcher. Called by process_group.cpp and module.cpp.
 */
#include "backend.h"

#include <algorithm>
#include <cstring>

namespace thrum_torch
{

namespace
{

using Bytes = std::vector<uint8_t>;

/* What rank 0 leaves in the store: 0 and the id, or 1 and what went wrong. */
Bytes make_id()
{
    thrum_unique_id id;
    Bytes value(1);

    if (thrum_get_unique_id(&id)) {
        std::string why = thrum_last_error();

        value[0] = 1;
        value.insert(value.end(), why.begin(), why.end());
    } else {
        value.insert(value.end(), id.bytes, id.bytes + sizeof id.bytes);
    }
    return value;
}

thrum_unique_id read_id(const Bytes &value)
{
    thrum_unique_id id;

    if (value.size() != 1 + sizeof id.bytes || value[0])
        fail(THRUM_ERR_SYSTEM, "rank 0 has no id for the others: " +
                                   std::string(value.begin() + !value.empty(), value.end()));
    memcpy(id.bytes, value.data() + 1, sizeof id.bytes);
    return id;
}

/* Waits for a key without keeping other threads from the store, as a blocking get would. */
void await_key(const Pair &pair, const std::string &key, Clock::time_point until,
               const std::atomic<bool> &closing)
{
    Milliseconds pause(1);

    while (!pair.store->check({key})) {
        std::string trouble = pair.group->trouble(), peer = "rank " + std::to_string(pair.peer);

        if (!trouble.empty())
            fail(THRUM_ERR_PEER_DEAD, "waiting for " + peer + ": " + trouble);
        if (closing.load())
            fail(THRUM_ERR_ABORTED, "the process group was destroyed before " + peer + " came");
        if (Clock::now() >= until)
            fail(THRUM_ERR_TIMEOUT, peer + " has not come in time, within " +
                                        std::to_string(pair.timeout.count()) + " ms");
        std::this_thread::sleep_for(pause);
        pause = std::min(pause * 2, Milliseconds(20));
    }
}

} // namespace

thrum_unique_id meet_by_store(const StoreRef &store, int rank, Milliseconds timeout)
{
    const std::string key = "thrum/id";

    if (rank == 0) {
        Bytes value = make_id();

        store->set(key, value);
        return read_id(value);
    }
    store->wait({key}, timeout);
    return read_id(store->get(key));
}

thrum_unique_id meet_pair_by_store(const Pair &pair, const std::atomic<bool> &closing)
{
    Clock::time_point until = Clock::now() + pair.timeout;
    const std::string come = pair.prefix + "/come", key = pair.prefix + "/id";

    /* both are there before either joins, which cannot be called off */
    if (pair.rank == 0) {
        await_key(pair, come, until, closing);
        Bytes value = make_id();
        pair.store->set(key, value);
        return read_id(value);
    }
    pair.store->set(come, Bytes(1));
    await_key(pair, key, until, closing);
    return read_id(pair.store->get(key));
}

std::tuple<int, int, int> launched()
{
    int rank = 0, size = 0, local = 0;

    if (thrum_launch_info(&rank, &size, &local))
        return {0, 0, 0};
    return {rank, size, local};
}

std::string spread(const std::string &bytes)
{
    std::shared_ptr<Device> device = Device::get();
    thrum_queue_t queue = nullptr;
    thrum_comm_t comm = nullptr;
    char buffer[512] = "";
    thrum_status_t status;

    if (bytes.size() >= sizeof buffer)
        fail(THRUM_ERR_INVALID_COUNT, "too much to spread: " + std::to_string(bytes.size()));
    memcpy(buffer, bytes.data(), bytes.size());
    status = thrum_queue_create(device->handle, THRUM_QUEUE_DIRECT, &queue);
    if (!status)
        status = thrum_comm_init(device->handle, nullptr, &comm);
    if (!status)
        status = thrum_broadcast(buffer, buffer, sizeof buffer, THRUM_UINT8, 0, comm, queue);
    if (!status)
        status = thrum_queue_synchronize(queue);
    std::string message = status ? thrum_last_error() : "";
    thrum_comm_destroy(comm);
    thrum_queue_destroy(queue);
    if (status)
        fail(status, "meeting the ranks of the launcher: " + message);
    buffer[sizeof buffer - 1] = 0;
    return buffer;
}

} // namespace thrum_torch
