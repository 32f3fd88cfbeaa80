/* The process group: its lanes, and barriers with a list of who is missing. Called by module.cpp and torch. */
#include "backend.h"

#include <Python.h>

#include <algorithm>

namespace thrum_torch
{

namespace
{

constexpr Milliseconds kGrace{30000}; /* for what is in flight when a group goes */

std::string name_of(const std::string &name, const std::vector<int64_t> &global_ranks)
{
    std::string text = "process group " + (name.empty() ? std::string("?") : name);

    for (size_t i = 0; i < global_ranks.size() && i < 16; i++)
        text += (i ? "," : " (ranks ") + std::to_string(global_ranks[i]);
    if (global_ranks.size() > 16)
        text += ",...";
    return global_ranks.empty() ? text : text + " of the job)";
}

/* Without the interpreter's lock, which threads that have to end may want. */
class Unlocked
{
  public:
    Unlocked() : state_(Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr) {}
    ~Unlocked()
    {
        if (state_)
            PyEval_RestoreThread(state_);
    }
    Unlocked(const Unlocked &) = delete;

  private:
    PyThreadState *state_;
};

} // namespace

ProcessGroup::ProcessGroup(const StoreRef &store, int rank, int size, Milliseconds timeout,
                           const std::string &name, std::vector<int64_t> global_ranks)
    : BackendBase(rank, size), store_(store), timeout_(timeout), name_(name_of(name, global_ranks))
{
    LaneOptions options;

    options.name = name_;
    options.rank = rank;
    options.size = size;
    options.timeout = timeout;
    lane_ = Lane::make(options);
    lane_->join([&](const std::atomic<bool> &) { return meet_by_store(store, rank, timeout); });
    messages_ = {store, name_, rank, size, timeout, lane_};
}

ProcessGroup::~ProcessGroup()
{
    Unlocked unlocked;

    if (lane_->is_foreign()) { /* a child that was forked has nothing of it but the memory */
        new std::shared_ptr<Lane>(lane_);
        for (const auto &channel : channels_)
            new std::shared_ptr<Lane>(channel.second);
        for (const auto &inbox : inboxes_)
            new std::shared_ptr<Inbox>(inbox.second);
        return;
    }
    close(std::min(timeout_, kGrace));
}

void ProcessGroup::close(Milliseconds grace)
{
    std::map<std::pair<int, int>, std::shared_ptr<Lane>> channels;
    std::map<int, std::shared_ptr<Inbox>> inboxes;

    {
        std::lock_guard<std::mutex> lock(messages_lock_);
        channels.swap(channels_);
        inboxes.swap(inboxes_);
    }
    for (const auto &inbox : inboxes)
        inbox.second->stop();
    lane_->close(grace);
    for (const auto &channel : channels)
        channel.second->close(grace);
    for (const auto &inbox : inboxes)
        for (const auto &lane : inbox.second->lanes())
            lane->close(grace);
}

ProcessGroup::WorkPtr ProcessGroup::start(c10d::OpType type, const char *title, Tensors inputs,
                                          std::vector<Tensors> outputs, Milliseconds timeout,
                                          Issue issue, std::function<void()> finish)
{
    auto work = c10::make_intrusive<Work>(rank_, type, title, std::move(inputs), std::move(outputs),
                                          timeout, std::move(finish));

    sequence_++;
    lane_->submit(work, std::move(issue));
    return work;
}

/* ---- a barrier that says who is missing ---- */

/* By the store alone: whether ranks come says nothing about the communicator, and leaves it as it is. */
void ProcessGroup::monitoredBarrier(const c10d::BarrierOptions &options, bool wait_all_ranks)
{
    Milliseconds timeout = options.timeout.count() > 0 ? options.timeout : timeout_;
    Clock::time_point until = Clock::now() + timeout;
    std::string prefix = "thrum/monitored/" + std::to_string(monitored_++) + "/", missing;

    if (rank_ != 0) {
        store_->set(prefix + std::to_string(rank_), std::vector<uint8_t>(1));
        store_->wait({prefix + "end"}, timeout);
        std::vector<uint8_t> end = store_->get(prefix + "end");
        if (end.size() > 1)
            fail(THRUM_ERR_TIMEOUT, std::string(end.begin() + 1, end.end()));
        return;
    }
    for (int r = 1; r < size_ && (missing.empty() || wait_all_ranks); r++) {
        std::string key = prefix + std::to_string(r);

        while (!store_->check({key}) && Clock::now() < until)
            std::this_thread::sleep_for(Milliseconds(1));
        if (!store_->check({key}))
            missing += (missing.empty() ? "rank " : ", ") + std::to_string(r);
    }
    if (!missing.empty())
        missing = name_ + ": " + missing + " did not come to the monitored barrier within " +
                  std::to_string(timeout.count()) + " ms";
    std::vector<uint8_t> end(1);
    end.insert(end.end(), missing.begin(), missing.end());
    store_->set(prefix + "end", end);
    if (!missing.empty())
        fail(THRUM_ERR_TIMEOUT, missing);
}

} // namespace thrum_torch
