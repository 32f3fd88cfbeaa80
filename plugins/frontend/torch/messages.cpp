/*
 * send and receive. Each sender, receiver and tag have a lane; what a rank receives under one tag goes through an inbox,
 * which finds senders for receives from any source. Called by torch.
 */
#include "backend.h"

#include <algorithm>

#include <sched.h>

namespace thrum_torch
{

namespace
{

constexpr uint64_t kMessageScratchBytes = 65536;
constexpr Milliseconds kInboxLingers{200}; /* its thread, when nothing waits */
constexpr std::chrono::microseconds kShortestLook{50}, kLongestLook{2000}; /* from look to look */
constexpr Milliseconds kShortestAsk{1}, kLongestAsk{20}; /* of the store */
constexpr int kEagerLooks = 200; /* of who waits: first it only yields */

std::mutex live_inboxes_lock; /* guards the next */
std::vector<std::weak_ptr<Inbox>> live_inboxes;

/* Where senders say that they have a lane to the receiver. */
std::string senders_key(int to, int tag)
{
    return "thrum/senders/" + std::to_string(to) + "-" + std::to_string(tag) + "/";
}

void announce_sender(const StoreRef &store, int from, int to, int tag)
{
    std::string key = senders_key(to, tag), rank = std::to_string(from);
    int64_t number = store->add(key + "number", 1);

    store->set(key + std::to_string(number), std::vector<uint8_t>(rank.begin(), rank.end()));
}

} // namespace

std::shared_ptr<Lane> open_channel(const MessageGroup &group, int from, int to, int tag)
{
    LaneOptions options;
    bool receives = group.rank == to;
    std::string key = "thrum/messages/" + std::to_string(from) + "-" + std::to_string(to) + "-" +
                      std::to_string(tag);
    Pair pair{group.store, key, receives, receives ? from : to, group.timeout, group.lane};

    options.name = group.name + ", messages from rank " + std::to_string(from) +
                   " (0 here) to rank " + std::to_string(to) + " (1 here), tag " +
                   std::to_string(tag);
    options.rank = pair.rank;
    options.size = 2;
    options.timeout = group.timeout;
    options.scratch_bytes = kMessageScratchBytes;
    options.probes = receives;
    std::shared_ptr<Lane> lane = Lane::make(options);
    lane->join_later([=](const std::atomic<bool> &closing) {
        if (!receives)
            announce_sender(pair.store, from, to, tag);
        return meet_pair_by_store(pair, closing);
    });
    return lane;
}

/* ---- inboxes ---- */

std::shared_ptr<Inbox> Inbox::make(MessageGroup group, int tag)
{
    auto inbox = std::make_shared<Inbox>(std::move(group), tag);
    std::lock_guard<std::mutex> lock(live_inboxes_lock);

    live_inboxes.erase(
        std::remove_if(live_inboxes.begin(), live_inboxes.end(),
                       [](const std::weak_ptr<Inbox> &other) { return other.expired(); }),
        live_inboxes.end());
    live_inboxes.push_back(inbox);
    return inbox;
}

Inbox::Inbox(MessageGroup group, int tag) : group_(std::move(group)), tag_(tag) {}

Inbox::~Inbox()
{
    if (thread_.joinable())
        thread_.detach();
}

std::string Inbox::where() const
{
    return group_.name + ", messages to rank " + std::to_string(group_.rank) + ", tag " +
           std::to_string(tag_);
}

std::exception_ptr Inbox::refusal(thrum_status_t status, const Waiting &entry,
                                  const std::string &why) const
{
    return failure(status,
                   entry.work->describe() + ": " + where() + ": waiting for any rank: " + why);
}

/* Under lock_, as what follows until `settle`. */
Lane &Inbox::lane_of(int source)
{
    auto at = lanes_.find(source);

    if (at == lanes_.end())
        at = lanes_.emplace(source, open_channel(group_, source, group_.rank, tag_)).first;
    return *at->second;
}

/* One that has sent what nobody has asked for, each in turn; -1: none. Throws if one of them cannot send any more. */
int Inbox::find_sender()
{
    auto at = lanes_.upper_bound(last_);

    for (size_t i = 0; i < lanes_.size(); i++, ++at) {
        if (at == lanes_.end())
            at = lanes_.begin();
        if (at->second->has_message())
            return last_ = at->first;
    }
    return -1;
}

/* Fixes its place among the receives from that sender. It is issued without lock_: that may wait for the sender. */
Lane &Inbox::give(int source, const WorkRef &work, Issue issue)
{
    Lane &lane = lane_of(source);

    work->source_.store(source);
    lane.keep(work, std::move(issue));
    return lane;
}

/* What has got a lane, or must not wait any longer, goes to `left`. */
void Inbox::match(Left *left)
{
    while (!waiting_.empty()) {
        Waiting &first = waiting_.front();

        try {
            int source = first.source < 0 ? find_sender() : first.source;

            if (source < 0)
                return;
            (void)give(source, first.work, std::move(first.issue));
        } catch (const std::exception &error) {
            first.refusal = refusal(THRUM_ERR_SYSTEM, first, text_of(error));
        }
        left->push_back(std::move(first));
        waiting_.pop_front();
    }
}

void Inbox::refuse_all(thrum_status_t status, const std::string &why, Left *left)
{
    for (Waiting &entry : waiting_) {
        entry.refusal = refusal(status, entry, why);
        left->push_back(std::move(entry));
    }
    waiting_.clear();
}

/* The first waits for any source, and was called first. */
void Inbox::refuse_overdue(Left *left)
{
    std::string trouble = waiting_.empty() ? "" : group_.lane->trouble();

    if (!trouble.empty())
        refuse_all(THRUM_ERR_PEER_DEAD, trouble, left);
    while (!waiting_.empty() && waiting_.front().source < 0 &&
           Clock::now() >= waiting_.front().work->begun_ + group_.timeout) {
        Waiting &first = waiting_.front();
        std::string why = "nobody has sent a message within " +
                          std::to_string(group_.timeout.count()) + " ms" +
                          (undiscovered_.empty() ? "" : ": " + undiscovered_);

        first.refusal = refusal(THRUM_ERR_TIMEOUT, first, why);
        left->push_back(std::move(first));
        waiting_.pop_front();
        match(left); /* those behind it, that are not */
    }
}

/* Without lock_: tensors may go, and futures be completed. */
void Inbox::settle(Left left)
{
    for (Waiting &entry : left) {
        if (entry.refusal)
            entry.work->refuse(entry.refusal);
        entry.work->leave_inbox(entry.refusal ? *group_.lane : *entry.work->lane_);
        if (!entry.refusal)
            entry.work->lane_->issue_kept(nullptr);
    }
}

void Inbox::receive(const WorkRef &work, int source, Issue issue)
{
    Lane *lane = nullptr;
    Left left;

    {
        std::lock_guard<std::mutex> lock(lock_);
        if (stopping_)
            fail(THRUM_ERR_INVALID_USAGE, group_.name + " has been destroyed");
        if (source >= 0 && waiting_.empty()) {
            lane = &give(source, work, std::move(issue));
        } else {
            if (!running_)
                start();
            work->inbox_ = shared_from_this();
            work->waits_in_inbox_.store(true);
            waiting_.push_back({work, source, std::move(issue), nullptr});
            match(&left);
            arrived_.notify_one();
        }
    }
    if (lane)
        lane->issue_kept(work.get());
    settle(std::move(left));
}

bool Inbox::await(const Work &work, const Clock::time_point *until)
{
    auto pause = kShortestLook;

    for (int looks = 0;; looks++) {
        Left left;
        {
            std::lock_guard<std::mutex> lock(lock_);
            match(&left);
        }
        settle(std::move(left));
        if (!work.waits_in_inbox_.load(std::memory_order_acquire) || work.is_done())
            return true;
        if (until && Clock::now() >= *until)
            return false;
        if (looks < kEagerLooks) {
            sched_yield();
            continue;
        }
        std::this_thread::sleep_for(pause);
        pause = std::min(pause * 2, kLongestLook);
    }
}

/* ---- the thread of an inbox ---- */

/* Under lock_. Throws if there can be no more threads. */
void Inbox::start()
{
    if (thread_.joinable())
        thread_.join(); /* it has no more to do than to end */
    try {
        thread_ = std::thread([inbox = shared_from_this()] { inbox->run(); });
    } catch (const std::system_error &error) {
        fail(THRUM_ERR_SYSTEM, where() + ": no thread can be started: " + error.what());
    }
    running_ = true;
}

void Inbox::run()
{
    std::unique_lock<std::mutex> lock(lock_);
    auto pause = kShortestLook;
    Milliseconds ask = kShortestAsk;
    Clock::time_point asked{};

    while (!stopping_) {
        Left left;

        if (waiting_.empty()) {
            if (!arrived_.wait_for(lock, kInboxLingers,
                                   [this] { return !waiting_.empty() || stopping_; }))
                break;
            pause = kShortestLook;
            ask = kShortestAsk;
            continue;
        }
        match(&left);
        refuse_overdue(&left);
        lock.unlock();
        settle(std::move(left));
        if (Clock::now() >= asked + ask) {
            discover();
            asked = Clock::now();
            ask = std::min(ask * 2, kLongestAsk);
        }
        lock.lock();
        if (!stopping_)
            arrived_.wait_for(lock, pause);
        pause = std::min(pause * 2, kLongestLook);
    }
    running_ = false;
}

/* Senders that the store has and this rank has no lane for. It may block, which must not matter to those who wait. */
void Inbox::discover()
{
    std::string key = senders_key(group_.rank, tag_);

    {
        std::lock_guard<std::mutex> lock(lock_);
        if (lanes_.size() + 1 == static_cast<size_t>(group_.size))
            return; /* all are known */
    }
    try {
        while (undiscovered_.empty() &&
               group_.store->check({key + std::to_string(discovered_ + 1)})) {
            std::vector<uint8_t> value = group_.store->get(key + std::to_string(discovered_ + 1));
            int source = std::stoi(std::string(value.begin(), value.end()));
            std::lock_guard<std::mutex> lock(lock_);

            if (stopping_)
                return;
            (void)lane_of(source);
            discovered_++;
        }
    } catch (const std::exception &error) {
        undiscovered_ = "new senders cannot be found: " + text_of(error);
    }
}

void Inbox::stop()
{
    std::thread thread;
    Left left;

    if (group_.lane->is_foreign())
        return;
    {
        std::lock_guard<std::mutex> lock(lock_);
        stopping_ = true;
        refuse_all(THRUM_ERR_ABORTED, "the process group was destroyed before anybody sent", &left);
        thread.swap(thread_);
        arrived_.notify_all();
    }
    settle(std::move(left));
    if (thread.get_id() == std::this_thread::get_id())
        thread.detach(); /* a future dropped the process group */
    else if (thread.joinable())
        thread.join();
}

void Inbox::stop_all()
{
    std::vector<std::weak_ptr<Inbox>> all;

    {
        std::lock_guard<std::mutex> lock(live_inboxes_lock);
        all.swap(live_inboxes);
    }
    for (const auto &weak : all)
        if (std::shared_ptr<Inbox> inbox = weak.lock())
            inbox->stop();
}

std::vector<std::shared_ptr<Lane>> Inbox::lanes()
{
    std::vector<std::shared_ptr<Lane>> lanes;
    std::lock_guard<std::mutex> lock(lock_);

    for (const auto &entry : lanes_)
        lanes.push_back(entry.second);
    return lanes;
}

/* ---- what torch calls ---- */

std::shared_ptr<Lane> ProcessGroup::channel(int to, int tag)
{
    std::lock_guard<std::mutex> lock(messages_lock_);
    auto key = std::make_pair(to, tag);
    auto at = channels_.find(key);

    if (at == channels_.end())
        at = channels_.emplace(key, open_channel(messages_, rank_, to, tag)).first;
    return at->second;
}

std::shared_ptr<Inbox> ProcessGroup::inbox(int tag)
{
    std::lock_guard<std::mutex> lock(messages_lock_);
    std::shared_ptr<Inbox> &inbox = inboxes_[tag];

    if (!inbox)
        inbox = Inbox::make(messages_, tag);
    return inbox;
}

ProcessGroup::WorkPtr ProcessGroup::send(Tensors &tensors, int peer, int tag)
{
    const char *title = "thrum:send";
    Arguments arguments(title);
    at::Tensor own = arguments.read(one_tensor(title, tensors));
    Element element = element_of(title, own);

    check_rank(title, "destination", peer, size_);
    TORCH_CHECK_VALUE(peer != rank_, title, ": rank ", rank_, " cannot send to itself");
    auto work = c10::make_intrusive<Work>(rank_, c10d::OpType::SEND, title, Tensors{own},
                                          std::vector<Tensors>(), Milliseconds(0), nullptr);
    channel(peer, tag)->submit(work, [=](thrum_comm_t comm, Slot &slot) {
        return in_pieces(element, [&](char *at, size_t count) {
            return thrum_send(at, count, element.dtype, 1, comm, slot.queue);
        });
    });
    return work;
}

/* `source` -1: any. */
ProcessGroup::WorkPtr ProcessGroup::start_receive(const char *title, Tensors &tensors, int source,
                                                  int tag)
{
    Arguments arguments(title);
    at::Tensor given = one_tensor(title, tensors), own = arguments.written(given);
    Element element = element_of(title, own);
    auto work = c10::make_intrusive<Work>(
        rank_, source < 0 ? c10d::OpType::RECVANYSOURCE : c10d::OpType::RECV, title, Tensors{own},
        std::vector<Tensors>{{given}}, Milliseconds(0), arguments.finish());

    inbox(tag)->receive(work, source, [=](thrum_comm_t comm, Slot &slot) {
        return in_pieces(element, [&](char *at, size_t count) {
            return thrum_recv(at, count, element.dtype, 0, comm, slot.queue);
        });
    });
    return work;
}

ProcessGroup::WorkPtr ProcessGroup::recv(Tensors &tensors, int peer, int tag)
{
    const char *title = "thrum:recv";

    check_rank(title, "source", peer, size_);
    TORCH_CHECK_VALUE(peer != rank_, title, ": rank ", rank_, " cannot receive from itself");
    return start_receive(title, tensors, peer, tag);
}

ProcessGroup::WorkPtr ProcessGroup::recvAnysource(Tensors &tensors, int tag)
{
    return start_receive("thrum:recv", tensors, -1, tag);
}

} // namespace thrum_torch
